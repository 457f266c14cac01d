"""The demo's images, captions, prompts and style check belong together."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from assets.make.concepts import concepts
from assets.make.demo import DEMO_ICONS, PROMPTS
from assets.style_check import WEIGHTS, score

ASSETS = Path(__file__).parents[2] / "assets"
IMAGES = ASSETS / "demo-images"


def open_all(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def test_every_demo_image_has_its_caption() -> None:
    captions = {path.stem: path.with_suffix(".txt").read_text().strip() for path in IMAGES.glob("*.png")}
    assert captions == DEMO_ICONS
    assert len(captions) == 40


def test_the_base_knows_what_the_demo_shows_and_asks() -> None:
    known = {caption for caption, _ in concepts().values()}
    assert set(DEMO_ICONS.values()) <= known
    assert set(PROMPTS) - known <= {"red heart"}


def test_no_prompt_of_the_demo_is_in_its_images() -> None:
    prompts = json.loads((ASSETS / "demo-prompts.json").read_text())["prompts"]
    assert prompts == PROMPTS
    assert not set(prompts) & set(DEMO_ICONS.values())


def test_the_style_check_tells_icons_from_the_bases_style() -> None:
    icons = score(open_all(IMAGES))
    emoji = score(open_all(ASSETS / "style-check" / "held-out"))
    assert sum(icons) / len(icons) > 0.9
    assert sum(emoji) / len(emoji) < 0.1


def test_the_style_check_is_small() -> None:
    assert WEIGHTS.stat().st_size < 500_000
