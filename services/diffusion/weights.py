"""Where weights come from: the blob store, an operator's folder, or a model hub. Pickles are never read."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition
from services.diffusion.families import get_family


class WeightsUnavailable(FailedPrecondition):
    """Weights that a model needs are not there, or cannot be read. The message names the file and says what to do."""

    default_reason = "WEIGHTS_UNAVAILABLE"


def materialise(model_files: Sequence[tuple[str, str]], blobs: BlobStore, cache_dir: Path) -> Path:
    """A diffusers folder of links to the blob store's files, made once for each set of files.

    `model_files` are (relative path, SHA-256 hex) pairs. The folder is written aside and renamed, so another process
    sees the whole folder or none. Raises WeightsUnavailable when a blob is gone or a path leaves the folder.
    """
    lines = "\n".join(f"{digest} {path}" for path, digest in sorted(model_files))
    folder = cache_dir / hashlib.sha256(lines.encode()).hexdigest()
    sources: list[tuple[PurePosixPath, Path]] = []
    for path, digest in model_files:
        if not blobs.exists(digest):
            raise WeightsUnavailable(f"the weights file {path} is not in the blob store (SHA-256 {digest})")
        sources.append((_inside(path), blobs.path(digest)))
    if _holds(folder, sources):
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    # One maker at a time, threads and processes alike: who looked while another was making would take the fresh folder
    # for one of an earlier time, and remove it from under its readers.
    with (cache_dir / ".making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _holds(folder, sources):
            _make(folder, sources)
    return folder


def _holds(folder: Path, sources: Sequence[tuple[PurePosixPath, Path]]) -> bool:
    return folder.is_dir() and all((folder / place).exists() for place, _ in sources)


def _make(folder: Path, sources: Sequence[tuple[PurePosixPath, Path]]) -> None:
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        for place, source in sources:
            target = aside / place
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source.resolve(), target)
        if folder.is_dir():  # links of an earlier time whose files are gone
            shutil.rmtree(folder)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def find_hub(repo_id: str, revision: str, cache_dir: Path, *, weights_dir: Path | None = None) -> Path | None:
    """The folder of a hub model that needs no network: the operator's own, or a download of an earlier time."""
    if weights_dir is not None and (own := weights_dir / _inside(repo_id)).is_dir():
        return own
    # huggingface_hub's layout of its cache; a whole download is marked by `fetch_hub`.
    snapshot = cache_dir / f"models--{repo_id.replace('/', '--')}" / "snapshots" / revision
    return snapshot if (cache_dir / _mark(repo_id, revision)).is_file() and snapshot.is_dir() else None


def fetch_hub(repo_id: str, revision: str, cache_dir: Path, *, family: str, weights_dir: Path | None = None) -> Path:
    """The folder of a hub model at a pinned revision: the operator's own where `weights_dir` has one, else downloaded.

    Only the family's safetensors, configs and tokenizer files are fetched. Raises as `fetch_files`.
    """
    return fetch_files(repo_id, revision, cache_dir, patterns=hub_files(family), weights_dir=weights_dir)


def fetch_files(
    repo_id: str, revision: str, cache_dir: Path, *, patterns: Sequence[str], weights_dir: Path | None = None
) -> Path:
    """The folder of a hub repository's files that match one of `patterns`, as `fetch_hub`. Raises WeightsUnavailable,
    which says how to provide the weights, when the hub is out of reach or refuses."""
    if (here := find_hub(repo_id, revision, cache_dir, weights_dir=weights_dir)) is not None:
        return here
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        place = f"{weights_dir}/{repo_id}" if weights_dir else f"ATELIER_WEIGHTS_DIR/{repo_id}"
        raise WeightsUnavailable(
            f"the weights of {repo_id} at revision {revision} could not be fetched from the hub"
            f" ({type(error).__name__}); connect this machine to the network, or put the model's folder"
            f" (safetensors) at {place}"
        ) from error
    (cache_dir / _mark(repo_id, revision)).touch()
    return Path(folder)


def hub_files(family: str) -> list[str]:
    """The file names of a hub repository that a family loads, one precision only."""
    names = ["model_index.json"]
    for part in get_family(family).parts:
        names += [f"{part.name}/*.json", f"{part.name}/*.txt"]
        if part.weights:  # whole, or in shards
            names += [f"{part.name}/{part.weights}", f"{part.name}/{Path(part.weights).stem}-*-of-*.safetensors"]
    return names


def _mark(repo_id: str, revision: str) -> str:
    return f"whole--{repo_id.replace('/', '--')}--{revision}"


def _inside(path: str) -> PurePosixPath:
    """`path` as a relative path that stays where it is put; it came over the network."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in path or "\x00" in path:
        raise WeightsUnavailable(f"the path {path!r} of a weights file leaves its folder")
    return pure


def _link(source: Path, target: Path) -> None:
    """A hard link, else a symbolic one, else a copy: the first that the file system allows."""
    ways: tuple[Callable[[Path, Path], object], ...] = (os.link, os.symlink, shutil.copyfile)
    for way in ways:
        try:
            way(source, target)
            return
        except OSError:
            if way is shutil.copyfile:
                raise
