"""The demo's fine-tune, tried: a LoRA of the line-icon style on the base, and what it does to unseen prompts.

Low-rank adaptation (Hu et al. 2022) with peft on the denoiser only, latents and embeddings cached; the loss is the
base's own. The demo itself trains through the Trainer service; this is for choosing its settings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image

from assets.make.base import encode, weights_of_snr
from assets.make.data import icons, to_tensor
from assets.make.demo import DEMO_ICONS

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut")
ALL = (*ATTENTION, *CONVOLUTIONS, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj")


@dataclass(frozen=True)
class Settings:
    """What the demo's fine-tune is run with."""

    rank: int = 8
    alpha: int = 8
    targets: tuple[str, ...] = ALL
    rate: float = 1e-3
    steps: int = 200
    batch: int = 4
    snr_gamma: float | None = None
    seed: int = 0


def fine_tune(pipeline: StableDiffusionPipeline, settings: Settings) -> float:
    """Adds a LoRA named `demo` to the pipeline's unet and trains it; returns the seconds it took."""
    torch.manual_seed(settings.seed)
    drawn = icons(demo=True)
    latents = encode(pipeline.vae, to_tensor([drawn[name] for name in DEMO_ICONS]))
    with torch.no_grad():
        tokens = pipeline.tokenizer(
            list(DEMO_ICONS.values()), padding="max_length", truncation=True, return_tensors="pt",
            max_length=pipeline.tokenizer.model_max_length,
        )  # fmt: skip
        hidden = pipeline.text_encoder(tokens.input_ids)[0]
    unet, scheduler = pipeline.unet, pipeline.scheduler
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets)),
        adapter_name="demo",
    )
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate)
    snr_weights = weights_of_snr(scheduler, settings.snr_gamma or 1e9)
    unet.train()
    began = time.monotonic()
    for _ in range(settings.steps):
        rows = torch.randint(len(latents), (settings.batch,))
        clean, noise, times = (
            latents[rows],
            torch.randn(settings.batch, 4, 16, 16),
            torch.randint(1000, (settings.batch,)),
        )
        made = unet(scheduler.add_noise(clean, noise, times), times, hidden[rows]).sample
        target = scheduler.get_velocity(clean, noise, times)
        errors = F.mse_loss(made, target, reduction="none").mean(dim=(1, 2, 3))
        loss = (errors * snr_weights[times]).mean() if settings.snr_gamma else errors.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    unet.eval()
    return time.monotonic() - began


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    *,
    steps: int = 20,
    guidance: float = 3.0,
    rescale: float = 0.0,
    seed: int = 0,
) -> list[Image.Image]:
    """One picture a prompt, each from its own seed."""
    images: list[Image.Image] = []
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        seeds = [torch.Generator().manual_seed(seed * 1000 + start + i) for i in range(len(part))]
        images += pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, guidance_rescale=rescale, generator=seeds
        ).images
    return images
