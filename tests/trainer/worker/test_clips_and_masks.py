"""Clips as a model that draws clips learns from them, and what of pictures counts."""

import numpy
import pytest
import torch
from PIL import Image

from services.common.blobs import BlobStore
from services.common.clips import probe
from services.common.errors import DataLoss
from services.trainer.worker.data import BadImage, ClipTooShort, Item, clip_frames, read_clips, read_pictures
from tests.clips_made import STEP, animation, film
from tests.pictures_made import encoded, solid


def clip(blobs: BlobStore, data: bytes, filename: str = "a.mp4") -> Item:
    info = probe(data)
    return Item(blobs.put(data), filename, "", info.width, info.height, info.num_frames, info.frames_per_second)


def numbers(clips: torch.Tensor) -> list[list[int]]:
    """Which frame of the clip each is, by its brightness."""
    return [[round(each) for each in row] for row in ((clips.mean(dim=(2, 3, 4)) + 1) * 127.5 / STEP).tolist()]


def test_a_run_of_frames_begins_where_it_is_told_at_the_rate_that_is_wanted(blobs: BlobStore) -> None:
    slow, fast = clip(blobs, film(10, 7)), clip(blobs, animation("GIF", 24, 20), "b.gif")
    starts = {"a.mp4": 3, "b.gif": 0}
    clips = read_clips(
        [slow, fast], blobs, (32, 32), num_frames=6, frames_per_second=7, start_of=lambda item: starts[item.filename]
    )
    assert (clips.shape, clips.dtype) == ((2, 6, 3, 32, 32), torch.float32)
    assert clips.min() >= -1
    assert clips.max() <= 1
    assert numbers(clips) == [[3, 4, 5, 6, 7, 8], [0, 2, 5, 8, 11, 14]]
    assert (clip_frames(slow, 7), clip_frames(fast, 7)) == (10, 9)


def test_every_run_that_fits_can_be_read(blobs: BlobStore) -> None:
    item = clip(blobs, film(9, 7))
    for start in range(clip_frames(item, 7) - 4 + 1):
        read = read_clips([item], blobs, (16, 16), num_frames=4, frames_per_second=7, start_of=lambda _, at=start: at)
        assert numbers(read) == [list(range(start, start + 4))]


def test_a_clip_that_is_too_short_is_named_with_what_it_has_and_what_is_needed(blobs: BlobStore) -> None:
    items = [clip(blobs, film(30, 7), "long.mp4"), clip(blobs, film(30, 30), "short.mp4")]
    with pytest.raises(ClipTooShort, match=r"'short\.mp4' has 7 frames at 7 a second; 14 are needed") as caught:
        read_clips(items, blobs, (16, 16), num_frames=14, frames_per_second=7)
    assert caught.value.reason == "CLIP_TOO_SHORT"
    with pytest.raises(ClipTooShort, match="from frame 20 on"):
        read_clips(items[:1], blobs, (16, 16), num_frames=14, frames_per_second=7, start_of=lambda item: 20)


def test_a_clip_that_is_gone_or_damaged_is_named(blobs: BlobStore) -> None:
    with pytest.raises(DataLoss, match=r"clip 'a\.mp4' are gone"):
        read_clips([Item("0" * 64, "a.mp4", "", 64, 48, 9, 7.0)], blobs, (16, 16), num_frames=2, frames_per_second=7)
    torn = Item(blobs.put(film()[:-99]), "a.mp4", "", 64, 48, 10, 10.0)
    with pytest.raises(BadImage, match=r"clip 'a\.mp4' does not decode"):
        read_clips([torn], blobs, (16, 16), num_frames=2, frames_per_second=7)
    short = Item(blobs.put(film(3)), "a.mp4", "", 64, 48, 30, 10.0)
    with pytest.raises(BadImage, match=r"clip 'a\.mp4' ends after 3 of 8 frames"):
        read_clips([short], blobs, (16, 16), num_frames=8, frames_per_second=10)


def masked(blobs: BlobStore, picture: Image.Image, mask: Image.Image | None) -> torch.Tensor:
    digest = blobs.put(encoded(mask)) if mask else ""
    item = Item(blobs.put(encoded(picture)), "a.png", "", *picture.size, mask_sha256=digest)
    masks = read_pictures([item], blobs, (32, 32), masked=True).masks
    assert masks is not None
    return masks[0, 0]


def test_a_mask_decides_what_counts_before_the_pictures_own_opacity(blobs: BlobStore) -> None:
    clear = solid("RGBA", (255, 0, 0, 0), (64, 32))
    right = solid("L", 0, (64, 32))
    right.paste(255, (32, 0, 64, 32))
    assert masked(blobs, clear, None).max() == 0
    counts = masked(blobs, clear, right)
    assert torch.equal(counts, torch.from_numpy(numpy.repeat([[0.0] * 16 + [1.0] * 16], 32, 0)).float())
    assert masked(blobs, solid("RGB", "red", (64, 32)), None).min() == 1


def test_a_mask_is_cropped_as_its_picture_is(blobs: BlobStore) -> None:
    middle = solid("L", 255, (64, 32))
    middle.paste(0, (0, 0, 16, 32))
    assert masked(blobs, solid("RGB", "red", (64, 32)), middle).min() == 1  # the black part is cropped away


def test_a_mask_that_is_gone_is_named(blobs: BlobStore) -> None:
    item = Item(blobs.put(encoded(solid("RGB", "red"))), "a.png", "", 32, 24, mask_sha256="0" * 64)
    with pytest.raises(DataLoss, match=r"'a\.png \(mask\)' are gone"):
        read_pictures([item], blobs, (16, 16), masked=True)
    assert read_pictures([item], blobs, (16, 16)).masks is None  # nobody asked for it
