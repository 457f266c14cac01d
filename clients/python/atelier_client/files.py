"""Which files an upload sends, in which order, and the caption and the mask that belong to each."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atelier_client.errors import InvalidArgument

# What is taken from a folder. The service alone decides what is an image or a clip, by content: BMP and the like are
# sent so that it says why they are refused, and nothing is left out in silence.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
    | {".mp4", ".m4v", ".mov", ".webm"}
)
MASK_NAMES = ("{stem}-masklabel.png", "{stem}.mask.png", "masks/{stem}.png", "masks/{stem}.jpg", "masks/{stem}.webp")
"""Where the mask of a picture is looked for, from the picture's folder: as OneTrainer has it, and as others do."""
CAPTION_SUFFIXES = (".txt", ".caption")
METADATA_NAME = "metadata.jsonl"
_METADATA_TEXT_KEYS = ("text", "prompt", "caption")


@dataclass(frozen=True)
class LocalImage:
    """A file to upload."""

    path: Path
    caption: str
    size_bytes: int
    sha256: str
    mask: Path | None = None
    """A picture that is white where this one counts."""


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files under `paths`: a file as it is, a folder walked whole in sorted order (image suffixes, nothing hidden).

    A file named twice comes once, and masks of pictures among them do not come as pictures. Raises InvalidArgument for
    a path that is not there, or when no image is found.
    """
    found: dict[Path, None] = {}
    for each in paths:
        path = Path(each)
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
            visible = (file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts))
            found.update(dict.fromkeys(sorted(visible)))
        elif path.is_file():
            found[path] = None
        else:
            raise InvalidArgument({"paths": f"there is no file or folder {path}"})
    if not found:
        raise InvalidArgument({"paths": f"no image files ({', '.join(sorted(IMAGE_SUFFIXES))}) in what was given"})
    masks = {mask_of(file) for file in found}
    return [file for file in found if file not in masks]


def mask_of(picture: Path) -> Path | None:
    """The mask that lies beside a picture, by its name; None where there is none."""
    places = (picture.parent / name.format(stem=picture.stem) for name in MASK_NAMES)
    return next((place for place in places if place.is_file()), None)


def read_images(files: Iterable[Path]) -> tuple[list[LocalImage], dict[Path, str]]:
    """Each file with its caption, size and digest; and the files that cannot be read, with the reason.

    Raises InvalidArgument when a caption cannot be read.
    """
    metadata: dict[Path, dict[str, str]] = {}
    images: list[LocalImage] = []
    unreadable: dict[Path, str] = {}
    for file in files:
        if file.parent not in metadata:
            metadata[file.parent] = read_metadata(file.parent / METADATA_NAME)
        caption = read_caption(file, metadata[file.parent])
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = stream.tell()
        except OSError as error:
            unreadable[file] = f"cannot be read: {error.strerror}"
        else:
            images.append(LocalImage(file, caption, size, digest, mask_of(file)))
    return images, unreadable


def read_caption(image: Path, metadata: dict[str, str]) -> str:
    """The caption of `image`: from the same stem's .txt, else .caption, else metadata.jsonl, else empty."""
    for suffix in CAPTION_SUFFIXES:
        beside = image.with_suffix(suffix)
        if beside.is_file():
            return _read_text(beside).strip()
    return metadata.get(image.name, "")


def read_metadata(file: Path) -> dict[str, str]:
    """File name to caption out of an imagefolder's metadata.jsonl; empty when there is none. Raises InvalidArgument."""
    if not file.is_file():
        return {}
    captions: dict[str, str] = {}
    for number, line in enumerate(_read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidArgument({where: f"is not JSON: {error.msg}"}) from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InvalidArgument({where: "must be an object with a file_name"})
        text = next((row[key] for key in _METADATA_TEXT_KEYS if isinstance(row.get(key), str)), "")
        captions[Path(row["file_name"]).name] = text.strip()
    return captions


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument({str(file): "is not UTF-8 text"}) from error
