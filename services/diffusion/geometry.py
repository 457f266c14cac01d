"""Where in its original a picture was cut out: what SDXL is told (Podell et al. 2023, section 2.2), in pixels.

A row is (original height, original width, top and left of the cut in the scaled picture, height, width of the cut).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Geometry = tuple[int, int, int, int, int, int]


def whole(width: int, height: int) -> Geometry:
    """Of a picture that was not cut: what is asked for when drawing."""
    return (height, width, 0, 0, height, width)


def scaled_to_cover(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to which a picture is scaled so that it just covers `size` (width, height)."""
    scale = max(size[0] / width, size[1] / height)
    return (width, height) if scale == 1 else (max(size[0], round(width * scale)), max(size[1], round(height * scale)))


def middle_of(width: int, height: int, size: tuple[int, int]) -> Geometry:
    """Of the middle of a picture of `width` x `height`, scaled to just cover `size` (width, height)."""
    wide, high = scaled_to_cover(width, height, size)
    return (height, width, (high - size[1]) // 2, (wide - size[0]) // 2, size[1], size[0])


def as_rows(geometries: Sequence[Geometry], device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """(B, 6) float32."""
    import torch

    return torch.tensor(geometries, dtype=torch.float32, device=device)
