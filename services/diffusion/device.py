"""Where models run, and in which precision."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def without_bitsandbytes() -> None:
    """Hides bitsandbytes from this process, which has not imported peft yet: peft and its kin import it wherever it is
    installed, and it brings torch's compiler along, a second or two for nothing."""
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as the import system has it: there is no such module


def best_device() -> str:
    """`cuda`, else `mps`, else `cpu`: by what is there."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def device_name(device: str) -> str:
    """A name that other processes have for the device too: `cpu`, `mps`, or a GPU's as its driver tells it."""
    import torch

    if not device.startswith("cuda"):
        return device
    return f"GPU-{torch.cuda.get_device_properties(torch.device(device)).uuid}"


def drawing_dtype(device: str) -> "torch.dtype":
    """The precision for drawing: float32 on the CPU, whose halves are emulated; float16 on accelerators."""
    import torch

    return torch.float32 if device == "cpu" else torch.float16


def bytes_of(tensors: "Iterable[torch.Tensor]") -> int:
    """What they take together."""
    return sum(each.numel() * each.element_size() for each in tensors)


def num_threads() -> int:
    """CPU threads that torch uses in the calling thread."""
    import torch

    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Has torch use so many CPU threads in the calling thread."""
    import torch

    torch.get_num_threads()  # a thread that has not asked yet would forget what it is told now
    torch.set_num_threads(count)


def work_beside() -> None:
    """Has torch use one CPU thread in the calling thread, which works beside the one that draws.

    GNU's OpenMP keeps threads for each thread that calls it. Once there are more of them than cores, they no longer
    spin between one operation and the next but sleep: on two cores, a pass of the starter model took 1.4 times as long
    as soon as another thread had its own.
    """
    use_threads(1)
