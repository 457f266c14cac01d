"""Words and pictures into the denoiser's spaces, and back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.diffusion.families.family import Conditioning
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch


def encode_prompts(components: Components, prompts: Sequence[str], *, weighted: bool = False) -> Conditioning:
    """What the denoiser is told of each prompt, (B, ...) each, cut and padded to what the text encoders read. B >= 1.

    `weighted` reads prompts as Stable Diffusion WebUI does, with weights and in chunks (`services.diffusion.prompts`):
    nothing is cut, and all get as many chunks as the longest, so `words` is n times as long. A prompt without weights
    that fits one chunk is told to the bit as otherwise, where no longer one is beside it. Gradients flow where the text
    encoders' parameters ask for them.
    """
    return components.family.encode_prompts(components, prompts, weighted)


def some_of(conditioning: Conditioning, rows: "slice | torch.Tensor") -> Conditioning:
    """A part of its rows."""
    return {name: value[rows] for name, value in conditioning.items()}


def cut_tokens(components: Components, prompt: str) -> str:
    """The end of `prompt` that does not fit the text encoder and will not be read; empty when all of it fits."""
    tokenizer = components.tokenizers[0]
    limit = tokenizer.model_max_length
    ids = tokenizer(prompt).input_ids
    # The last place is the end marker's.
    return str(tokenizer.decode(ids[limit - 1 : -1])).strip() if len(ids) > limit else ""


def encode_images(components: Components, images: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Mean and standard deviation of the VAE's posterior, each (B, C, H/f, W/f), scaled as the denoiser wants them.

    `images` are (B, 3, H, W) in [-1, 1]. A latent is `mean + std * noise`.
    """
    import torch

    with torch.no_grad():
        images = images.to(components.vae.device, components.vae.dtype)
        posterior = components.vae.encode(images).latent_dist
    scale, shift = _scale_and_shift(components)
    return (posterior.mean - shift) * scale, posterior.std * scale


def _scale_and_shift(components: Components) -> tuple[float, float]:
    config = components.vae.config
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


def decode_latents(components: Components, latents: "torch.Tensor") -> "torch.Tensor":
    """(B, H, W, 3) uint8 on the CPU, of scaled latents (B, C, H/f, W/f); with an axis F behind B of a clip's."""
    import torch

    images: torch.Tensor
    with torch.no_grad():
        scale, shift = _scale_and_shift(components)
        latents = latents.to(components.vae.dtype) / scale + shift
        together = {"num_frames": latents.shape[1]} if latents.ndim == 5 else {}
        images = components.vae.decode(latents.flatten(0, -4), return_dict=False, **together)[0]
    images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    pixels = (images.float() * 255).round().to("cpu", torch.uint8)
    return pixels.unflatten(0, latents.shape[:2]) if together else pixels
