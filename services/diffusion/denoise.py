"""The reverse process, step by step: noise into latents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    prompt_embeds: "torch.Tensor",
    negative_embeds: "torch.Tensor | None" = None,
    seeds: Sequence[int],
    width: int,
    height: int,
    steps: int,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
) -> Iterator[Step]:
    """Draws `len(seeds)` latents together, yielding after every pass; the last step's latents are the result.

    `prompt_embeds` and `negative_embeds` are (1, T, D) or (B, T, D). Guidance (Ho and Salimans 2022) acts when its
    scale is above 1, and then wants `negative_embeds`. Image i's noise, at the start and in stochastic samplers, comes
    from a generator of its own seeded with `seeds[i]`, on the CPU and in float32, so that a seed means the same
    everywhere and whatever else is in the batch. `width` and `height` are pixels, multiples of
    `components.size_multiple`. The scheduler works in float32 whatever the denoiser's precision. Leaving the generator
    ends the work.
    """
    import torch

    device, dtype = components.device, components.dtype
    batch = len(seeds)
    guided = guidance_scale > 1
    embeds = prompt_embeds.expand(batch, -1, -1)
    if guided:
        if negative_embeds is None:
            raise ValueError("guidance wants negative_embeds")
        embeds = torch.cat([negative_embeds.expand(batch, -1, -1), embeds])
    embeds = embeds.to(device, dtype).contiguous()

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = (1, components.unet.config.in_channels, height // components.vae_factor, width // components.vae_factor)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(device)
    sampler: Any = scheduler
    sampler.set_timesteps(steps, device=device)
    latents = noise * sampler.init_noise_sigma
    extra = _step_arguments(sampler, generators)
    total = len(sampler.timesteps)
    for index, timestep in enumerate(sampler.timesteps, start=1):
        with torch.no_grad():
            scaled = sampler.scale_model_input(latents, timestep)
            entry = torch.cat([scaled, scaled]) if guided else scaled
            output = components.unet(entry.to(dtype), timestep, encoder_hidden_states=embeds, return_dict=False)[
                0
            ].float()
            if guided:
                output = _guide(output, guidance_scale, guidance_rescale)
            latents = sampler.step(output, timestep, latents, **extra, return_dict=False)[0]
        yield Step(index, total, latents, _original(sampler, scaled, output, timestep))


def _guide(output: "torch.Tensor", scale: float, rescale: float) -> "torch.Tensor":
    """Classifier-free guidance of (2B, C, H, W), unconditional half first; rescaled as Lin et al. 2023, section 3.4."""
    negative, positive = output.chunk(2)
    guided = negative + scale * (positive - negative)
    if rescale > 0:
        axes = tuple(range(1, guided.ndim))
        matched = guided * (positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
        guided = rescale * matched + (1 - rescale) * guided
    return guided


def _step_arguments(scheduler: Any, generators: "list[torch.Generator]") -> dict[str, Any]:
    """`generator` for the schedulers that take one."""
    import inspect

    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}


def _original(
    scheduler: Any, scaled: "torch.Tensor", output: "torch.Tensor", timestep: "torch.Tensor"
) -> "Callable[[], torch.Tensor]":
    """x_0 out of x_t and the prediction, when it is asked for.

    `scaled` is the denoiser's own input, which is variance preserving under every scheduler, so one formula serves all.
    """

    def predict() -> "torch.Tensor":
        original: torch.Tensor
        alpha = scheduler.alphas_cumprod[int(timestep)].to(scaled)
        root, noise_root = alpha.clamp(min=2**-24) ** 0.5, (1 - alpha) ** 0.5
        match scheduler.config.prediction_type:
            case "epsilon":
                original = (scaled - noise_root * output) / root
            case "v_prediction":
                original = root * scaled - noise_root * output
            case _:
                original = output
        return original

    return predict
