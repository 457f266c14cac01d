"""Where models run, and in which precision."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> str:
    """`cuda`, else `mps`, else `cpu`: by what is there."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def drawing_dtype(device: str) -> "torch.dtype":
    """The precision for drawing: float32 on the CPU, whose halves are emulated; float16 on accelerators."""
    import torch

    return torch.float32 if device == "cpu" else torch.float16
