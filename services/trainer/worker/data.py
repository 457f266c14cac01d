"""A snapshot's pictures and clips: read from the blob store, decoded, scaled and cropped to what is trained on."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from services.common import clips
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition
from services.common.pictures import PictureRefused, decode_with_mask
from services.diffusion.geometry import scaled_to_cover

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


ENCODED_AT_ONCE = 8  # pictures or prompts; a CPU gains nothing from more, and a GPU's memory is spared
DECODERS = 2  # threads: a decoder keeps up with most encoders, two with a GPU's
AHEAD = 3 * ENCODED_AT_ONCE


class BadImage(FailedPrecondition):
    """A picture of the snapshot does not decode."""

    default_reason = "BAD_IMAGE"


class ClipTooShort(FailedPrecondition):
    """A clip of the snapshot has fewer frames than are learnt together."""

    default_reason = "CLIP_TOO_SHORT"


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
    mask_sha256: str = ""
    """Of a grey picture of the same size, white where it counts; empty: the picture's own opacity says it."""


@dataclass(frozen=True)
class Pictures:
    """(B, 3, H, W) float32 in [-1, 1], and where asked for what of them counts, (B, 1, H, W) in [0, 1]."""

    pixels: "torch.Tensor"
    masks: "torch.Tensor | None" = None


def read_pictures(
    items: Sequence[Item], blobs: BlobStore, size: tuple[int, int], *, masked: bool = False
) -> "Generator[tuple[range, Pictures], None, None]":
    """The pictures scaled and cropped to `size` (width, height), `ENCODED_AT_ONCE` at a time with their places;
    `masked`: with what of them counts, which is their mask's brightness where they have one, else their opacity, else
    1. They are decoded in threads, no more than a few parts ahead of what is asked for.

    Raises BadImage naming the first file that does not decode, and DataLoss (IMAGE_UNAVAILABLE) for one that is gone.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    import torch

    def read(item: Item) -> "tuple[Image, Image | None]":
        picture, alpha = decode_item(item, blobs)
        mask = (_mask(item, picture.size, blobs) or alpha) if masked else None
        return crop(picture, *size), None if mask is None else crop(mask, *size)

    threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
    ahead: deque[Future[tuple[Image, Image | None]]] = deque()
    waiting = iter(items)
    try:
        for part in in_parts(items):
            ahead.extend(threads.submit(read, item) for item in islice(waiting, AHEAD - len(ahead)))
            read_now = [ahead.popleft().result() for _ in part]
            pixels = torch.stack([to_tensor(picture) for picture, _ in read_now])
            masks = torch.stack([_opacity(mask, size) for _, mask in read_now]) if masked else None
            yield part, Pictures(pixels, masks)
    finally:
        threads.shutdown(cancel_futures=True)


def in_parts(things: Sequence[object], size: int = ENCODED_AT_ONCE) -> Iterator[range]:
    """The places of `things`, some at a time."""
    for start in range(0, len(things), size):
        yield range(start, min(start + size, len(things)))


def decode_item(item: Item, blobs: BlobStore) -> "tuple[Image, Image | None]":
    """The picture, RGB, and its opacity if it says any; of a clip its first frame. Raises as `read_pictures`."""
    if item.num_frames:
        with named(item, "clip"):
            return clips.first_frame(blobs.get(item.sha256)), None
    with named(item, "picture"):
        return decode_with_mask(blobs.get(item.sha256))


@contextmanager
def named(item: Item, kind: str) -> Iterator[None]:
    """Errors of reading it become ones that name it."""
    try:
        yield
    except BlobMissing as error:
        message = f"the bytes of the {kind} {item.filename!r} are gone (SHA-256 {item.sha256})"
        raise DataLoss(message, reason="IMAGE_UNAVAILABLE") from error
    except PictureRefused as error:
        raise BadImage(f"the {kind} {item.filename!r} does not decode: {error}") from error


def _mask(item: Item, size: tuple[int, int], blobs: BlobStore) -> "Image | None":
    """Grey, of the picture's size (width, height). Raises as `read_pictures`."""
    if not item.mask_sha256:
        return None
    of_mask = Item(item.mask_sha256, f"{item.filename} (mask)", "", *size)
    mask = decode_item(of_mask, blobs)[0].convert("L")
    return mask if mask.size == size else mask.resize(size)


def clip_parts(
    item: Item, blobs: BlobStore, size: tuple[int, int], *, num_frames: int, frames_per_second: float, at_once: int
) -> "Iterator[torch.Tensor]":
    """(up to `at_once`, 3, H, W) float32 in [-1, 1]: all frames of a clip in order at the rate, scaled and cropped to
    `size` (width, height).

    Raises ClipTooShort for one with fewer than `num_frames`, BadImage and DataLoss (IMAGE_UNAVAILABLE), each naming the
    file.
    """
    import torch

    count = clips.available(item.num_frames, item.frames_per_second, frames_per_second)
    if count < num_frames:
        message = f"the clip {item.filename!r} has {count} frames at {frames_per_second:g} a second"
        raise ClipTooShort(f"{message}; {num_frames} are learnt together")
    some: list[torch.Tensor] = []
    done = 0
    with named(item, "clip"):
        for frame in clips.frames(blobs.get(item.sha256), own_rate=item.frames_per_second, rate=frames_per_second):
            some.append(to_tensor(crop(frame, *size)))
            done += 1
            if len(some) == at_once or done == count:
                yield torch.stack(some)
                some = []
    if done < count:
        raise BadImage(f"the clip {item.filename!r} ends after {done} of {count} frames")


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
