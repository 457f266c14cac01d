"""Clips: what they are, their frames at a wanted rate, and clips made of frames. Decoding is in `clip_readers`."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

from services.common.clip_readers import Format, open_clip, refused, too_long

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

MAX_BYTES = 50 * 1024 * 1024
MAX_FRAMES = 3000
"""Two minutes at the rate of films."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a clip may have at most."""

    max_bytes: int = MAX_BYTES
    max_frames: int = MAX_FRAMES


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a clip is: `width` and `height` in pixels, upright; the rate is the mean over all of it."""

    format: Format
    width: int
    height: int
    num_frames: int
    frames_per_second: float


def probe(data: bytes, limits: Limits = LIMITS) -> ClipInfo:
    """What `data` is, once it has been decoded to its last frame.

    Raises PictureRefused: EMPTY, TOO_MANY_BYTES, UNSUPPORTED_FORMAT (by content: stills, other containers and codecs),
    TOO_MANY_PIXELS or TOO_SMALL (told by the header), CORRUPT. Too many frames are TOO_MANY_PIXELS in all.
    """
    if len(data) > limits.max_bytes:
        raise refused("TOO_MANY_BYTES", f"{len(data)} bytes exceed the limit of {limits.max_bytes}")
    clip = open_clip(data)
    with closing(clip):
        clip.limit(limits.max_frames)
        size = (0, 0)
        count = 0
        for frame in clip.frames():
            count += 1
            if count > limits.max_frames:
                raise too_long(count, limits.max_frames)
            size = size if count > 1 else frame.size
        rate = clip.rate(count)
    if count < 2:
        raise refused("UNSUPPORTED_FORMAT", f"is a {clip.format.upper()} of {count} frames; a clip has 2 at least")
    return ClipInfo(clip.format, *size, count, rate)


def frames(data: bytes, *, own_rate: float = 0.0, rate: float = 0.0, start: int = 0) -> "Iterator[Image]":
    """A clip's frames, RGB, upright, one at a time: all of them, or `rate` a second of a clip that has `own_rate`, from
    the one with the number `start` among these. See `available` for which they are. Raises PictureRefused.
    """
    clip = open_clip(data)
    with closing(clip):
        step = _step(own_rate, rate)
        wanted = start
        # A frame that is not wanted is decoded, since later ones build on it, and not converted.
        for place, frame in enumerate(clip.frames()):
            if place == math.floor(wanted * step):
                yield frame.rgb()
                wanted += 1


def first_frame(data: bytes) -> "Image":
    """Raises PictureRefused."""
    for frame in islice(frames(data), 1):
        return frame
    raise refused("CORRUPT", "is damaged: it has no frame")


def available(num_frames: int, own_rate: float, rate: float) -> int:
    """How many frames a clip has at `rate` a second. One of a higher rate is thinned: of its frames 0, 1, 2, ... those
    with the numbers floor(k * own_rate / rate) are taken. One of a lower rate keeps its frames, each once: repeating
    them would teach a model to stutter.
    """
    return math.ceil(num_frames / _step(own_rate, rate))


def _step(own_rate: float, rate: float) -> Fraction:
    """Exact, so that what is counted here is what comes there."""
    if own_rate <= 0 or rate <= 0:
        return Fraction(1)
    return max(Fraction(1), Fraction(own_rate).limit_denominator(1000) / Fraction(rate).limit_denominator(1000))


def encode_webp_animation(
    frames: "numpy.ndarray[Any, Any]", frames_per_second: float, *, quality: int = 90, exif: bytes = b""
) -> bytes:
    """An animated WebP, repeated for ever, of (F, H, W, 3) uint8 frames, two at least. Of `quality` 100 it is
    lossless."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    ends = [round(1000 * (place + 1) / frames_per_second) for place in range(len(frames))]
    millis = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]  # whole, and right in their sum
    out = io.BytesIO()
    first.save(
        out,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=millis,
        loop=0,
        quality=quality,
        lossless=quality == 100,
        method=4,
        exif=exif,
    )
    return out.getvalue()


def encode_mp4(
    frames: "numpy.ndarray[Any, Any]",
    frames_per_second: float,
    *,
    quality: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """An MP4 (H.264, 4:2:0, as every browser plays it) of (F, H, W, 3) uint8 frames. `quality` is x264's constant rate
    factor: lower is better. An odd side loses its last row: 4:2:0 has none. `metadata` are tags that MP4 knows:
    `title`, `comment`, `description`."""
    import av

    height, width = (side - side % 2 for side in frames.shape[1:3])
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        container.metadata.update(metadata or {})
        rate = Fraction(frames_per_second).limit_denominator(1000)
        # Equal frames become equal bytes on any machine: x264's macroblock tree looks beyond the edges of small frames,
        # where anything may lie, and what several threads make hangs on how many there are.
        options = {"crf": str(quality), "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame[:height, :width].copy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()
