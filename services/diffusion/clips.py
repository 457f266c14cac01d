"""Clips drawn from their first frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.diffusion.denoise import Step, denoise
from services.diffusion.families.family import Conditioning
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

LEAST_GUIDANCE = 1.0
"""Of the first frame, which is nearly given; it rises along the clip (Blattmann et al. 2023, appendix D.3)."""


def motion_of(frames_per_second: int, motion_bucket_id: int, noise_augmentation: float) -> tuple[float, float, float]:
    """What the denoiser is told of motion: it was trained on the rate less one."""
    return (frames_per_second - 1.0, float(motion_bucket_id), noise_augmentation)


@dataclass(frozen=True)
class ClipStart:
    """What drawing a clip begins with, one row each."""

    seed: int
    said: Conditioning
    unsaid: Conditioning
    noise: "torch.Tensor"  # (1, F, C, H/f, W/f)
    guidance_scale: "torch.Tensor"  # (F, 1, 1, 1)


def begin_clip(
    components: Components,
    frame: "torch.Tensor",
    *,
    seed: int,
    num_frames: int,
    frames_per_second: int = 7,
    motion_bucket_id: int = 127,
    noise_augmentation: float = 0.02,
    guidance_scale: float = 3.0,
) -> ClipStart:
    """Of a clip's first frame (3, H, W) in [-1, 1]."""
    import torch

    encode: Any = components.family.encode_frames
    height, width = frame.shape[1:]
    factor = components.size.vae_factor
    generator = torch.Generator("cpu").manual_seed(seed)
    grain = noise_augmentation * torch.randn((1, *frame.shape), generator=generator)
    shape = (1, num_frames, components.vae.config.latent_channels, height // factor, width // factor)
    noise = torch.randn(shape, generator=generator)
    components.wake(*components.readers)
    said = dict(encode(components, frame[None], grain))
    unsaid = {name: torch.zeros_like(value) for name, value in said.items()}
    motion = torch.tensor([motion_of(frames_per_second, motion_bucket_id, noise_augmentation)])
    said["motion"] = unsaid["motion"] = motion
    guidance = torch.linspace(LEAST_GUIDANCE, guidance_scale, num_frames).view(-1, 1, 1, 1)
    return ClipStart(seed, said, unsaid, noise, guidance.to(components.device))


def draw_clip(
    components: Components, scheduler: "SchedulerMixin", begun: ClipStart, *, steps: int = 25
) -> Iterator[Step]:
    """Draws the latents of one clip, (1, F, C, H/f, W/f), yielding after every pass. As diffusers'
    StableVideoDiffusionPipeline with the same seed draws it."""
    factor = components.size.vae_factor
    height, width = (side * factor for side in begun.noise.shape[-2:])
    return denoise(
        components,
        scheduler,
        said=begun.said,
        unsaid=begun.unsaid,
        seeds=[begun.seed],
        width=width,
        height=height,
        steps=steps,
        guidance_scale=begun.guidance_scale,
        noise=begun.noise,
    )
