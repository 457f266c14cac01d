"""TensorBoard's event files, read back record by record as TensorBoard reads them."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from services.common.blobs import BlobStore
from services.trainer.domain import Log, LogLevel, Sample, Validation
from services.trainer.worker.tracking import Tracker
from tests.trainer.made import progress


def events(folder: Path) -> list[Event]:
    """Of all files, in their order: length, its checksum, the message, its checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    }


def test_losses_rates_and_samples_are_written(tmp_path: Path, blobs: BlobStore) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(picture, "PNG")
    tracker = Tracker(tmp_path / "events", blobs)
    for report in (
        Log(LogLevel.INFO, "nothing to draw"),
        progress(1, loss=0.5),
        Validation(1, 0.25, 4, True),
        Sample(1, 0, "a cat", blobs.put(picture.getvalue()), 8, 4),
        progress(2, loss=0.75),
    ):
        tracker.note(report)
    tracker.close()
    found = scalars(tmp_path / "events")
    assert (found["loss/train", 1], found["loss/train", 2], found["loss/validation", 1]) == (0.5, 0.75, 0.25)
    assert found["learning_rate", 2] == pytest.approx(1e-4)
    images = [
        value for event in events(tmp_path / "events") for value in event.summary.value if value.HasField("image")
    ]
    assert [(each.tag, each.image.width, each.image.height) for each in images] == [("samples/0", 8, 4)]
    assert Image.open(io.BytesIO(images[0].image.encoded_image_string)).getpixel((0, 0)) == (255, 0, 0)


def test_an_attempt_that_goes_on_hides_what_the_last_one_did_after(tmp_path: Path, blobs: BlobStore) -> None:
    for steps in ((1, 2, 3), (2, 3, 4)):
        tracker = Tracker(tmp_path / "events", blobs)
        for step in steps:
            tracker.note(progress(step))
        tracker.close()
    starts = [event.step for event in events(tmp_path / "events") if event.HasField("session_log")]
    assert starts[-1] == 2, "TensorBoard drops what it knew from this step on"


def test_what_cannot_be_written_fails_no_job(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "file").write_text("in the way")
    tracker = Tracker(tmp_path / "file", blobs)
    said = [tracker.note(progress(step)) for step in (1, 2)]
    tracker.close()
    assert [each.level for each in said if each] == [LogLevel.WARNING], "once"
    assert said[0] is not None
    assert said[0].message.startswith("no TensorBoard events from here on: ")
