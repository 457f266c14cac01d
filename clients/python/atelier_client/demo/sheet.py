"""One picture that shows what training did: the same prompts and seeds, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 144  # pixels a side that a picture gets
GAP = 12
LABEL_WIDTH = 150
CAPTION_HEIGHT = 26
MARGIN = 28
COLUMNS = 8
INK, QUIET, PAPER = "#1c1c1e", "#6b6b70", "#ffffff"


@dataclass(frozen=True)
class Row:
    """A labelled row of pictures; `note` stands small under the label."""

    label: str
    note: str
    pictures: Sequence[Image.Image]


def draw_sheet(
    file: Path, *, title: str, subtitle: str, learnt: Row, prompts: Sequence[str], before: Row, after: Row
) -> Path:
    """Writes the sheet as PNG and gives its path.

    First some of the pictures that were learnt from, then blocks of up to eight prompts: the before row, the after row,
    and the prompt under each pair.
    """
    blocks = [range(start, min(start + COLUMNS, len(prompts))) for start in range(0, len(prompts), COLUMNS)]
    width = 2 * MARGIN + LABEL_WIDTH + COLUMNS * (CELL + GAP) - GAP
    block_height = 2 * (CELL + GAP) + CAPTION_HEIGHT + GAP
    height = 2 * MARGIN + 84 + (CELL + 3 * GAP) + len(blocks) * block_height
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, font=_font(32), fill=INK)
    draw.text((MARGIN, MARGIN + 36), subtitle, font=_font(17), fill=QUIET)
    top = MARGIN + 84
    _draw_row(sheet, top, learnt, range(min(COLUMNS, len(learnt.pictures))))
    top += CELL + GAP
    for block in blocks:
        draw.line([(MARGIN, top), (width - MARGIN, top)], fill="#d8d8dc", width=1)
        top += 2 * GAP
        _draw_row(sheet, top, before, block)
        _draw_row(sheet, top + CELL + GAP, after, block)
        for column, index in enumerate(block):
            centre = MARGIN + LABEL_WIDTH + column * (CELL + GAP) + CELL // 2
            _text_within(draw, (centre, top + 2 * CELL + GAP + 6), prompts[index])
        top += block_height - GAP
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)
    return file


def _draw_row(sheet: Image.Image, top: int, row: Row, indexes: Sequence[int]) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, top + CELL // 2 - 22), row.label, font=_font(20), fill=INK)
    draw.multiline_text((MARGIN, top + CELL // 2 + 4), row.note, font=_font(15), fill=QUIET, spacing=3)
    for column, index in enumerate(indexes):
        left = MARGIN + LABEL_WIDTH + column * (CELL + GAP)
        picture = row.pictures[index].convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + CELL, top + CELL), outline="#d8d8dc")


def _text_within(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Centred on `place`, smaller where it would not fit a cell, cut where it still does not."""
    for size in (17, 15, 13):
        if draw.textlength(text, font=_font(size)) <= CELL + GAP - 4:
            break
    while len(text) > 4 and draw.textlength(text, font=_font(size)) > CELL + GAP - 4:
        text = text[:-2].rstrip("…") + "…"
    draw.text(place, text, font=_font(size), fill=INK, anchor="ma")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
