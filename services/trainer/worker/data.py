"""A snapshot's pictures: read from the blob store, decoded, scaled and cropped to the sizes that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.blobs import BlobMissing, BlobStore
from services.common.clips import first_frame
from services.common.errors import DataLoss, FailedPrecondition
from services.common.pictures import PictureRefused, decode_with_mask
from services.diffusion.geometry import scaled_to_cover

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
    num_frames: int = 0
    """Of a clip; 0 for a picture."""
    frames_per_second: float = 0.0


@dataclass(frozen=True)
class Pictures:
    """(B, 3, H, W) float32 in [-1, 1], and where asked for what of them counts, (B, 1, H, W) in [0, 1]."""

    pixels: "torch.Tensor"
    masks: "torch.Tensor | None" = None


def read_pictures(
    items: Sequence[Item], blobs: BlobStore, size: tuple[int, int], *, masked: bool = False
) -> "Pictures":
    """The pictures scaled and cropped to `size` (width, height); `masked`: with their opacity, 1 where they say none.

    Raises BadImage naming the file that does not decode, and DataLoss (IMAGE_UNAVAILABLE) for one that is gone.
    """
    import torch

    pixels, masks = [], []
    for item in items:
        picture, alpha = decode_item(item, blobs)
        pixels.append(to_tensor(crop(picture, *size)))
        if masked:
            masks.append(_opacity(alpha, size))
    return Pictures(torch.stack(pixels), torch.stack(masks) if masked else None)


def decode_item(item: Item, blobs: BlobStore) -> "tuple[Image, Image | None]":
    """The picture, RGB, and its opacity if it says any; of a clip its first frame. Raises as `read_pictures`."""
    try:
        if item.num_frames:
            return first_frame(blobs.get(item.sha256)), None
        return decode_with_mask(blobs.get(item.sha256))
    except BlobMissing as error:
        message = f"the bytes of the picture {item.filename!r} are gone (SHA-256 {item.sha256})"
        raise DataLoss(message, reason="IMAGE_UNAVAILABLE") from error
    except PictureRefused as error:
        raise BadImage(f"the picture {item.filename!r} does not decode: {error}") from error


def needs_enlarging(item: Item, resolution: int) -> bool:
    """True for a picture whose short side has fewer pixels than the square: it will be blurred."""
    return min(item.width, item.height) < resolution


def crop(picture: "Image", width: int, height: int) -> "Image":
    """The middle of `picture`, scaled with an antialiasing filter to just cover `width` x `height` pixels. One that
    fits already keeps its pixels; a smaller one is enlarged, since every picture of a batch has one size."""
    from PIL.Image import Resampling

    wide, high = scaled_to_cover(*picture.size, (width, height))
    if (wide, high) != picture.size:
        picture = picture.resize((wide, high), Resampling.LANCZOS, reducing_gap=3.0)
    left, top = (wide - width) // 2, (high - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _opacity(alpha: "Image | None", size: tuple[int, int]) -> "torch.Tensor":
    """(1, H, W) in [0, 1]."""
    import numpy
    import torch

    width, height = size
    if alpha is None:
        return torch.ones(1, height, width)
    return torch.from_numpy(numpy.array(crop(alpha, width, height)))[None].float() / 255


def to_tensor(picture: "Image") -> "torch.Tensor":
    """(3, H, W) float32 in [-1, 1] of an RGB picture."""
    import numpy
    import torch

    pixels = torch.from_numpy(numpy.array(picture))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
