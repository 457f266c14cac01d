"""What chance decides in one optimizer step, drawn for all its pictures at once.

How the step is then split into batches changes nothing, and a step's draws are a function of the seed and its number.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.trainer.worker.seeds import generator_for

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Draws:
    """For the B pictures of a step."""

    flipped: "torch.Tensor"  # (B,) bool
    captionless: "torch.Tensor"  # (B,) bool
    where: "torch.Tensor"  # (B,) in [0, 1), from which the objective makes timesteps
    jitter: "torch.Tensor"  # (B, C, H, W) where in the VAE's posterior the latents lie
    noise: "torch.Tensor"  # (B, C, H, W) epsilon
    wording: "torch.Tensor"  # (B,) int64, which of a caption's lines is said, and in which order its tags

    def __getitem__(self, rows: list[int]) -> "Draws":
        """The draws of some of the pictures."""
        return Draws(
            self.flipped[rows],
            self.captionless[rows],
            self.where[rows],
            self.jitter[rows],
            self.noise[rows],
            self.wording[rows],
        )


def draw_step(
    seed: int,
    step: int,
    count: int,
    latent_shape: tuple[int, ...],
    *,
    flip: bool,
    caption_dropout: float,
    noise_offset: float,
    part: int = 0,
) -> Draws:
    """The draws of optimizer step `step` over `count` pictures with latents of (C, H, W); `part` counts the sizes of a
    step whose pictures have several.

    `flip` mirrors half of the pictures; `caption_dropout` is the share of captions left out; `noise_offset` shifts each
    channel's noise by a normal number times itself, so that brightness is learnt too (Guttenberg 2023, "Diffusion with
    Offset Noise", crosslabs.org).
    """
    import torch

    generator = generator_for(seed, "step", step, *([part] if part else []))
    shape = (count, *latent_shape)
    # Always all of them in this order: turning one thing on leaves the others' numbers as they were.
    noise = torch.randn(shape, generator=generator)
    jitter = torch.randn(shape, generator=generator)
    where = torch.rand((count,), generator=generator)
    coins = torch.rand((2, count), generator=generator)
    ones = [1] * (len(latent_shape) - 3)
    offsets = torch.randn((count, *ones, latent_shape[-3], 1, 1), generator=generator)
    wording = torch.randint(2**62, (count,), generator=generator)
    return Draws(
        flipped=coins[0] < (0.5 if flip else 0.0),
        captionless=coins[1] < caption_dropout,
        where=where,
        jitter=jitter,
        noise=noise + noise_offset * offsets if noise_offset else noise,
        wording=wording,
    )
