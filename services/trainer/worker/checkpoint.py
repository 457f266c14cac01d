"""Weights put into the blob store: at intervals while training, and at the end; when, and for how long."""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.common.blobs import BlobStore
from services.trainer.domain import Checkpoint, ModelFile
from services.trainer.worker.methods import Trainee, save_weights

STATES_KEPT = 2
"""The latest, and the one before it in case that is damaged."""
LEAST_SECONDS = 60.0
MOST_SHARE = 0.02
"""Of the time that checkpoints may take where no interval is given."""


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
    """The latest `keep` checkpoints, `made` by earlier attempts or by this one: the weights of older ones leave the
    blob store, and so do the states of all but the latest two.

    Only files that carry this job's record in their header are removed: their bytes can be nobody else's. Configs,
    which other models may share, stay.
    """

    def __init__(self, blobs: BlobStore, keep: int, made: Sequence[Checkpoint] = ()) -> None:
        self._blobs = blobs
        self._keep = keep
        self._kept = deque(made)

    def add(self, checkpoint: Checkpoint) -> None:
        self._kept.append(checkpoint)
        dropped = [self._kept.popleft() for _ in range(len(self._kept) - self._keep)]
        needed = {file.sha256 for each in self._kept for file in each.files}
        needed |= {each.state.sha256 for each in list(self._kept)[-STATES_KEPT:] if each.state}
        for each in dropped:
            self._delete(each.files, needed)
        for each in [*dropped, *self._kept]:
            self._delete([each.state] if each.state else [], needed)

    def _delete(self, files: Sequence[ModelFile], needed: set[str]) -> None:
        for file in files:
            if carries_record(file) and file.sha256 not in needed:
                self._blobs.delete(file.sha256)


class Pace:
    """When a checkpoint is due: every `interval` steps, or, where that is None, as often as costs little; and at once
    when `pausing`. Never after the last step, when all is saved anyway."""

    def __init__(
        self,
        interval: int | None,
        *,
        last_step: int,
        pausing: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._last_step = last_step
        self._pausing = pausing
        self._clock = clock
        self._asked = 0
        self._due = 0  # the last step that was
        self._saved_at = clock()
        self._wait = LEAST_SECONDS
        self.stop_after: int | None = None
        """The step at which the job pauses."""

    def due(self, step: int) -> bool:
        """Asked for steps in order, and about those before again: the answer to each is given once and for all."""
        if step > self._asked:
            self._asked = step
            if step < self._last_step and (self._pausing() or self._time_has_come(step)):
                self._due = step
                self.stop_after = step if self._pausing() else None
        return step == self._due

    def saved(self, seconds: float) -> None:
        """A checkpoint has been made, in so many seconds."""
        self._saved_at = self._clock()
        self._wait = max(LEAST_SECONDS, seconds / MOST_SHARE)

    def _time_has_come(self, step: int) -> bool:
        if self._interval is not None:
            return step % self._interval == 0
        return self._clock() - self._saved_at >= self._wait


def carries_record(file: ModelFile) -> bool:
    """True for files whose header names the job and the step, so that no other model has the same bytes."""
    return file.path.endswith(".safetensors")
