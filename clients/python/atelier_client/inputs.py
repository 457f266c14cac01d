"""What a request begins with: pictures from files, memory, the gallery or a dataset."""

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from atelier.catalog.v1.dataset_pb2 import Image as DatasetImage
from atelier.generator.v1.generation_pb2 import GeneratedImageRef, InputImage

from atelier_client.errors import InvalidArgument
from atelier_client.pictures import Picture

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

MAX_BYTES = 32 * 1024 * 1024  # the contract's limit

PictureSource: TypeAlias = Union[
    str, Path, bytes, "PillowImage", Picture, GeneratedImageRef, DatasetImage, int, InputImage
]
"""A picture to begin with: the path of a file, a file's bytes, a Pillow image, a picture that was drawn (nothing is
sent again), an image of a dataset or its id, or the message itself."""


def input_image(source: PictureSource, *, field: str) -> InputImage:
    """The message that `source` means. Raises InvalidArgument naming `field`."""
    match source:
        case InputImage():
            return source
        case Picture():
            return InputImage(
                generated=GeneratedImageRef(generation_id=source.generation_id, index=source.index),
            )
        case GeneratedImageRef():
            return InputImage(generated=source)
        case DatasetImage():
            return InputImage(dataset_image_id=source.id)
        case int():
            return InputImage(dataset_image_id=source)
        case bytes():
            data = source
        case str() | Path():
            data = _read(Path(source), field)
        case _ if _is_pillow(source):
            buffer = BytesIO()
            source.save(buffer, "PNG", exif=b"")  # the pixels as they stand
            data = buffer.getvalue()
        case _:
            raise InvalidArgument({field: f"does not take a {type(source).__name__}"})
    if not data:
        raise InvalidArgument({field: "is empty"})
    if len(data) > MAX_BYTES:
        raise InvalidArgument({field: f"has {len(data) / 2**20:.0f} MiB; {MAX_BYTES // 2**20} are taken at most"})
    return InputImage(data=data)


def read_lines(path: str | Path, *, field: str) -> list[str]:
    """The lines of a file of wildcards, without empty ones and those that begin with #. Raises InvalidArgument."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InvalidArgument({field: f"{path} cannot be read: {error.strerror}"}) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument({field: f"{path} is not UTF-8 text"}) from error
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument({field: f"{path} cannot be read: {error.strerror}"}) from error


def _is_pillow(value: object) -> bool:
    pillow = sys.modules.get("PIL.Image")  # nobody has such an image who has not imported it
    return pillow is not None and isinstance(value, pillow.Image)
