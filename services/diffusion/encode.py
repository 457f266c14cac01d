"""Words and pictures into the denoiser's spaces, and back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch


def encode_prompts(components: Components, prompts: Sequence[str]) -> "torch.Tensor":
    """(B, T, D): the text encoder's last hidden state of each prompt, cut and padded to T tokens. B >= 1.

    Gradients flow where the text encoder's parameters ask for them.
    """
    tokens = components.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=components.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = components.text_encoder.device
    mask = None
    if getattr(components.text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(device)
    hidden: torch.Tensor = components.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
    return hidden


def cut_tokens(components: Components, prompt: str) -> str:
    """The end of `prompt` that does not fit the text encoder and will not be read; empty when all of it fits."""
    limit = components.tokenizer.model_max_length
    ids = components.tokenizer(prompt).input_ids
    # The last place is the end marker's.
    return str(components.tokenizer.decode(ids[limit - 1 : -1])).strip() if len(ids) > limit else ""


def encode_images(components: Components, images: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Mean and standard deviation of the VAE's posterior, each (B, C, H/f, W/f), scaled as the denoiser wants them.

    `images` are (B, 3, H, W) in [-1, 1]. A latent is `mean + std * noise`.
    """
    import torch

    with torch.no_grad():
        images = images.to(components.vae.device, components.vae.dtype)
        posterior = components.vae.encode(images).latent_dist
    scale = components.vae.config.scaling_factor
    return posterior.mean * scale, posterior.std * scale


def decode_latents(components: Components, latents: "torch.Tensor") -> "torch.Tensor":
    """(B, H, W, 3) uint8 on the CPU, of scaled latents (B, C, H/f, W/f)."""
    import torch

    images: torch.Tensor
    with torch.no_grad():
        latents = latents.to(components.vae.dtype) / components.vae.config.scaling_factor
        images = components.vae.decode(latents, return_dict=False)[0]
    images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (images.float() * 255).round().to("cpu", torch.uint8)
