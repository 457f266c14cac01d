"""Names what a picture shows, without training anything: the concept whose own picture is nearest.

The model was shown one picture for each name, so what it draws for a name should be nearer to that picture than to any
other. Pictures are compared when small (16 by 16), at the best of nine shifts; for subjects across styles, their
outlines are compared instead of their colours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image

from assets.make.concepts import concepts
from assets.make.data import emoji, to_tensor
from assets.style_check import to_tensor as images_to_tensor


def outline(images: torch.Tensor) -> torch.Tensor:
    """How strong the edges are: (B, 3, H, W) in [-1, 1] to (B, 1, H, W) of length one."""
    grey = images.mean(dim=1, keepdim=True)
    strength = F.max_pool2d(grey, 3, 1, 1) + F.max_pool2d(-grey, 3, 1, 1)
    return F.normalize(strength.flatten(1)).reshape(strength.shape)


def distances(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(A, B) mean squared differences of (A, C, 64, 64) and (B, C, 64, 64) at 16 px, at the best of nine shifts."""
    small, known = F.avg_pool2d(images, 4), F.avg_pool2d(others, 4)
    padded = F.pad(small, (1, 1, 1, 1), mode="replicate")
    shifts = [padded[:, :, y : y + 16, x : x + 16].flatten(1) for y in range(3) for x in range(3)]
    return torch.stack([torch.cdist(shift, known.flatten(1)) for shift in shifts]).amin(dim=0)


def concept_ranks(images: list[Image.Image], captions: list[str]) -> list[int]:
    """How many concepts' pictures are nearer than the caption's own, for each image; 0 is right at once."""
    drawn = emoji()
    labels = {caption: name for name, (caption, _) in concepts().items()}
    known = to_tensor([drawn[name] for name in labels.values()])
    return ranks(distances(images_to_tensor(images), known), [list(labels).index(caption) for caption in captions])


def subject_ranks(after: list[Image.Image], before: list[Image.Image]) -> list[int]:
    """How many of the earlier pictures have an outline nearer to the later picture's than its own earlier one."""
    between = distances(outline(images_to_tensor(after)), outline(images_to_tensor(before)))
    return ranks(between, list(range(len(after))))


def ranks(between: torch.Tensor, wanted: list[int]) -> list[int]:
    """For each row of (A, B) distances, how many are smaller than the wanted column's."""
    own = between[torch.arange(len(wanted)), wanted]
    found: list[int] = (between < own[:, None]).sum(dim=1).tolist()
    return found


def top(ranked: list[int], k: int) -> float:
    """The share of pictures whose own is among the first k."""
    return sum(rank < k for rank in ranked) / len(ranked)
