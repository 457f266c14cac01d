"""What a job trains on: device, precision, and the memory in use."""

import resource
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
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


def memory_gauge(device: str) -> Callable[[], tuple[int, int]]:
    """A function that gives bytes in use and the most that ever were: on the device, or for the CPU of this process."""
    import torch

    if device == "cuda":
        return lambda: (torch.cuda.memory_allocated(), torch.cuda.max_memory_reserved())
    if device == "mps":
        return lambda: (torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory())
    import psutil

    process = psutil.Process()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return lambda: (int(process.memory_info().rss), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def memory_total(device: str) -> int:
    """Bytes that the device has, whoever uses them; for the CPU the machine's, or the container's if that is less."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    if device == "mps":
        return torch.mps.recommended_max_memory()
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
