"""What a denoiser is asked to predict at which noise, and how much each timestep counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Objective(Protocol):
    """How a family's denoiser is trained. Latents and noise are (B, ...); times (B,) are what the denoiser is told."""

    def times(self, where: "torch.Tensor") -> "torch.Tensor":
        """Of (B,) uniform random numbers in [0, 1): the distribution that times are trained in."""
        ...

    def diffuse(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """The denoiser's input."""
        ...

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """What the denoiser shall answer."""
        ...

    def min_snr_weights(self, times: "torch.Tensor", gamma: float) -> "torch.Tensor":
        """(B,) weights of the squared errors."""
        ...


@dataclass(frozen=True)
class NoiseSchedule:
    """Diffusion in T discrete steps (Ho et al. 2020): x_t = signal[t] * x_0 + noise[t] * epsilon; both (T,) float32,
    their squares sum to 1."""

    signal: "torch.Tensor"
    noise: "torch.Tensor"
    prediction: str  # epsilon, v_prediction or sample

    def __len__(self) -> int:
        return len(self.signal)

    def times(self, where: "torch.Tensor") -> "torch.Tensor":
        """All steps alike, int64 in [0, T)."""
        return (where * len(self)).long().clamp(max=len(self) - 1)

    def diffuse(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """x_t."""
        return spread(self.signal[times], latents) * latents + spread(self.noise[times], latents) * noise

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """v is Salimans and Ho 2022's signal * epsilon - noise * x_0."""
        match self.prediction:
            case "epsilon":
                return noise
            case "v_prediction":
                return spread(self.signal[times], latents) * noise - spread(self.noise[times], latents) * latents
            case _:
                return latents

    def min_snr_weights(self, times: "torch.Tensor", gamma: float) -> "torch.Tensor":
        """Those of Hang et al. 2023, equation 7 and section 3.4; all 1 when `gamma` is 0.

        The paper weights the error of x_0 by min(SNR, gamma). The same error is SNR times smaller than epsilon's and
        SNR + 1 times smaller than v's, hence the divisors.
        """
        import torch

        if gamma <= 0:
            return torch.ones(times.shape)
        snr = (self.signal[times] / self.noise[times]) ** 2
        match self.prediction:
            case "epsilon":
                return (gamma / snr).clamp(max=1)  # min(SNR, gamma) / SNR, also where SNR is 0
            case "v_prediction":
                return snr.clamp(max=gamma) / (snr + 1)
            case _:
                return snr.clamp(max=gamma)


def schedule_of(scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule that a model was trained with, read as diffusers' DDPMScheduler reads it."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(dict(scheduler_config))
    alphas = scheduler.alphas_cumprod.float()
    return NoiseSchedule(alphas.sqrt(), (1 - alphas).sqrt(), str(scheduler.config.prediction_type))


def original_of(
    scheduler: Any, scaled: "torch.Tensor", output: "torch.Tensor", timestep: "torch.Tensor"
) -> "torch.Tensor":
    """x_0 out of x_t and the prediction, for schedulers of discrete steps.

    `scaled` is the denoiser's own input, which is variance preserving under every scheduler, so one formula serves all.
    """
    alpha = scheduler.alphas_cumprod[int(timestep)].to(scaled)
    root, noise_root = alpha.clamp(min=2**-24) ** 0.5, (1 - alpha) ** 0.5
    original: torch.Tensor
    match scheduler.config.prediction_type:
        case "epsilon":
            original = (scaled - noise_root * output) / root
        case "v_prediction":
            original = root * scaled - noise_root * output
        case _:
            original = output
    return original


def spread(values: "torch.Tensor", over: "torch.Tensor") -> "torch.Tensor":
    """(B,) as (B, 1, 1, ...), to be multiplied with `over` (B, ...)."""
    return values.view(-1, *[1] * (over.ndim - 1))
