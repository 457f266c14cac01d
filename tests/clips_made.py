"""Clips, made in memory with FFmpeg and Pillow: frame k is grey of the brightness 8 k."""

import io
from fractions import Fraction
from typing import TypeAlias

import av
import numpy
from PIL import Image

STEP = 8
Frames: TypeAlias = "numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]]"


def grey_frames(count: int, size: tuple[int, int] = (64, 48)) -> Frames:
    """(F, H, W, 3)."""
    width, height = size
    return numpy.stack([numpy.full((height, width, 3), place * STEP, numpy.uint8) for place in range(count)])


def film(
    count: int = 10,
    rate: float = 10,
    size: tuple[int, int] = (64, 48),
    *,
    codec: str = "libx264",
    format: str = "mp4",
    rotation: int = 0,
    frames: "Frames | None" = None,
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in grey_frames(count, size) if frames is None else frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def animation(format: str, count: int = 10, rate: float = 10, size: tuple[int, int] = (64, 48)) -> bytes:
    first, *rest = (Image.fromarray(frame) for frame in grey_frames(count, size))
    out = io.BytesIO()
    lossless = {"lossless": True} if format == "WEBP" else {}
    first.save(out, format, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0, **lossless)
    return out.getvalue()


def sound() -> bytes:
    """An MP4 without pictures."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = av.AudioFrame.from_ndarray(numpy.zeros((1, 4096), numpy.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    return out.getvalue()
