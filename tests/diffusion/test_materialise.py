"""A model's folder of links is made once, however many ask for it at once."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Barrier

import pytest

from services.common.blobs import BlobStore
from services.diffusion import weights
from services.diffusion.weights import materialise


def test_many_who_ask_at_once_get_one_whole_folder(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, random = weights._link, Random(0)

    def link_slowly(source: Path, target: Path) -> None:
        time.sleep(random.uniform(0, 0.002))  # so that makers, if there were several, would end one after another
        link(source, target)

    monkeypatch.setattr(weights, "_link", link_slowly)
    contents = {f"part{index}/file.json": f"content {index}".encode() for index in range(30)}
    files = [(path, blobs.put(content)) for path, content in contents.items()]
    assert all(digest == hashlib.sha256(contents[path]).hexdigest() for path, digest in files)
    for attempt in range(10):
        cache, start = tmp_path / f"cache{attempt}", Barrier(8)

        def ask(_: int, cache: Path = cache, start: Barrier = start) -> Path:
            start.wait()
            folder = materialise(files, blobs, cache)
            assert all((folder / path).read_bytes() == content for path, content in contents.items())
            return folder

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(ask, range(8)))) == 1


def test_a_folder_that_lost_a_file_is_made_again(blobs: BlobStore, tmp_path: Path) -> None:
    files = [("a.json", blobs.put(b"a")), ("b.json", blobs.put(b"b"))]
    folder = materialise(files, blobs, tmp_path)
    (folder / "a.json").unlink()
    assert materialise(files, blobs, tmp_path) == folder
    assert (folder / "a.json").read_bytes() == b"a"
