"""The reverse process, step by step: noise into latents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from services.diffusion.families.family import Conditioning
from services.diffusion.geometry import as_rows, whole
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class Step:
    """Where a batch stands after one pass of the denoiser."""

    index: int  # from 1
    total: int
    latents: "torch.Tensor"  # (B, C, H/f, W/f) float32
    predict_original: "Callable[[], torch.Tensor]"  # what the denoiser takes the finished latents to be; for previews


def denoise(
    components: Components,
    scheduler: "SchedulerMixin",
    *,
    said: Conditioning,
    unsaid: Conditioning | None = None,
    seeds: Sequence[int],
    width: int,
    height: int,
    steps: int,
    guidance_scale: "float | torch.Tensor" = 7.5,
    guidance_rescale: float = 0.0,
    noise: "torch.Tensor | None" = None,
) -> Iterator[Step]:
    """Draws `len(seeds)` latents together, yielding after every pass; the last step's latents are the result.

    `said` is what the pictures shall show and `unsaid` what guidance leads away from (of `encode_prompts`, one row for
    all or one each). Guidance (Ho and Salimans 2022) acts when its scale is above 1, and then wants `unsaid`. Image
    i's noise, at the start and in stochastic samplers, comes from a generator of its own seeded with `seeds[i]`, on the
    CPU and in float32, so that a seed means the same everywhere and whatever else is in the batch. `width` and `height`
    are pixels, multiples of `components.size.multiple`. Where `noise` (B, ...) is given, drawing begins with that, and
    latents have its shape: clips are drawn so, whose guidance is a tensor (F, 1, 1, 1).
    The scheduler works in float32 whatever the denoiser's precision. Leaving the generator ends the work.
    """
    import torch

    components.wake(components.family.denoiser)
    device, dtype = components.device, components.dtype
    batch = len(seeds)
    guided = bool(guidance_scale > 1) if isinstance(guidance_scale, float | int) else bool((guidance_scale > 1).any())
    if guided and unsaid is None:
        raise ValueError("guidance wants what it leads away from")
    conditioning = _together([*([unsaid] if guided and unsaid else []), said], batch, device, dtype)
    conditioning["geometry"] = as_rows([whole(width, height)] * batch * (2 if guided else 1), device)

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    factor = components.size.vae_factor
    shape = (1, components.vae.config.latent_channels, height // factor, width // factor)
    if noise is None:
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    sampler: Any = scheduler
    sampler.set_timesteps(steps, device=device)
    latents = noise.to(device) * getattr(sampler, "init_noise_sigma", 1.0)
    extra = step_arguments(sampler, generators)
    total = len(sampler.timesteps)
    for index, timestep in enumerate(sampler.timesteps, start=1):
        with torch.no_grad():
            scaled = sampler.scale_model_input(latents, timestep) if hasattr(sampler, "scale_model_input") else latents
            entry = (torch.cat([scaled, scaled]) if guided else scaled).to(dtype)
            output = components.family.predict(components, entry, timestep, conditioning).float()
            if guided:
                negative, positive = output.chunk(2)
                output = guide(negative, positive, guidance_scale, guidance_rescale)
            latents = sampler.step(output, timestep, latents, **extra, return_dict=False)[0]
        yield Step(index, total, latents, partial(components.family.original, sampler, scaled, output, timestep))


def _together(
    parts: Sequence[Conditioning], batch: int, device: "torch.device", dtype: "torch.dtype"
) -> "dict[str, torch.Tensor]":
    """`batch` rows of each of the parts, one part behind the other."""
    import torch

    together = {}
    for name in parts[0]:
        rows = [part[name].expand(batch, *part[name].shape[1:]) for part in parts]
        together[name] = torch.cat(rows).to(device, dtype).contiguous()
    return together


def guide(
    negative: "torch.Tensor", positive: "torch.Tensor", scale: "float | torch.Tensor", rescale: "float | torch.Tensor"
) -> "torch.Tensor":
    """Classifier-free guidance (Ho and Salimans 2022) of (B, ...), rescaled as Lin et al. 2023, section 3.4. Scale and
    rescale are those of all, or tensors that are spread over the answers."""
    guided = negative + scale * (positive - negative)
    is_rescaled = rescale > 0
    if is_rescaled if isinstance(is_rescaled, bool) else bool(is_rescaled.any()):
        axes = tuple(range(1, guided.ndim))
        matched = guided * (positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
        guided = rescale * matched + (1 - rescale) * guided
    return guided


def step_arguments(scheduler: Any, generators: "list[torch.Generator]") -> dict[str, Any]:
    """`generator` for the schedulers that take one."""
    import inspect

    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
