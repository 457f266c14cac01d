"""Images of all kinds, good and bad, made in memory."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def solid(mode: str, color: object, size: tuple[int, int] = (32, 24)) -> Image.Image:
    return Image.new(mode, size, color)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(side: int = 30_000) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def animated(format: str) -> bytes:
    first, second = solid("RGB", "red"), solid("RGB", "blue")
    return encoded(first, format, save_all=True, append_images=[second], duration=100)
