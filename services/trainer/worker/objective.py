"""What the denoiser is asked to predict, and how much each timestep counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = signal[t] * x_0 + noise[t] * epsilon; both (T,) float32, their squares sum to 1."""

    signal: "torch.Tensor"
    noise: "torch.Tensor"
    prediction: str  # epsilon, v_prediction or sample

    def __len__(self) -> int:
        return len(self.signal)

    def diffuse(self, latents: "torch.Tensor", noise: "torch.Tensor", timesteps: "torch.Tensor") -> "torch.Tensor":
        """x_t of (B, C, H, W) latents at (B,) timesteps."""
        return _spread(self.signal, timesteps) * latents + _spread(self.noise, timesteps) * noise

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", timesteps: "torch.Tensor") -> "torch.Tensor":
        """What the denoiser shall answer to x_t, (B, C, H, W); v is Salimans and Ho 2022's signal * epsilon - noise *
        x_0."""
        match self.prediction:
            case "epsilon":
                return noise
            case "v_prediction":
                return _spread(self.signal, timesteps) * noise - _spread(self.noise, timesteps) * latents
            case _:
                return latents

    def min_snr_weights(self, timesteps: "torch.Tensor", gamma: float) -> "torch.Tensor":
        """(B,) loss weights of Hang et al. 2023, equation 7 and section 3.4; all 1 when `gamma` is 0.

        The paper weights the error of x_0 by min(SNR, gamma). The same error is SNR times smaller than epsilon's and
        SNR + 1 times smaller than v's, hence the divisors.
        """
        import torch

        if gamma <= 0:
            return torch.ones(timesteps.shape)
        snr = (self.signal[timesteps] / self.noise[timesteps]) ** 2
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


def _spread(table: "torch.Tensor", timesteps: "torch.Tensor") -> "torch.Tensor":
    """(B, 1, 1, 1) entries of a (T,) table."""
    return table[timesteps].view(-1, 1, 1, 1)
