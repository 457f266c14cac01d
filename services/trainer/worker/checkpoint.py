"""Weights put into the blob store: at intervals while training, and at the end; and when."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from services.common.blobs import BlobStore
from services.trainer.domain import ModelFile
from services.trainer.worker.methods import Trainee, save_weights

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
