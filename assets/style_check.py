"""Says whether a picture looks like a black line icon or like the starter model's colour emoji.

A measuring tool for the demo: `score` before and after a fine-tune shows whether the style was learnt. It needs
torch, safetensors and Pillow only. How it was trained, and on what, is in `assets/style-check/README.md`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).parent / "style-check" / "style-check.safetensors"
SIZE = 64


def build(classes: int = 1, width: int = 16) -> nn.Sequential:
    """An untrained classifier of (B, 3, 64, 64) in [-1, 1] to (B, classes) logits."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]

    return nn.Sequential(
        *stage(3, width), *stage(width, 2 * width), *stage(2 * width, 4 * width), *stage(4 * width, 8 * width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * width, classes),
    )  # fmt: skip


def to_tensor(images: list[Image.Image]) -> torch.Tensor:
    """(B, 3, 64, 64), float32 in [-1, 1]; other sizes are resampled."""
    small = [image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in small])).permute(0, 3, 1, 2) / 127.5 - 1


@cache
def load() -> nn.Sequential:
    """The shipped classifier, read once."""
    model = build()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


@torch.no_grad()
def score(images: list[Image.Image]) -> list[float]:
    """The probability of the line-icon style for each picture, in [0, 1]."""
    values: list[float] = load()(to_tensor(images)).sigmoid()[:, 0].tolist()
    return values
