"""What was drawn: finished pictures and clips, and the request that they are of."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from atelier.generator.v1.generation_pb2 import GeneratedImage, Generation

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

SUFFIXES = {"image/png": ".png", "image/webp": ".webp", "image/jpeg": ".jpg", "video/mp4": ".mp4"}
"""How files of each content type are named."""


@dataclass(frozen=True)
class Picture:
    """A finished picture or clip. A notebook shows it by itself."""

    data: bytes
    """The file; it tells itself how it was made, as the `parameters` that other tools read and as the whole request."""
    generation_id: str
    image: GeneratedImage
    """All that the Generator says of it."""

    @property
    def index(self) -> int:
        """Its place in its request, from 0."""
        return self.image.index

    @property
    def seed(self) -> int:
        return self.image.seed

    @property
    def width(self) -> int:
        """Pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.image.height

    @property
    def prompt(self) -> str:
        """As it was read, wildcards chosen."""
        return self.image.prompt

    @property
    def model_id(self) -> int:
        return self.image.model_id

    @property
    def lora_weight(self) -> float | None:
        """How strongly the model, a LoRA, was applied; None where it is none."""
        return self.image.lora_weight if self.image.HasField("lora_weight") else None

    @property
    def num_frames(self) -> int:
        """Of a clip; 0 of a picture."""
        return self.image.num_frames

    @property
    def is_flagged(self) -> bool | None:
        """What the safety checker says; None where the deployment has none."""
        return self.image.safety.is_flagged if self.image.HasField("safety") else None

    @property
    def suffix(self) -> str:
        """How a file of its format is named: .png, .webp, .jpg or .mp4."""
        return SUFFIXES.get(self.image.content_type, ".png")

    def save(self, path: str | Path) -> Path:
        """Writes the file, folders made as needed, and gives its path; a name without a suffix gets the format's."""
        file = Path(path)
        if not file.suffix:
            file = file.with_suffix(self.suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.data)
        return file

    def to_pillow(self) -> "PillowImage":
        """As a Pillow image. Raises ImportError where Pillow is not installed, and its own error for an MP4."""
        from io import BytesIO

        from PIL import Image

        return Image.open(BytesIO(self.data))

    def _repr_png_(self) -> bytes | None:
        return self.data if self.suffix == ".png" else None

    def _repr_jpeg_(self) -> bytes | None:
        return self.data if self.suffix == ".jpg" else None

    def _repr_html_(self) -> str | None:
        if self.suffix in (".png", ".jpg"):
            return None
        source = f'src="data:{self.image.content_type};base64,{base64.b64encode(self.data).decode()}"'
        return f"<video {source} controls loop></video>" if self.suffix == ".mp4" else f"<img {source}>"


@dataclass(frozen=True)
class Drawing(Sequence[Picture]):
    """The pictures of one request, and the request as the server understood it (`generation.settings`).

    Of a grid the pictures are its cells: each says its prompt, model, weight and seed.
    """

    generation: Generation
    pictures: tuple[Picture, ...]
    sheet: Picture | None = None
    """Of a grid: all cells on one labelled picture."""

    @property
    def files(self) -> tuple[Picture, ...]:
        """The pictures, and the sheet behind them where there is one."""
        return self.pictures if self.sheet is None else (*self.pictures, self.sheet)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        return self.pictures[index]

    def __len__(self) -> int:
        return len(self.pictures)


def drawing_of(generation: Generation, pictures: Sequence[Picture]) -> Drawing:
    """Pictures in their order, the sheet set apart."""
    ordered = sorted(pictures, key=lambda picture: picture.index)
    sheets = [picture for picture in ordered if picture.image.is_sheet]
    cells = tuple(picture for picture in ordered if not picture.image.is_sheet)
    return Drawing(generation, cells, sheets[0] if sheets else None)
