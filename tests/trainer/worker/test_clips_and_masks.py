"""Clips as a model that draws clips learns from them, and what of pictures counts."""

import numpy
import pytest
import torch
from PIL import Image

from services.common.blobs import BlobStore
from services.common.clips import probe
from services.common.errors import DataLoss
from services.trainer.worker.data import BadImage, ClipTooShort, Item, clip_parts, read_pictures
from tests.clips_made import STEP, animation, film
from tests.pictures_made import encoded, solid


def clip(blobs: BlobStore, data: bytes, filename: str = "a.mp4") -> Item:
    info = probe(data)
    return Item(blobs.put(data), filename, "", info.width, info.height, info.num_frames, info.frames_per_second)


def parts(item: Item, blobs: BlobStore, num_frames: int = 2, rate: float = 7) -> list[torch.Tensor]:
    read = clip_parts(item, blobs, (32, 32), num_frames=num_frames, frames_per_second=rate, at_once=4)
    return list(read)


def numbers(frames: torch.Tensor) -> list[int]:
    """Which frame of the clip each is, by its brightness."""
    return [round(each) for each in ((frames.mean(dim=(1, 2, 3)) + 1) * 127.5 / STEP).tolist()]


def test_all_frames_come_in_order_at_the_rate_that_is_wanted_some_at_a_time(blobs: BlobStore) -> None:
    slow, fast = clip(blobs, film(10, 7)), clip(blobs, animation("GIF", 24, 20), "b.gif")
    read = parts(slow, blobs)
    assert [tuple(part.shape) for part in read] == [(4, 3, 32, 32), (4, 3, 32, 32), (2, 3, 32, 32)]
    frames = torch.cat(read)
    assert frames.dtype == torch.float32
    assert frames.min() >= -1
    assert frames.max() <= 1
    assert numbers(frames) == list(range(10))
    assert numbers(torch.cat(parts(fast, blobs))) == [0, 2, 5, 8, 11, 14, 17, 20, 22]


def test_a_clip_that_is_too_short_is_named_with_what_it_has_and_what_is_needed(blobs: BlobStore) -> None:
    with pytest.raises(
        ClipTooShort, match=r"'short\.mp4' has 7 frames at 7 a second; 14 are learnt together"
    ) as caught:
        parts(clip(blobs, film(30, 30), "short.mp4"), blobs, 14)
    assert caught.value.reason == "CLIP_TOO_SHORT"


def test_a_clip_that_is_gone_or_damaged_is_named(blobs: BlobStore) -> None:
    with pytest.raises(DataLoss, match=r"clip 'a\.mp4' are gone"):
        parts(Item("0" * 64, "a.mp4", "", 64, 48, 9, 7.0), blobs)
    torn = Item(blobs.put(film()[:-99]), "a.mp4", "", 64, 48, 10, 10.0)
    with pytest.raises(BadImage, match=r"clip 'a\.mp4' does not decode"):
        parts(torn, blobs)
    short = Item(blobs.put(film(3)), "a.mp4", "", 64, 48, 30, 10.0)
    with pytest.raises(BadImage, match=r"clip 'a\.mp4' ends after 3 of 30 frames"):
        parts(short, blobs, 8, 10)


def masked(blobs: BlobStore, picture: Image.Image, mask: Image.Image | None) -> torch.Tensor:
    digest = blobs.put(encoded(mask)) if mask else ""
    item = Item(blobs.put(encoded(picture)), "a.png", "", *picture.size, mask_sha256=digest)
    ((_, pictures),) = read_pictures([item], blobs, (32, 32), masked=True)
    assert pictures.masks is not None
    return pictures.masks[0, 0]


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
        list(read_pictures([item], blobs, (16, 16), masked=True))
    ((_, pictures),) = read_pictures([item], blobs, (16, 16))
    assert pictures.masks is None  # nobody asked for it
