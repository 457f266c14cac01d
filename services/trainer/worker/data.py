"""A snapshot's pictures: read from the blob store, decoded, scaled and cropped to the sizes that are trained on."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition
from services.common.pictures import PictureRefused, decode_with_mask

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


ENCODED_AT_ONCE = 8  # pictures or prompts; a CPU gains nothing from more, and a GPU's memory is spared
DECODERS = 2  # threads: a decoder keeps up with most encoders, two with a GPU's
AHEAD = 3 * ENCODED_AT_ONCE


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


@dataclass(frozen=True)
class Pictures:
    """(B, 3, H, W) float32 in [-1, 1], and where asked for what of them counts, (B, 1, H, W) in [0, 1]."""

    pixels: "torch.Tensor"
    masks: "torch.Tensor | None" = None


def read_pictures(
    items: Sequence[Item], blobs: BlobStore, size: tuple[int, int], *, masked: bool = False
) -> "Generator[tuple[range, Pictures], None, None]":
    """The pictures scaled and cropped to `size` (width, height), `ENCODED_AT_ONCE` at a time with their places;
    `masked`: with their opacity, 1 where they say none. They are decoded in threads, no more than a few parts ahead of
    what is asked for.

    Raises BadImage naming the first file that does not decode, and DataLoss (IMAGE_UNAVAILABLE) for one that is gone.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    import torch

    def read(item: Item) -> "tuple[Image, Image | None]":
        picture, alpha = decode_item(item, blobs)
        return crop(picture, *size), None if alpha is None or not masked else crop(alpha, *size)

    threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
    ahead: deque[Future[tuple[Image, Image | None]]] = deque()
    waiting = iter(items)
    try:
        for part in in_parts(items):
            ahead.extend(threads.submit(read, item) for item in islice(waiting, AHEAD - len(ahead)))
            read_now = [ahead.popleft().result() for _ in part]
            pixels = torch.stack([to_tensor(picture) for picture, _ in read_now])
            masks = torch.stack([_opacity(alpha, size) for _, alpha in read_now]) if masked else None
            yield part, Pictures(pixels, masks)
    finally:
        threads.shutdown(cancel_futures=True)


def in_parts(things: Sequence[object], size: int = ENCODED_AT_ONCE) -> Iterator[range]:
    """The places of `things`, some at a time."""
    for start in range(0, len(things), size):
        yield range(start, min(start + size, len(things)))


def decode_item(item: Item, blobs: BlobStore) -> "tuple[Image, Image | None]":
    """The picture, RGB, and its opacity if it says any. Raises as `read_pictures`."""
    try:
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

    wide, high = picture.size
    scale = max(width / wide, height / high)
    if scale != 1:
        wide, high = max(width, round(wide * scale)), max(height, round(high * scale))
        picture = picture.resize((wide, high), Resampling.LANCZOS, reducing_gap=3.0)
    left, top = (wide - width) // 2, (high - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _opacity(alpha: "Image | None", size: tuple[int, int]) -> "torch.Tensor":
    """(1, H, W) in [0, 1] of a cropped opacity."""
    import numpy
    import torch

    width, height = size
    if alpha is None:
        return torch.ones(1, height, width)
    return torch.from_numpy(numpy.array(alpha))[None].float() / 255


def to_tensor(picture: "Image") -> "torch.Tensor":
    """(3, H, W) float32 in [-1, 1] of an RGB picture."""
    import numpy
    import torch

    pixels = torch.from_numpy(numpy.array(picture))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
