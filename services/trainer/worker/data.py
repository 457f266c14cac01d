"""A snapshot's pictures: read from the blob store, decoded, scaled and cropped to squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition
from services.common.pictures import PictureRefused, decode_rgb

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class BadImage(FailedPrecondition):
    """A picture of the snapshot does not decode."""

    default_reason = "BAD_IMAGE"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the snapshot's manifest."""

    sha256: str
    filename: str
    caption: str
    width: int
    height: int


def read_pictures(items: Sequence[Item], blobs: BlobStore, resolution: int) -> "torch.Tensor":
    """(B, 3, R, R) float32 in [-1, 1].

    Raises BadImage naming the file that does not decode, and DataLoss (IMAGE_UNAVAILABLE) for one that is gone.
    """
    import torch

    return torch.stack([_read(item, blobs, resolution) for item in items])


def _read(item: Item, blobs: BlobStore, resolution: int) -> "torch.Tensor":
    try:
        picture = decode_rgb(blobs.get(item.sha256))
    except BlobMissing as error:
        message = f"the bytes of the picture {item.filename!r} are gone (SHA-256 {item.sha256})"
        raise DataLoss(message, reason="IMAGE_UNAVAILABLE") from error
    except PictureRefused as error:
        raise BadImage(f"the picture {item.filename!r} does not decode: {error}") from error
    return to_tensor(crop_square(picture, resolution))


def needs_enlarging(item: Item, resolution: int) -> bool:
    """True for a picture whose short side has fewer pixels than the square: it will be blurred."""
    return min(item.width, item.height) < resolution


def crop_square(picture: "Image", side: int) -> "Image":
    """The middle of `picture`, its short side scaled to `side` pixels with an antialiasing filter. One that fits
    already keeps its pixels; a smaller one is enlarged, since every picture of a batch has one size."""
    from PIL.Image import Resampling

    width, height = picture.size
    if min(width, height) != side:
        scale = side / min(width, height)
        width, height = max(side, round(width * scale)), max(side, round(height * scale))
        picture = picture.resize((width, height), Resampling.LANCZOS, reducing_gap=3.0)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def to_tensor(picture: "Image") -> "torch.Tensor":
    """(3, H, W) float32 in [-1, 1] of an RGB picture."""
    import numpy
    import torch

    pixels = torch.from_numpy(numpy.array(picture))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
