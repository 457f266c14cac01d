"""The autoencoder: 64 px pictures to latents of 4 by 16 by 16, trained by reconstruction.

Latent diffusion (Rombach et al. 2022) with a light first stage: no adversary, an L1 + L2 + gradient loss and a
faint KL term. It sees all the Noto emoji and the icons that are not in the demo, recoloured at random, because it
has to carry any picture a person brings; the denoiser sees far fewer.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from assets.make.data import emoji, icons, to_tensor
from assets.make.pace import Pace

CHANNELS = (16, 32, 64)


def build() -> AutoencoderKL:
    """The untrained autoencoder: factor 4, 4 latent channels, no attention."""
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flips, shifts and swapped colour channels; (B, 3, H, W) in [-1, 1]."""
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    down, right = (int(v) for v in torch.randint(-4, 5, (2,), generator=generator))
    images = F.pad(images, (4, 4, 4, 4), mode="replicate")[..., 4 + down : 68 + down, 4 + right : 68 + right]
    if torch.rand((), generator=generator) < 0.25:
        images = images[:, torch.randperm(3, generator=generator)]
    return images


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences along the height and the width."""
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def reconstruction_loss(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 + half the squared error + the error of the gradients."""
    sharp = sum((F.l1_loss(a, b) for a, b in zip(edges(made), edges(images), strict=True)), torch.zeros(()))
    return F.l1_loss(made, images) + 0.5 * F.mse_loss(made, images) + sharp


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean peak signal to noise ratio in dB over (B, 3, H, W) in [-1, 1]."""
    made = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((made - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.clamp_min(1e-8).log10()).mean())


def train(
    out: Path, *, steps: int, batch: int = 8, rate: float = 2e-3, seed: int = 0, start_from: Path | None = None
) -> None:
    """Trains for so many steps (the rate falls by a cosine) and saves the model and its scaling."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    colour = to_tensor(list(emoji().values()))
    line = to_tensor(list(icons(demo=False).values()))
    vae = AutoencoderKL.from_pretrained(start_from) if start_from else build()
    vae = vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    pace = Pace()
    start, mean_loss = time.monotonic(), 0.0
    for step in range(steps):
        pace.tune()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(step / steps * math.pi))
        source = line if step % 5 == 4 else colour
        images = source[torch.randint(len(source), (batch,), generator=generator)]
        images = augment(images, generator).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        loss = reconstruction_loss(vae.decode(posterior.sample()).sample, images)
        loss = loss + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        mean_loss += (loss.item() - mean_loss) / min(step + 1, 100)
        if step % 100 == 99:
            spent = time.monotonic() - start
            print(f"{step + 1} {spent:.0f}s loss {mean_loss:.4f} psnr {psnr(vae, colour[::40]):.2f}", flush=True)
        if step % 500 == 499:
            save(vae, colour, out)
    save(vae, colour, out)
    print(f"psnr colour {psnr(vae, colour[::5]):.2f} line {psnr(vae, line[::20]):.2f}", flush=True)


@torch.no_grad()
def save(vae: AutoencoderKL, images: torch.Tensor, out: Path) -> None:
    """Saves the model, with the factor that brings its latents to a standard deviation of one."""
    latents = vae.encode(images[::10]).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.save_pretrained(out)
