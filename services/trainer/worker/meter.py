"""Turns what a step leaves behind into progress, asking the device for numbers no more than ten times a second."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from services.common.errors import FailedPrecondition
from services.trainer.domain import Checkpoint, Progress
from services.trainer.worker.plan import Plan

if TYPE_CHECKING:
    import torch

SETTLE_SECONDS = 0.1
WINDOW_SECONDS = 10.0
SMOOTHING = 0.95


class LossNotFinite(FailedPrecondition):
    """The loss became infinite or not a number; going on would only ruin the weights further."""

    default_reason = "LOSS_NOT_FINITE"


class Pending(NamedTuple):
    """A step whose numbers may still be on the device."""

    step: int
    images: int
    busy: float  # seconds of training when it ended, what was done between steps left out
    elapsed: float  # seconds since training began
    loss: "torch.Tensor"
    grad_norm: "torch.Tensor"


class Meter:
    """Of one training run. `memory` gives bytes in use and the most that ever were; `overflow_is_skipped` says that a
    gradient scaler leaves out steps whose gradients overflow, so that such a norm is no failure. `since` is the
    checkpoint of an earlier attempt: its time and its smoothed loss are gone on from."""

    def __init__(
        self,
        plan: Plan,
        *,
        memory: Callable[[], tuple[int, int]],
        overflow_is_skipped: bool = False,
        since: Checkpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._memory = memory
        self._overflow_is_skipped = overflow_is_skipped
        self._clock = clock
        self._pending: list[Pending] = []
        self._began = self._settled = self._step_began = clock()
        self._busy = 0.0
        self._window: deque[tuple[float, int, int]] = deque(
            [(0.0, since.step if since else 0, 0)]
        )  # busy seconds, steps and images so far
        self._images = 0
        self._smoothed = since.smoothed_loss * (1 - SMOOTHING**since.step) if since else 0.0
        self._elapsed_before = since.elapsed_millis if since else 0

    def begin_step(self) -> None:
        self._step_began = self._clock()

    def end_step(self, step: int, images: int, loss: "torch.Tensor", grad_norm: "torch.Tensor") -> bool:
        """Notes a step; True when it is time to settle."""
        now = self._clock()
        self._busy += now - self._step_began
        self._pending.append(Pending(step, images, self._busy, now - self._began, loss, grad_norm))
        return now - self._settled >= SETTLE_SECONDS or step == self._plan.total_steps

    def settle(self) -> list[Progress]:
        """The progress of every step since the last call, in order; waits for the device once.

        Raises LossNotFinite naming the first step whose loss, or gradient, is not finite.
        """
        import torch

        if not self._pending:
            return []
        scalars = [scalar.detach().float() for entry in self._pending for scalar in (entry.loss, entry.grad_norm)]
        values = torch.stack(scalars).tolist()
        memory = self._memory()
        pending, self._pending = self._pending, []
        self._settled = self._clock()
        return [
            self._progress(entry, values[2 * place], values[2 * place + 1], memory)
            for place, entry in enumerate(pending)
        ]

    def _progress(self, entry: Pending, loss: float, grad_norm: float, memory: tuple[int, int]) -> Progress:
        plan, step = self._plan, entry.step
        if not math.isfinite(loss):
            raise LossNotFinite(
                f"the loss of step {step} is {loss}; try a lower learning rate than {plan.learning_rate:g}"
            )
        if not math.isfinite(grad_norm):
            if not self._overflow_is_skipped:
                raise LossNotFinite(f"the gradient of step {step} is not finite; try a lower learning rate")
            grad_norm = 0.0  # nothing was learnt in this step
        self._images += entry.images
        self._smoothed = SMOOTHING * self._smoothed + (1 - SMOOTHING) * loss
        self._window.append((entry.busy, step, self._images))
        while len(self._window) > 2 and entry.busy - self._window[0][0] > WINDOW_SECONDS:
            self._window.popleft()
        since, first_step, first_images = self._window[0]
        seconds = max(entry.busy - since, 1e-9)
        return Progress(
            step=step,
            total_steps=plan.total_steps,
            epoch=plan.epoch_of(step),
            total_epochs=plan.total_epochs,
            loss=loss,
            smoothed_loss=self._smoothed / (1 - SMOOTHING**step),
            learning_rate=plan.learning_rate_at(step),
            images_per_second=(self._images - first_images) / seconds,
            elapsed_millis=self._elapsed_before + round(entry.elapsed * 1000),
            remaining_millis=round((plan.total_steps - step) * seconds / (step - first_step) * 1000),
            memory_bytes=memory[0],
            grad_norm=grad_norm,
            peak_memory_bytes=memory[1],
        )
