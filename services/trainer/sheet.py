"""A job's samples on one picture: what each prompt became, step by step."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.common.blobs import BlobMissing, BlobStore
from services.trainer.domain import Sample

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CELL = 256
"""Pixels that a sample's longer side has at most; smaller ones keep their size, in cells of CELL_LEAST at least."""
CELL_LEAST = 96
GAP, LINE, MARGIN = 8, 16, 64
MOST_ROWS = 40
"""Of more steps, some between the first and the last are left out, evenly."""


def make_sheet(samples: Sequence[Sample], blobs: BlobStore) -> bytes:
    """A PNG: a row for each step, a column for each prompt. Blocks. What is gone is left white."""
    from PIL import Image, ImageDraw, ImageFont

    prompts = {sample.index: sample.prompt for sample in samples}
    steps = _thinned(sorted({sample.step for sample in samples}))
    pictures = {(each.step, each.index): each for each in samples if each.step in steps}
    side = max(CELL_LEAST, min(CELL, max(max(each.width, each.height) for each in samples)))
    columns, font = sorted(prompts), ImageFont.load_default(13)
    lines = {index: _wrapped(prompts[index], font, side) for index in columns}
    top = GAP + LINE * max(map(len, lines.values())) + GAP
    width, height = MARGIN + len(columns) * (side + GAP), top + len(steps) * (side + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for column, index in enumerate(columns):
        for row, line in enumerate(lines[index]):
            pen.text((MARGIN + column * (side + GAP), GAP + row * LINE), line, "black", font=font)
    for row, step in enumerate(steps):
        y = top + row * (side + GAP)
        pen.text((GAP, y + side // 2 - LINE // 2), str(step), "black", font=font)
        for column, index in enumerate(columns):
            picture = _picture(pictures.get((step, index)), blobs, side)
            if picture is not None:
                x = MARGIN + column * (side + GAP) + (side - picture.width) // 2
                sheet.paste(picture, (x, y + (side - picture.height) // 2))
    data = io.BytesIO()
    sheet.save(data, "PNG", optimize=True)
    return data.getvalue()


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


def _wrapped(text: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", width: int, most: int = 3) -> list[str]:
    """The text in lines that fit, three at most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    for place, line in enumerate(lines):
        while font.getlength(lines[place]) > width and len(line) > 1:  # one long word
            line = line[:-1]
            lines[place] = line + "…"
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]
