"""Words and pictures into the denoiser's spaces, and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

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
    components.wake(*components.readers)
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


def decode_latents(
    components: Components, latents: "torch.Tensor", *, tile_above: int = 0, frames_at_once: int = 0
) -> "torch.Tensor":
    """(B, H, W, 3) uint8 on the CPU, of scaled latents (B, C, H/f, W/f); with an axis F behind B of a clip's.

    Both limits bound memory, and 0 is no limit. A picture of more than `tile_above` pixels is decoded in tiles as large
    as those that the VAE was trained on, which overlap and are blended: colours then differ a little from those of the
    whole. A clip is decoded `frames_at_once`, as diffusers' `decode_chunk_size`: frames of two stretches do not see
    each other.
    """
    import torch

    with torch.no_grad():
        scale, shift = _scale_and_shift(components)
        latents = latents.to(components.vae.dtype) / scale + shift
        if latents.ndim == 5:
            return torch.stack([_decode_clip(components, clip, frames_at_once or len(clip)) for clip in latents])
        factor = components.size.vae_factor
        tiled = 0 < tile_above < latents.shape[-1] * latents.shape[-2] * factor**2
        with _tiling(components.vae) if tiled else nullcontext():
            return _pixels(components.vae.decode(latents, return_dict=False)[0])


def _decode_clip(components: Components, frames: "torch.Tensor", at_once: int) -> "torch.Tensor":
    """(F, H, W, 3) uint8 of (F, C, H/f, W/f), not scaled."""
    import torch

    decode = components.vae.decode
    return torch.cat(
        [_pixels(decode(each, num_frames=len(each), return_dict=False)[0]) for each in frames.split(at_once)]
    )


def _pixels(images: "torch.Tensor") -> "torch.Tensor":
    """(B, H, W, 3) uint8 on the CPU, of (B, 3, H, W) in [-1, 1]."""
    import torch

    images = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (images.float() * 255).round().to("cpu", torch.uint8)


@contextmanager
def _tiling(vae: Any) -> Iterator[None]:
    """diffusers' own, for as long as this lasts."""
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
