"""The decoders behind services.common.clips: MP4 and WebM through FFmpeg, GIF and animated WebP through Pillow.

A clip is decoded a frame at a time, with one thread of the decoder, and what it may take is checked before: the size
that its header tells, and again by the decoder whenever a stream changes its size on the way.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from services.common.pictures import MIN_SIDE, PictureRefused

if TYPE_CHECKING:
    import av.container
    import PIL.Image
    from PIL.Image import Image

Format = Literal["mp4", "webm", "gif", "webp"]
MAX_PIXELS = 4096 * 2304
"""Of a frame. A decoder keeps a score of them, of 1.5 bytes a pixel."""
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")
"""What is decoded; of all others that FFmpeg reads, none is needed and each would be one more that can be attacked."""

_DEMUXERS = {"mp4": "mov", "webm": "matroska"}
# Animations that leave the time of a frame out, or make it shorter than this, are shown at 10 a second by browsers.
_SHORTEST_MILLIS, _USUAL_MILLIS = 11, 100
_TURNS = {90: "ROTATE_90", 180: "ROTATE_180", 270: "ROTATE_270"}


def sniff(data: bytes) -> Format:
    """Which kind of clip these bytes begin as. Raises PictureRefused: EMPTY, UNSUPPORTED_FORMAT."""
    if not data:
        raise refused("EMPTY", "the file is empty")
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
        return "mp4"  # QuickTime's .mov is of the same make, and is taken for one
    if data[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in data[:64]:
        return "webm"
    if data[:4] == b"GIF8":
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise refused("UNSUPPORTED_FORMAT", "is not a clip by its content: MP4, WebM, GIF and animated WebP are taken")


def open_clip(data: bytes) -> "Film | Animation":
    format = sniff(data)
    return Film(data, format) if format in _DEMUXERS else Animation(data, format)


@dataclass(frozen=True)
class Frame:
    """A frame as its decoder has it."""

    size: tuple[int, int]
    rgb: Any


class Film:
    """MP4 or WebM: the first stream of pictures in it, through FFmpeg."""

    def __init__(self, data: bytes, format: Format) -> None:
        import av

        self.format = format
        if not _is_whole(data, format):
            raise refused("CORRUPT", "is damaged: it ends before its end")
        limit = {"max_pixels": str(MAX_PIXELS)}  # also while FFmpeg looks at the first frames to tell what they are
        try:
            # The demuxer is named: FFmpeg's guess might be one that opens other files.
            self._container = av.open(io.BytesIO(data), "r", format=_DEMUXERS[format], options=limit)
        except (av.FFmpegError, ValueError, OSError) as error:
            message = f"is damaged: its {format.upper()} header cannot be read ({_words(error)})"
            raise refused("CORRUPT", message) from error
        try:
            self._stream = self._checked(self._container)
        except BaseException:
            self._container.close()
            raise

    def _checked(self, container: "av.container.InputContainer") -> Any:
        if not container.streams.video:
            raise refused("UNSUPPORTED_FORMAT", f"is a {self.format.upper()} without pictures")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.codec.canonical_name not in CODECS:
            named = ", ".join(CODECS)
            message = f"is coded as {context.codec.canonical_name}; {named} are taken"
            raise refused("UNSUPPORTED_FORMAT", message)
        if not context.width:  # the decoder has refused it before telling
            raise refused("CORRUPT", f"is damaged, or a frame of it exceeds the limit of {MAX_PIXELS} pixels")
        _check_size(context.width, context.height)
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1  # each thread would keep frames of its own
        return stream

    def limit(self, max_frames: int) -> None:
        """Raises PictureRefused where the header tells of more."""
        if self._stream.frames > max_frames:
            raise too_long(self._stream.frames, max_frames)

    def frames(self) -> Iterator[Frame]:
        import av

        try:
            for frame in self._container.decode(self._stream):
                if frame.is_corrupt:
                    raise refused("CORRUPT", "is damaged: it does not decode to its end")
                yield self._upright(frame)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise refused("CORRUPT", f"is damaged: it does not decode to its end ({_words(error)})") from error

    def _upright(self, frame: Any) -> Frame:
        turn = frame.rotation % 360  # counter-clockwise, as Pillow counts
        size = (frame.height, frame.width) if turn in (90, 270) else (frame.width, frame.height)

        def rgb() -> "PIL.Image.Image":
            from PIL import Image

            picture: Image.Image = frame.to_image()
            return picture.transpose(Image.Transpose[_TURNS[turn]]) if turn in _TURNS else picture

        return Frame(size, rgb)

    def rate(self, num_frames: int) -> float:
        """Frames a second: what the container says on average, else how long it lasts."""
        if self._stream.average_rate:
            return float(self._stream.average_rate)
        seconds = (self._container.duration or 0) / 1_000_000
        return num_frames / seconds if seconds > 0 else float(1000 / _USUAL_MILLIS)

    def close(self) -> None:
        self._container.close()


class Animation:
    """GIF or WebP, through Pillow, which keeps one canvas."""

    def __init__(self, data: bytes, format: Format) -> None:
        from PIL import Image

        self.format = format
        self._millis = 0.0
        Image.MAX_IMAGE_PIXELS = None  # ours is checked below, and names its rule
        try:
            self._image: Any = Image.open(io.BytesIO(data), formats=[format.upper()])
        except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged header
            raise refused("CORRUPT", f"is damaged: its {format.upper()} header cannot be read") from error
        _check_size(*self._image.size)

    def limit(self, max_frames: int) -> None:
        """As for a film. Counting decodes nothing."""
        try:
            count = int(self._image.n_frames)
        except Exception as error:  # as above
            raise refused("CORRUPT", "is damaged: its frames cannot be counted") from error
        if count == 1:
            raise refused("UNSUPPORTED_FORMAT", f"is a still {self.format.upper()}; clips are taken here")
        if count > max_frames:
            raise too_long(count, max_frames)

    def frames(self) -> Iterator[Frame]:
        for place in range(int(getattr(self._image, "n_frames", 1))):
            try:
                self._image.seek(place)
                _check_size(*self._image.size)  # a GIF's later frame may be larger than it said
                self._image.load()
            except PictureRefused:
                raise
            except Exception as error:  # as above: a damaged body may raise anything
                raise refused("CORRUPT", f"is damaged: it does not decode to its end ({error})") from error
            millis = self._image.info.get("duration", 0)
            self._millis += millis if millis >= _SHORTEST_MILLIS else _USUAL_MILLIS
            yield Frame(self._image.size, lambda: _over_white(self._image))

    def rate(self, num_frames: int) -> float:
        return 1000 * num_frames / self._millis

    def close(self) -> None:
        self._image.close()


def _is_whole(data: bytes, format: Format) -> bool:
    """Whether the outermost parts of a file end within it, where they tell: FFmpeg itself takes a file that was cut off
    for a shorter one."""
    if format == "mp4":
        place = 0
        while place + 8 <= len(data):  # boxes: 4 bytes of size, 4 of name, 8 more of size where it says 1
            size = int.from_bytes(data[place : place + 4], "big")
            if size == 1:
                size = int.from_bytes(data[place + 8 : place + 16], "big")
            if size == 0:  # to the end of the file
                return True
            place += max(size, 8)
        return place <= len(data)
    place = data.find(b"\x18\x53\x80\x67", 0, 4096) + 4  # the segment, in which all else is
    if place < 4 or place >= len(data) or not data[place]:
        return True  # FFmpeg will say what it is
    length = 9 - data[place].bit_length()
    size = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    unknown = (1 << 7 * length) - 1  # as who records live writes it
    return size == unknown or place + length + size <= len(data)


def _over_white(image: "Image") -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"{width} x {height} is {width * height} pixels a frame; the limit is {MAX_PIXELS}"
        raise refused("TOO_MANY_PIXELS", message)
    if min(width, height) < MIN_SIDE:
        message = f"{width} x {height} is too small; {MIN_SIDE} pixels a side at least"
        raise refused("TOO_SMALL", message)


def too_long(count: int, limit: int) -> PictureRefused:
    return refused("TOO_MANY_PIXELS", f"{count} frames exceed the limit of {limit}: cut it into shorter clips")


def refused(reason: str, message: str) -> PictureRefused:
    return PictureRefused(message, reason=reason)


def _words(error: BaseException) -> str:
    """What FFmpeg says, without its number."""
    return getattr(error, "strerror", None) or str(error)
