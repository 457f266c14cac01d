"""The denoiser and its text encoder, trained together on cached latents.

v-prediction (Salimans & Ho 2022) with zero terminal SNR and trailing spacing (Lin et al. 2023), captions dropped in
a tenth of the steps for guidance (Ho & Salimans 2022), and an exponential moving average of the weights, which is
what is shipped. The loss is plain: min-SNR weights (Hang et al. 2023) all but leave out the noisiest steps, which
is where the words decide what the picture will be.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from assets.make.data import pictures, to_tensor
from assets.make.pace import Pace
from assets.make.words import LENGTH, sentence, train_tokenizer

WIDTH = 128  # of the text encoder


def build_unet() -> UNet2DConditionModel:
    """The untrained denoiser: 7.4 million weights, cross attention at 8 by 8 and 4 by 4."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder: three layers of CLIP's."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule, as it is shipped."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Scaled latents (B, 4, 16, 16) of images (B, 3, 64, 64) in [-1, 1]."""
    modes = [vae.encode(part).latent_dist.mode() for part in images.split(64)]
    latents: torch.Tensor = torch.cat(modes) * vae.config.scaling_factor
    return latents


class Average:
    """An exponential moving average of the weights of some modules, warm from the first step."""

    def __init__(self, modules: list[nn.Module], decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.live = [p for module in modules for p in module.parameters()]
        self.kept = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (20 + self.steps))
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their average; a second call brings them back."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.data, kept.data = kept.data, live.data


def weights_of_snr(scheduler: DDIMScheduler, gamma: float = 5.0) -> torch.Tensor:
    """min(SNR, gamma) / (SNR + 1) for every timestep, which is min-SNR under v-prediction; (T,)."""
    alphas = scheduler.alphas_cumprod
    weights: torch.Tensor = torch.minimum(alphas, gamma * (1 - alphas))
    return weights


def train(vae_folder: Path, out: Path, *, steps: int, batch: int = 24, rate: float = 1e-3, seed: int = 0) -> None:
    """Trains for so many steps in all, the rate a cosine; goes on from `out/state.pt` where there is one."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    seen = pictures()
    images = to_tensor([picture.pixels for picture in seen])
    latents = encode(vae, images)  # no flips: with so few steps, one picture a name is learnt sharper than two
    chances = torch.tensor([picture.weight for picture in seen])
    if (out / "tokenizer").exists():
        tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    else:
        tokenizer = train_tokenizer([picture.caption for picture in seen], out / "tokenizer")
    unet = build_unet().to(memory_format=torch.channels_last)
    text_encoder = build_text_encoder(tokenizer)
    scheduler = build_scheduler()
    modules: list[nn.Module] = [unet, text_encoder]
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = Average(modules, 0.998)
    step, spent = 0, 0.0
    if (out / "state.pt").exists():
        step, spent = restore(out / "state.pt", modules, optimizer, average)
    chance = random.Random(seed + step)
    generator = torch.Generator().manual_seed(seed + step)
    pace = Pace()
    mean_loss, began, saved = 0.0, time.monotonic() - spent, time.monotonic()
    while step < steps:
        pace.tune()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * max(0.02, 0.5 + 0.5 * math.cos(step / steps * math.pi))
        rows = torch.multinomial(chances, batch, replacement=True, generator=generator)
        clean = latents[rows].contiguous(memory_format=torch.channels_last)
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(1000, (batch,), generator=generator)
        words = [sentence(seen[row].caption, chance) for row in rows.tolist()]
        ids = tokenizer(words, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
        hidden = text_encoder(ids)[0]
        made = unet(scheduler.add_noise(clean, noise, times), times, hidden).sample
        target = scheduler.get_velocity(clean, noise, times)
        errors = F.mse_loss(made, target, reduction="none").mean(dim=(1, 2, 3))
        loss = errors.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update()
        step += 1
        mean_loss += (errors.mean().item() - mean_loss) / min(step, 100)
        if step % 50 == 0:
            print(f"{step} {time.monotonic() - began:.0f}s loss {mean_loss:.4f}", flush=True)
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            checkpoint(out, modules, optimizer, average, step, saved - began)
    checkpoint(out, modules, optimizer, average, step, time.monotonic() - began)


def checkpoint(
    out: Path, modules: list[nn.Module], optimizer: torch.optim.Optimizer, average: Average, step: int, spent: float
) -> None:
    """Saves what a resume needs in `state.pt`, and the averaged unet and text encoder beside it."""
    state: dict[str, Any] = {"step": step, "spent": spent, "optimizer": optimizer.state_dict(), "kept": average.kept}
    state["modules"] = [module.state_dict() for module in modules]
    torch.save(state, out / "state.new")
    (out / "state.new").replace(out / "state.pt")
    average.swap()
    for module, name in zip(modules, ("unet", "text_encoder"), strict=True):
        module.save_pretrained(out / name)  # type: ignore[operator]
    average.swap()


def restore(
    path: Path, modules: list[nn.Module], optimizer: torch.optim.Optimizer, average: Average
) -> tuple[int, float]:
    """Loads a checkpoint; returns the steps done and the seconds spent."""
    state = torch.load(path, weights_only=True)
    for module, weights in zip(modules, state["modules"], strict=True):
        module.load_state_dict(weights)
    optimizer.load_state_dict(state["optimizer"])
    for kept, value in zip(average.kept, state["kept"], strict=True):
        kept.copy_(value)
    average.steps = state["step"]
    return state["step"], state["spent"]
