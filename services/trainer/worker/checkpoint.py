"""Weights put into the blob store: at intervals while training, and at the end."""

import shutil
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from services.common.blobs import BlobStore
from services.trainer.domain import ModelFile
from services.trainer.worker.methods import Trainee, save_weights


def store_weights(
    trainee: Trainee, blobs: BlobStore, scratch: Path, record: Mapping[str, str]
) -> tuple[ModelFile, ...]:
    """Saves what was trained and gives its files in the blob store, which has all of them, synced, or raises
    OSError."""
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="weights-"))
    try:
        files = []
        for path in save_weights(trainee, folder, record):
            digest, size = blobs.put_file(folder / path)
            files.append(ModelFile(path.as_posix(), digest, size))
        return tuple(files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Kept:
    """The latest `keep` checkpoints; the weights of older ones leave the blob store.

    Only files that carry this job's record in their header are removed: their bytes can be nobody else's. Configs,
    which other models may share, stay.
    """

    def __init__(self, blobs: BlobStore, keep: int) -> None:
        self._blobs = blobs
        self._keep = keep
        self._kept: deque[tuple[ModelFile, ...]] = deque()

    def add(self, files: tuple[ModelFile, ...]) -> None:
        self._kept.append(files)
        while len(self._kept) > self._keep:
            dropped = self._kept.popleft()
            needed = {file.sha256 for each in self._kept for file in each}
            for file in dropped:
                if carries_record(file) and file.sha256 not in needed:
                    self._blobs.delete(file.sha256)


def carries_record(file: ModelFile) -> bool:
    """True for files whose header names the job and the step, so that no other model has the same bytes."""
    return file.path.endswith(".safetensors")
