"""TensorBoard's event files of a job: losses, rates, speed, memory and samples, beside what the Trainer stores.

Written by `tensorboardX`, which makes the same files as TensorBoard itself and is not a second web server.
"""

from pathlib import Path
from typing import Any

from services.common.blobs import BlobStore
from services.trainer.domain import Log, LogLevel, Progress, Report, Sample, Validation

FLUSH_SECONDS = 10


class Tracker:
    """Writes what is reported into `folder`, one a job. No job fails for what it cannot write."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs
        self._writer: Any = None
        self._broken = False

    def note(self, report: Report) -> Log | None:
        """Takes in one report; most are none of its business. Gives what the job's log shall say, once, where it cannot
        be written."""
        if self._broken or not isinstance(report, Progress | Validation | Sample):
            return None
        try:
            self._write(report)
        except Exception as error:  # a full disk, most of all
            self._broken = True
            return Log(LogLevel.WARNING, f"no TensorBoard events from here on: {error}")
        return None

    def close(self) -> Log | None:
        """Writes what is left. As `note`."""
        if self._writer is not None and not self._broken:
            self._writer.close()
        return None

    def _write(self, report: Progress | Validation | Sample) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # it has no types

            # What an earlier attempt wrote from this step on is hidden: it is done again.
            self._writer = SummaryWriter(str(self._folder), purge_step=report.step, flush_secs=FLUSH_SECONDS)
        match report:
            case Progress():
                for name, value in scalars(report).items():
                    self._writer.add_scalar(name, value, report.step)
            case Validation():
                self._writer.add_scalar("loss/validation", report.loss, report.step)
            case Sample():
                self._writer.add_image(f"samples/{report.index}", self._pixels(report), report.step, dataformats="HWC")

    def _pixels(self, sample: Sample) -> Any:
        import io

        import numpy
        from PIL import Image

        with Image.open(io.BytesIO(self._blobs.get(sample.sha256))) as picture:
            return numpy.asarray(picture.convert("RGB"))


def scalars(progress: Progress) -> dict[str, float]:
    """What is plotted of a step."""
    return {
        "loss/train": progress.loss,
        "loss/smoothed": progress.smoothed_loss,
        "learning_rate": progress.learning_rate,
        "gradient_norm": progress.grad_norm,
        "images_per_second": progress.images_per_second,
        "memory_bytes": progress.memory_bytes,
    }
