"""What is an image, and what are its pixels: every upload is inspected here, and every trainer decodes here."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from services.common.errors import InvalidArgument

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 50 * 1024 * 1024
MAX_PIXELS = 64_000_000
MIN_SIDE = 16

Format = Literal["jpeg", "png", "webp"]

_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"WEBP", 8, "webp"),
    (b"GIF8", 0, "gif"),
    (b"ftypavif", 4, "avif"),
    (b"ftyphei", 4, "heic"),
    (b"ftyp", 4, "mp4"),
    (b"\x1a\x45\xdf\xa3", 0, "webm"),
    (b"BM", 0, "bmp"),
    (b"II*\0", 0, "tiff"),
    (b"MM\0*", 0, "tiff"),
)


class PictureRefused(InvalidArgument):
    """A file is not an image that is taken. `reason` is the name of an UploadRefusal without its prefix."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, field="content", reason=reason)
        self.rule = message


@dataclass(frozen=True)
class PictureInfo:
    """What an image is: `width` and `height` in pixels, upright."""

    format: Format
    width: int
    height: int


def inspect(data: bytes) -> PictureInfo:
    """What `data` is, once it has been decoded to its last pixel.

    Raises PictureRefused: EMPTY, UNSUPPORTED_FORMAT (by content, whatever the name says; animations too),
    TOO_MANY_BYTES, TOO_MANY_PIXELS (told by the header, before any memory is taken), TOO_SMALL or CORRUPT.
    """
    format = _sniff(data)
    image = _open(data, format)
    width, height = image.size
    _load(image)
    rotated = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # a PNG may hold it behind its pixels
    return PictureInfo(format, height if rotated else width, width if rotated else height)


def decode_rgb(data: bytes) -> "Image.Image":
    """The pixels as people see them: upright, 8-bit sRGB, transparency over white.

    16-bit is scaled and not clipped; an embedded ICC profile (CMYK's included) is converted from.
    Raises PictureRefused.
    """
    return decode_with_mask(data)[0]


def decode_with_mask(data: bytes, *, least_side: int = MIN_SIDE) -> "tuple[Image.Image, Image.Image | None]":
    """As `decode_rgb`, and the opacity of each pixel, 0 to 255, where the picture says any. Raises PictureRefused."""
    from PIL import Image, ImageOps

    image = _open(data, _sniff(data), least_side)
    _load(image)
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    if alpha is not None:
        image = image.convert("RGB" if image.mode == "RGBA" else "L")
    image = _to_srgb(image, profile)
    if alpha is not None:
        white = Image.new("RGB", image.size, (255, 255, 255))
        image = Image.composite(image, white, alpha)
    return image, alpha


def thumbnail(data: bytes, side: int) -> bytes:
    """A WebP whose longer side is at most `side` pixels. Raises PictureRefused."""
    return shrunk(decode_rgb(data), side)


def mask_of(data: bytes, size: tuple[int, int]) -> bytes:
    """A grey PNG of `size` (width, height) of any picture, upright: white where it is white. Raises PictureRefused."""
    from PIL import Image

    mask = decode_with_mask(data, least_side=1)[0].convert("L")
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    out = io.BytesIO()
    mask.save(out, "PNG", optimize=True)
    return out.getvalue()


def shrunk(image: "Image.Image", side: int) -> bytes:
    """As `thumbnail`, of an RGB picture, which is changed."""
    from PIL import Image

    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=80, method=4)
    return out.getvalue()


def _sniff(data: bytes) -> Format:
    if not data:
        raise PictureRefused("the file is empty", reason="EMPTY")
    if len(data) > MAX_BYTES:
        raise PictureRefused(f"{len(data)} bytes exceed the limit of {MAX_BYTES}", reason="TOO_MANY_BYTES")
    for signature, offset, name in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            if name in ("jpeg", "png", "webp"):
                return name  # type: ignore[return-value]  # narrowed by the line above
            raise PictureRefused(f"is a {name.upper()}; JPEG, PNG and WebP are taken", reason="UNSUPPORTED_FORMAT")
    raise PictureRefused("is not a JPEG, PNG or WebP by its content", reason="UNSUPPORTED_FORMAT")


def _open(data: bytes, format: Format, least_side: int = MIN_SIDE) -> "Image.Image":
    """The image with its header read and its limits checked, its pixels not yet decoded."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # ours is checked below, and names its rule
    try:
        image = Image.open(io.BytesIO(data), formats=[format.upper()])
    except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged header
        raise PictureRefused(f"is damaged: its {format.upper()} header cannot be read", reason="CORRUPT") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        message = f"{width} x {height} is {width * height} pixels; the limit is {MAX_PIXELS}"
        raise PictureRefused(message, reason="TOO_MANY_PIXELS")
    if min(width, height) < least_side:
        message = f"{width} x {height} is too small; {least_side} pixels a side at least"
        raise PictureRefused(message, reason="TOO_SMALL")
    if getattr(image, "n_frames", 1) > 1:
        raise PictureRefused(f"is an animated {format.upper()}; still images are taken", reason="UNSUPPORTED_FORMAT")
    return image


def _load(image: "Image.Image") -> None:
    try:
        image.load()
    except Exception as error:  # as above: a damaged body may raise anything
        raise PictureRefused(f"is damaged: it does not decode to its end ({error})", reason="CORRUPT") from error


def _to_srgb(image: "Image.Image", profile: bytes | None) -> "Image.Image":
    """RGB through the embedded profile, where there is one that can be read and fits the mode."""
    from PIL import ImageCms

    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB")  # a broken profile is no reason to refuse the picture
        if converted is not None:
            return converted
    return image.convert("RGB")
