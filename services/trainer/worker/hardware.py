"""What a job trains on: device, precision, and the memory in use."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from services.common.errors import InvalidArgument
from services.diffusion.device import best_device
from services.trainer.domain import Device, Precision

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


def choose_device(wanted: Device) -> str:
    """`cuda`, `mps` or `cpu`. Raises InvalidArgument when the one asked for is not there."""
    import torch

    there = {Device.CPU: True, Device.CUDA: torch.cuda.is_available(), Device.MPS: torch.backends.mps.is_available()}
    if wanted is Device.AUTO:
        return best_device()
    if not there[wanted]:
        raise InvalidArgument(f"this worker has no {wanted.value} device", field="config.device")
    return str(wanted.value)


def choose_precision(wanted: Precision, device: str) -> str:
    """accelerate's `no`, `fp16` or `bf16`: by the device where AUTO. Raises InvalidArgument for fp16 on a CPU."""
    import torch

    if wanted is Precision.AUTO:
        if device != "cuda":
            return "no"  # halves are emulated on most CPUs, and autocast on MPS gains little
        # Emulated bfloat16 counts as supported by default; only native is faster.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if wanted is Precision.FP16 and device == "cpu":
        raise InvalidArgument("fp16 needs a GPU; choose bf16 or no", field="config.mixed_precision")
    return str(wanted.value)


def frozen_dtype(precision: str) -> "torch.dtype":
    """How weights that do not learn are kept while training."""
    import torch

    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for drawing; may be entered again and again."""
    import torch

    return nullcontext() if precision == "no" else torch.autocast(device, dtype=frozen_dtype(precision))


def make_accelerator(device: str, precision: str) -> "Accelerator":
    """Mixed precision and gradient scaling for the device. One precision a process: accelerate keeps it in a global."""
    from accelerate import Accelerator

    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def memory_gauge(device: str) -> Callable[[], int]:
    """A function that gives bytes in use: on the device, or for the CPU this process's resident memory."""
    import torch

    if device == "cuda":
        return torch.cuda.memory_allocated
    if device == "mps":
        return torch.mps.current_allocated_memory
    import psutil

    process = psutil.Process()
    return lambda: int(process.memory_info().rss)
