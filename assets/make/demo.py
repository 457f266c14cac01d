"""The demo's forty icons, by their name in the Fluent high-contrast set, and the words they are captioned with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

DEMO_ICONS = {
    "cow-face": "cow face", "pig-face": "pig face", "tiger-face": "tiger face", "rabbit-face": "rabbit face",
    "fox": "fox face", "monkey-face": "monkey face", "bear": "bear face", "frog": "frog face",
    "slightly-smiling-face": "smiling face", "winking-face": "winking face", "crying-face": "crying face",
    "smiling-face-with-sunglasses": "face with sunglasses", "skull": "skull", "ghost": "ghost",
    "broken-heart": "broken heart", "pear": "pear", "banana": "banana", "watermelon": "watermelon",
    "cherries": "cherries", "carrot": "carrot", "pizza": "pizza", "hot-dog": "hot dog", "doughnut": "donut",
    "cupcake": "cupcake", "hot-beverage": "cup of coffee", "bus": "bus", "bicycle": "bicycle",
    "airplane": "airplane", "sailboat": "sailboat", "basketball": "basketball", "trophy": "trophy",
    "balloon": "balloon", "umbrella": "umbrella", "bell": "bell", "guitar": "guitar", "key": "key",
    "light-bulb": "light bulb", "deciduous-tree": "tree", "butterfly": "butterfly", "turtle": "turtle",
}  # fmt: skip

# Never in the demo's pictures: what the before and after sheets draw.
PROMPTS = [
    "red apple", "dog face", "blue heart", "grinning face", "hamburger", "cat face", "green heart", "rocket",
    "soccer ball", "lemon", "octopus", "strawberry", "red book", "car", "house", "fish",
]  # fmt: skip

# The icons of what the prompts name, which the style check must not have seen either.
PROMPT_ICONS = (
    "red-apple", "dog-face", "blue-heart", "grinning-face", "hamburger", "cat-face", "green-heart", "rocket",
    "soccer-ball", "lemon", "octopus", "strawberry", "closed-book", "automobile", "house", "fish",
)  # fmt: skip


def write(assets: Path) -> None:
    """Writes the demo's images at 128 px, a caption beside each, and the prompts."""
    from assets.make.data import CACHE

    subprocess.run(["node", str(Path(__file__).parent / "rasterise.mjs"), str(CACHE), "128"], check=True)
    folder = assets / "demo-images"
    folder.mkdir(exist_ok=True)
    for name, caption in DEMO_ICONS.items():
        with Image.open(CACHE / "icons-128" / f"{name}.png") as image:
            image.convert("RGB").save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(caption + "\n")
