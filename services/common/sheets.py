"""Pictures in rows and columns with words beside them, on one picture."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

GAP = 8
LEAST_TEXT = 13
"""Pixels of the letters' height; larger cells have larger ones."""
MOST_LINES = 3
"""Over a column."""


def make_sheet(
    cell: "Callable[[int, int], Image.Image | None]",
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    side: int,
    margin: int,
) -> bytes:
    """A PNG: `cell(row, column)` gives a picture of `side` pixels a side at most, or None, which stays white. `rows`
    are the words in the `margin` (pixels) on the left, `columns` those above. Words that do not fit end in dots."""
    from PIL import Image, ImageDraw, ImageFont

    letters = max(LEAST_TEXT, side // 20)
    line, font = letters + 3, ImageFont.load_default(letters)
    above = [wrapped(words, font, side, MOST_LINES) for words in columns]
    beside = [wrapped(words, font, margin - 2 * GAP, max(1, side // line)) for words in rows]
    top = GAP + line * max(map(len, above)) + GAP
    size = (margin + len(columns) * (side + GAP), top + len(rows) * (side + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(above):
        for place, words in enumerate(lines):
            pen.text((margin + column * (side + GAP), GAP + place * line), words, "black", font=font)
    for row, lines in enumerate(beside):
        y = top + row * (side + GAP)
        start = y + (side - line * len(lines)) // 2
        for place, words in enumerate(lines):
            pen.text((GAP, start + place * line), words, "black", font=font)
        for column in range(len(columns)):
            if (picture := cell(row, column)) is not None:
                x = margin + column * (side + GAP) + (side - picture.width) // 2
                sheet.paste(picture, (x, y + (side - picture.height) // 2))
    data = io.BytesIO()
    sheet.save(data, "PNG", optimize=sheet.width * sheet.height < 1 << 22)
    return data.getvalue()


def wrapped(text: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", width: int, most: int) -> list[str]:
    """The text in `most` lines at most that fit into `width` pixels; each newline of it begins another."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
            if len(lines) > most:
                break
    cut = lines[:most]
    if len(lines) > most:
        cut[-1] += " …"
    return [_shortened(line, font, width) for line in cut]


def _shortened(line: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", width: int) -> str:
    """The line, or as much of it as fits before three dots."""
    if font.getlength(line) <= width:
        return line
    kept = line.removesuffix("…")
    while len(kept) > 1 and font.getlength(kept + "…") > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"
