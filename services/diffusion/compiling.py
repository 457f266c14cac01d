"""torch.compile for denoisers."""

from contextlib import AbstractContextManager
from typing import Any


def compile_blocks(denoiser: Any, *, dynamic: bool | None = None) -> None:
    """Compiles the blocks that a denoiser repeats, which costs an eighth of compiling all of it; or all of it, where
    its class names none. Nothing is compiled before the first pass; `dynamic` as of torch.compile."""
    if denoiser._repeated_blocks:
        denoiser.compile_repeated_blocks(dynamic=dynamic)
    else:
        denoiser.compile(dynamic=dynamic)


def is_compiled(denoiser: Any) -> bool:
    """Whether any of it is."""
    return any(module._compiled_call_impl is not None for module in denoiser.modules())


def forget_compiled(denoiser: Any) -> None:
    """From now on nothing of it is compiled."""
    for module in denoiser.modules():
        module._compiled_call_impl = None


def as_written() -> AbstractContextManager[None]:
    """Passes inside are as if nothing were compiled: what was changed after compiling would not be seen."""
    import torch

    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
