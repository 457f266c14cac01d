"""What memory holds for as long as somebody uses it."""

import time
from abc import ABC, abstractmethod

from services.generator.domain import LoadedModel


class Held(ABC):
    """A model by itself: a base, or a ControlNet."""

    def __init__(self, *, model_id: int, name: str) -> None:
        self.model_id = model_id
        self.name = name
        self.users = 0
        self.used = time.monotonic()
        self.held_until = 0.0  # whoever asked for it shall find it

    @property
    @abstractmethod
    def memory_bytes(self) -> int: ...

    @property
    def is_busy(self) -> bool:
        return self.users > 0 or self.held_until > time.monotonic()

    def describe(self) -> LoadedModel:
        """From any thread."""
        idle = int((time.monotonic() - self.used) * 1000)
        return LoadedModel(self.model_id, self.name, self.memory_bytes, self._lora_ids(), idle, self.users)

    def _lora_ids(self) -> tuple[int, ...]:
        """Of the LoRAs on it. From any thread."""
        return ()
