"""The optimizer's step inside the backward pass: each gradient is applied and freed as soon as it is complete, so that
all of them never exist at once (as PyTorch's tutorial "How to save memory by fusing an optimizer step into the backward
pass" has it).

Clipping by the norm of all gradients wants all of them before the first is applied, and so does a scaler that leaves
out steps which overflow: with either, the step stays behind the backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GATHERED = 1 << 21
"""Gradients are applied when they are at least so many numbers, 8 MB, since each call of an optimizer has a price."""


class FusedStep:
    """Of one optimizer over `parameters`, in which no parameter's step hangs on another's gradient."""

    def __init__(self, parameters: "Sequence[torch.nn.Parameter]", optimizer: "torch.optim.Optimizer") -> None:
        self._optimizer = optimizer
        self._groups = {
            id(each): place for place, group in enumerate(optimizer.param_groups) for each in group["params"]
        }
        self._complete: list[torch.nn.Parameter] = []
        self._gathered = 0
        self._squares: list[torch.Tensor] = []
        self._is_last = False
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._note)

    @contextmanager
    def last_backward(self) -> Iterator[None]:
        """Around the backward pass that completes the step's gradients: those before it only add to them."""
        self._is_last = True
        try:
            yield
            self._apply()
        finally:
            self._is_last = False
            self._complete, self._gathered = [], 0

    def norm(self) -> "torch.Tensor":
        """The norm of all gradients of the step, which are gone."""
        import torch

        squares, self._squares = self._squares, []
        return torch.stack(squares).sum().sqrt()

    def _note(self, parameter: "torch.nn.Parameter") -> None:
        if not self._is_last:
            return
        self._complete.append(parameter)
        self._gathered += parameter.numel()
        if self._gathered >= GATHERED:
            self._apply()

    def _apply(self) -> None:
        import torch

        complete, self._complete, self._gathered = self._complete, [], 0
        gradients = [each.grad for each in complete if each.grad is not None]
        if not gradients:
            return
        self._squares.append(torch.nn.utils.get_total_norm(gradients).square())
        del gradients
        every = self._optimizer.param_groups
        chosen = [[each for each in complete if self._groups[id(each)] == place] for place in range(len(every))]
        # All groups in their places, for optimizers that count them, each with only what is to be applied.
        self._optimizer.param_groups = [{**group, "params": some} for group, some in zip(every, chosen, strict=True)]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = every
        for parameter in complete:
            parameter.grad = None
