"""The exponential moving average of weights: often a better model than where the last step left them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Average:
    """Of `parameters`, with a decay that rises from 0 to `decay`: (1 + n) / (10 + n) after n steps, so that the first
    values are soon forgotten (as TensorFlow's ExponentialMovingAverage and diffusers' EMAModel have it)."""

    def __init__(self, parameters: "Sequence[torch.nn.Parameter]", decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values = [parameter.detach().clone() for parameter in parameters]

    def update(self, step: int) -> None:
        """Takes in the parameters as they are after `step`."""
        import torch

        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.values, list(self._parameters), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average inside the block, and its own values again, to the bit, after it."""
        import torch

        own = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            torch._foreach_copy_(list(self._parameters), self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self._parameters), own)
