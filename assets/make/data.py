"""The pictures: fetched at pinned versions, composed on white, and recoloured so that colour words compose.

Images are uint8 arrays (H, W, 3), 64 by 64, in memory; nothing fetched is shipped but the demo icons.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from assets.make.concepts import concepts, split_colour
from assets.make.demo import DEMO_ICONS

CACHE = Path(__file__).parent / ".cache"
SIZE = 64
PACKAGES = {
    "emoji-datasource-google": "16.0.0",  # Noto emoji as 64 px PNG; the images are Apache-2.0
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",  # Microsoft's icons as SVG; MIT
    "@resvg/resvg-js": "2.6.2",  # draws them; MPL-2.0, used while making only
}
Pixels = npt.NDArray[np.uint8]

# Hue in degrees, and a factor on saturation and on value, for each colour word a copy can be given.
PAINTS = {
    "red": (4, 1.0, 1.0), "orange": (30, 1.0, 1.0), "yellow": (50, 1.0, 1.05), "green": (125, 0.9, 0.9),
    "blue": (212, 1.0, 0.95), "purple": (280, 0.85, 0.9), "pink": (330, 0.65, 1.05),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One training picture: its words, its pixels (64, 64, 3), and how often to show it."""

    caption: str
    concept: str  # the caption without a colour word: what the classifier of concepts calls it
    pixels: Pixels
    weight: float


def fetch() -> None:
    """Installs the pinned packages into the cache and draws the icons at 64 px."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / "package.json").write_text(json.dumps({"private": True, "dependencies": PACKAGES}))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=CACHE, check=True)
    subprocess.run(["node", str(Path(__file__).parent / "rasterise.mjs"), str(CACHE), str(SIZE)], check=True)


def read(path: Path) -> Pixels:
    """A PNG composed on white, (64, 64, 3)."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def emoji() -> dict[str, Pixels]:
    """Every Noto emoji but flags, by short name."""
    root = CACHE / "node_modules" / "emoji-datasource-google"
    entries = json.loads((root / "emoji.json").read_text())
    return {
        entry["short_name"]: read(root / "img" / "google" / "64" / entry["image"])
        for entry in entries
        if entry["has_img_google"] and entry["category"] != "Flags"
    }


def icons(*, demo: bool) -> dict[str, Pixels]:
    """The Fluent icons by name: the demo's forty, or all the others."""
    paths = sorted((CACHE / f"icons-{SIZE}").glob("*.png"))
    return {path.stem: read(path) for path in paths if (path.stem in DEMO_ICONS) == demo}


def own_colour(pixels: Pixels) -> float | None:
    """The hue in degrees of a picture that is plainly of one colour, else None."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float32) / 255
    drawn = pixels.min(axis=2) < 245
    vivid = drawn & (hsv[..., 1] > 0.35) & (hsv[..., 2] > 0.25)
    if vivid.sum() < 0.5 * drawn.sum():
        return None
    angles = hsv[..., 0][vivid] * 2 * np.pi
    mean = np.exp(1j * angles).mean()
    return float(np.degrees(np.angle(mean)) % 360) if abs(mean) > 0.93 else None


def paint(pixels: Pixels, hue: float, word: str) -> Pixels:
    """The same picture with its hues turned so that `hue` becomes the colour `word`."""
    to, saturation, value = PAINTS[word]
    image = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float32)
    image[..., 0] = (image[..., 0] + (to - hue) * 255 / 360) % 256
    image[..., 2] *= 1 + (value - 1) * image[..., 1] / 255  # white stays white
    image[..., 1] *= saturation
    return np.asarray(Image.fromarray(image.clip(0, 255).astype(np.uint8), "HSV").convert("RGB"))


def colour_word(hue: float) -> str:
    """The colour word nearest to a hue in degrees."""
    return min(PAINTS, key=lambda word: abs((PAINTS[word][0] - hue + 180) % 360 - 180))


def pictures() -> list[Picture]:
    """The base's training set: each concept once, and copies in other colours of the plainly coloured."""
    drawn = emoji()
    found: list[Picture] = []
    named = {caption for caption, _ in concepts().values()}
    for short_name, (caption, group) in concepts().items():
        colour, noun = split_colour(caption)
        found.append(Picture(caption, noun, drawn[short_name], 1.0))
        hue = own_colour(drawn[short_name])
        if hue is None or group in ("heart", "shape") or (colour, noun) == ("green", "apple"):
            continue
        words = [word for word in PAINTS if f"{word} {noun}" not in named and word != colour]
        share = 0.3 / len(words)
        found += [
            Picture(f"{word} {noun}", noun, paint(drawn[short_name], hue, word), share)
            for word in words
            if word != colour_word(hue)
        ]
        if colour is None:
            found.append(Picture(f"{colour_word(hue)} {noun}", noun, drawn[short_name], share))
    return found


def to_tensor(pixels: list[Pixels]) -> torch.Tensor:
    """(B, 3, 64, 64), float32 in [-1, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def sheet(images: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """The images in rows, for a person to look at."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + gap), rows * (height + gap)), "white")
    for index, image in enumerate(images):
        canvas.paste(image, (index % columns * (width + gap), index // columns * (height + gap)))
    return canvas
