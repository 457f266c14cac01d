"""Pictures decoded ahead, in order and not too far; caches that are too large for memory."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from services.common.blobs import BlobStore
from services.trainer.worker import data, spool
from services.trainer.worker.data import AHEAD, ENCODED_AT_ONCE, BadImage, Item, read_pictures
from services.trainer.worker.spool import Spool
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, digests, house, last

__all__ = ["house"]  # a fixture
pytestmark = pytest.mark.usefixtures("accelerator")

SHADES = 40


@pytest.fixture
def items(blobs: BlobStore) -> list[Item]:
    """Pictures of one shade each, in order."""

    def made(shade: int) -> Item:
        data = io.BytesIO()
        Image.new("RGB", (20 + shade, 24), (shade, shade, shade)).save(data, "PNG")
        return Item(blobs.put(data.getvalue()), f"{shade}.png", "", 20 + shade, 24)

    return [made(shade) for shade in range(SHADES)]


def test_pictures_come_in_order_however_long_each_takes_to_decode(
    items: list[Item], blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = data.decode_item
    started: list[str] = []

    def slowly(item: Item, store: BlobStore) -> Any:
        started.append(item.filename)
        if item.filename in ("0.png", "9.png"):
            threading.Event().wait(0.1)
        return decode(item, store)

    monkeypatch.setattr(data, "decode_item", slowly)
    seen = 0
    for part, pictures in read_pictures(items, blobs, (16, 16), masked=True):
        assert part == range(seen, min(seen + ENCODED_AT_ONCE, SHADES))
        shades = ((pictures.pixels[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert shades == list(part)
        assert pictures.masks is not None
        assert pictures.masks.shape == (len(part), 1, 16, 16)
        seen = part.stop
        assert len(started) <= part.start + AHEAD, "no more lie decoded in memory"
    assert seen == SHADES


def test_the_first_picture_that_does_not_decode_is_named_and_no_thread_is_left(
    items: list[Item], blobs: BlobStore
) -> None:
    broken = blobs.put(b"no picture")
    spoilt = [replace(each, sha256=broken) if place in (19, 30) else each for place, each in enumerate(items)]
    with pytest.raises(BadImage, match=r"'19\.png'"):
        list(read_pictures(spoilt, blobs, (16, 16)))
    parts = read_pictures(items, blobs, (16, 16))
    next(parts)
    parts.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("decode")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [0, 100, 1 << 20])
def test_rows_in_a_file_are_those_that_were_put_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(spool, "KEPT_BYTES", kept)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, 3, 5, generator=generator).to(dtype) for count in (1, 4, 2)]
    parts[1] = parts[1].transpose(1, 2).contiguous().transpose(1, 2)  # not as it lies in memory
    made = Spool(tmp_path / "scratch")
    for part in parts:
        made.add(part)
    rows = made.build()
    assert torch.equal(rows, torch.cat(parts))
    chosen = torch.tensor([6, 0, 6])
    assert torch.equal(rows[chosen], torch.cat(parts)[chosen])
    assert (tmp_path / "scratch").exists() == (kept < (1 << 20))
    assert not list(tmp_path.rglob("*.*")), "the file has no name"


def test_caches_in_a_file_give_the_same_model_to_the_byte(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(epochs=2, random_flip=True, masked_loss=True, aspect_buckets=True)
    expected = last(house.reports(config))
    made: list[Spool] = []
    write = Spool._write

    def noted(self: Spool) -> None:
        made.append(self)
        write(self)

    monkeypatch.setattr(Spool, "_write", noted)
    monkeypatch.setattr(spool, "KEPT_BYTES", 0)
    assert digests(last(house.reports(config))) == digests(expected)
    assert len(set(map(id, made))) >= 3, "latents, masks and words"
    assert not [path for path in house.places.scratch.rglob("*") if path.is_file()]
