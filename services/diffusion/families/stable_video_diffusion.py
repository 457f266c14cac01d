"""Stable Video Diffusion (Blattmann et al. 2023): a clip from its first frame. Latents are (B, F, C, H, W).

It is trained over continuous noise levels, as Karras et al. 2022 (EDM) have it, with v-prediction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.diffusion.families.family import Conditioning, Family, Part
from services.diffusion.families.stable_diffusion import ATTENTION, size
from services.diffusion.objective import spread

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components

CLIP_SIDE = 224
"""Pixels a side that the image encoder looks at."""
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.7, 1.6
"""Of the noise levels that image to video is trained at (Blattmann et al. 2023, appendix D)."""


@dataclass(frozen=True)
class Edm:
    """The denoiser is given (x_0 + sigma epsilon) / sqrt(sigma^2 + 1), is told log(sigma) / 4, and learns v, which is
    (epsilon - sigma x_0) / sqrt(sigma^2 + 1): the preconditioning of Karras et al. 2022 with sigma_data 1, under which
    EDM's weights of the clip's error are 1 for v's."""

    def times(self, where: "torch.Tensor") -> "torch.Tensor":
        """Log-normal noise levels."""
        import torch

        normal: torch.Tensor = torch.special.ndtri(where.double().clamp(1e-6, 1 - 1e-6))
        return ((LOG_SIGMA_MEAN + LOG_SIGMA_STD * normal) / 4).float()

    def diffuse(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """The denoiser's input."""
        sigma = spread((4 * times).exp(), latents)
        return (latents + sigma * noise) / (sigma**2 + 1).sqrt()

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """v."""
        sigma = spread((4 * times).exp(), latents)
        return (noise - sigma * latents) / (sigma**2 + 1).sqrt()

    def min_snr_weights(self, times: "torch.Tensor", gamma: float) -> "torch.Tensor":
        """All 1: how often a noise level is drawn is its weight."""
        import torch

        return torch.ones(times.shape)


def objective(scheduler_config: Mapping[str, Any]) -> Edm:
    """The same for all models of the family."""
    return Edm()


def original(
    scheduler: Any, scaled: "torch.Tensor", output: "torch.Tensor", timestep: "torch.Tensor"
) -> "torch.Tensor":
    """x_0 of v."""
    sigma = (4 * timestep.to(scaled)).exp()
    return (scaled - sigma * output) / (sigma**2 + 1).sqrt()


def unsupported(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """A UNet that is not shown a first frame."""
    if unet["in_channels"] != 2 * vae["latent_channels"]:
        return "the denoiser is not shown a first frame (no image-to-video model)"
    return ""


def encode_prompts(components: "Components", prompts: Sequence[str], weighted: bool) -> Conditioning:
    """Raises FailedPrecondition: it reads no words."""
    message = "models of the family stable_video_diffusion draw from a picture, and read no words"
    raise FailedPrecondition(message, reason="NO_WORDS")


def encode_frames(components: "Components", frames: "torch.Tensor", noise: "torch.Tensor") -> Conditioning:
    """What the denoiser is told of first frames (B, 3, H, W) in [-1, 1], on which `noise` of the same shape is laid:
    `picture` (B, 1, D), what the image encoder sees in them without the noise; `first_frame` (B, C, H/f, W/f), their
    latents, which are not scaled."""
    import torch
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    encoder, vae, prepare = (components.parts[name] for name in ("image_encoder", "vae", "feature_extractor"))
    with torch.no_grad():
        small = (_resize_with_antialiasing(frames.float(), (CLIP_SIDE, CLIP_SIDE)) + 1) / 2
        mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in (prepare.image_mean, prepare.image_std))
        normal = ((small - mean.to(small)) / deviation.to(small)).to(encoder.device, encoder.dtype)
        picture = encoder(normal).image_embeds[:, None]
        latents = vae.encode((frames + noise).to(vae.device, vae.dtype)).latent_dist.mode()
    return {"picture": picture, "first_frame": latents}


def predict(
    components: "Components", noisy: "torch.Tensor", timesteps: "torch.Tensor", conditioning: Conditioning
) -> "torch.Tensor":
    """The UNet's answer to (B, F, C, H, W). `motion` (B, 3) of the conditioning is the rate of frames, how much moves,
    and the strength of the noise on the first one."""
    shown = conditioning["first_frame"].to(noisy)[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
    import torch

    answer: torch.Tensor = components.denoiser(
        torch.cat([noisy, shown], dim=2),
        timesteps,
        encoder_hidden_states=conditioning["picture"],
        added_time_ids=conditioning["motion"],
        return_dict=False,
    )[0]
    return answer


WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILY = Family(
    name="stable_video_diffusion",
    parts=(
        Part("feature_extractor", "transformers", "CLIPImageProcessor", files=("preprocessor_config.json",)),
        Part("image_encoder", "transformers", "CLIPVisionModelWithProjection", "model.safetensors", ("config.json",)),
        Part("vae", "diffusers", "AutoencoderKLTemporalDecoder", WEIGHTS, ("config.json",)),
        Part("unet", "diffusers", "UNetSpatioTemporalConditionModel", WEIGHTS, ("config.json",)),
        Part("scheduler", "diffusers", "EulerDiscreteScheduler", files=("scheduler_config.json",)),
    ),
    denoiser="unet",
    text_encoders=(),
    tokenizers=(),
    lora_targets=ATTENTION,
    text_encoder_lora_targets=(),
    lora_reader="StableDiffusionLoraLoaderMixin",
    kohya_version="svd",
    fix_scheduler_config=dict,
    size=size,
    unsupported=unsupported,
    encode_prompts=encode_prompts,
    predict=predict,
    objective=objective,
    original=original,
    has_noise_schedule=False,
    encode_frames=encode_frames,
)
