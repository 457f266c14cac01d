"""A ControlNet in memory."""

from typing import Any

from services.diffusion.control import check_control
from services.diffusion.device import bytes_of
from services.generator.engine.base import Base
from services.generator.engine.held import Held


class Net(Held):
    """Steers all bases that it fits."""

    def __init__(self, model: Any, *, model_id: int, name: str) -> None:
        super().__init__(model_id=model_id, name=name)
        self.model = model  # diffusers' ControlNetModel
        self._bytes = bytes_of(model.parameters())

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    def check(self, base: Base) -> None:
        """Raises FailedPrecondition unless it was made for such a base."""
        check_control(base.components, self.model)
