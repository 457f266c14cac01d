"""Parts of a model that no step needs, kept out of the accelerator's memory until pictures are drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.diffusion.load import Components
from services.trainer.domain import TrainingConfig

if TYPE_CHECKING:
    import torch


def idle_parts(components: Components, config: TrainingConfig) -> "list[torch.nn.Module]":
    """What the caches stand for: the VAE, and what reads words or pictures unless it is asked at each step."""
    reads = config.train_text_encoder or config.caption_shuffle
    kept = {components.family.denoiser, *(set(components.modules) - {"vae"} if reads else ())}
    return [module for name, module in components.modules.items() if name not in kept]


def set_aside(parts: "Sequence[torch.nn.Module]") -> None:
    """To the CPU's memory; nothing moves where training is there too."""
    for part in parts:
        part.to("cpu")


@contextmanager
def at_hand(parts: "Sequence[torch.nn.Module]", device: "torch.device") -> Iterator[None]:
    """The parts are on the device inside the block."""
    for part in parts:
        part.to(device)
    try:
        yield
    finally:
        set_aside(parts)
