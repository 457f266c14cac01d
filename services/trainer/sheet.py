"""A job's samples on one picture: what each prompt became, step by step."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.common import sheets
from services.common.blobs import BlobMissing, BlobStore
from services.trainer.domain import Sample

if TYPE_CHECKING:
    from PIL import Image

CELL = 256
"""Pixels that a sample's longer side has at most; smaller ones keep their size, in cells of CELL_LEAST at least."""
CELL_LEAST = 96
MARGIN = 64
MOST_ROWS = 40
"""Of more steps, some between the first and the last are left out, evenly."""


def make_sheet(samples: Sequence[Sample], blobs: BlobStore) -> bytes:
    """A PNG: a row for each step, a column for each prompt. Blocks. What is gone is left white."""
    prompts = {sample.index: sample.prompt for sample in samples}
    steps = _thinned(sorted({sample.step for sample in samples}))
    pictures = {(each.step, each.index): each for each in samples if each.step in steps}
    side = max(CELL_LEAST, min(CELL, max(max(each.width, each.height) for each in samples)))
    columns = sorted(prompts)
    return sheets.make_sheet(
        lambda row, column: _picture(pictures.get((steps[row], columns[column])), blobs, side),
        rows=[str(step) for step in steps],
        columns=[prompts[index] for index in columns],
        side=side,
        margin=MARGIN,
    )


def _picture(sample: Sample | None, blobs: BlobStore, side: int) -> "Image.Image | None":
    from PIL import Image

    if sample is None:
        return None
    try:
        with Image.open(io.BytesIO(blobs.get(sample.sha256))) as picture:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            return picture.convert("RGB")
    except (BlobMissing, OSError):
        return None


def _thinned(steps: Sequence[int]) -> list[int]:
    if len(steps) <= MOST_ROWS:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (MOST_ROWS - 1))] for place in range(MOST_ROWS)]
