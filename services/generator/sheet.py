"""A grid's pictures on one: a row for each prompt and seed, a column for each model and weight."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from services.common import sheets
from services.generator.domain import Picture, Plan, Settings
from services.generator.grids import Column, rows_of

if TYPE_CHECKING:
    import numpy as np

MOST_PIXELS = 16 << 20
"""Of all cells together: a PNG of the sheet goes into one message."""
CELL, CELL_LEAST = 512, 128
"""Pixels that a picture's longer side has at most, and at least: small ones are enlarged to be seen."""
WORDS_MARGIN = 200


def make_sheet(settings: Settings, columns: Sequence[tuple[Column, Plan]], cells: Mapping[int, Image.Image]) -> bytes:
    """A PNG of `cells` by their pictures' numbers, each as `cell_of` gives it. Blocks."""
    rows = rows_of(settings)
    return sheets.make_sheet(
        lambda row, column: cells.get(row * len(columns) + column),
        rows=[f"{_said(prompt)}\nseed {seed}" for prompt, _, seed in rows],
        columns=[_named(column, plan) for column, plan in columns],
        side=side_of(settings, len(rows) * len(columns)),
        margin=WORDS_MARGIN,
    )


def side_of(settings: Settings, count: int) -> int:
    """Pixels a side of each of so many cells."""
    room = min(CELL, int((MOST_PIXELS / count) ** 0.5))
    second = settings.high_resolution
    longer = max(settings.width, settings.height) * (second.scale if second else 1)
    return max(CELL_LEAST, min(room, int(longer)))


def cell_of(pixels: "np.ndarray", side: int) -> Image.Image:
    """A picture (H, W, 3) uint8, or the frame in a clip's middle (F, H, W, 3), `side` pixels on its longer side."""
    still = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
    return ImageOps.contain(Image.fromarray(still), (side, side), Image.Resampling.LANCZOS)


def sheet_picture(settings: Settings, columns: Sequence[tuple[Column, Plan]], data: bytes) -> Picture:
    """What is remembered of the sheet, which stands behind the grid's pictures; without its digest."""
    with Image.open(BytesIO(data)) as sheet:
        width, height = sheet.size
    return Picture(
        index=len(rows_of(settings)) * len(columns),
        seed=settings.seed,
        sha256="",
        width=width,
        height=height,
        size_bytes=len(data),
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        model_id=settings.model_id,
        is_sheet=True,
    )


def _said(prompt: str) -> str:
    """Short enough that the seed below it has its place."""
    words = " ".join(prompt.split())
    return words if len(words) <= 90 else words[:89].rstrip() + "…"


def _named(column: Column, plan: Plan) -> str:
    if not plan.has_as_lora(column.model_id):
        return plan.model_name
    return f"weight {plan.loras[0].weight:g}\n{plan.model_name}"
