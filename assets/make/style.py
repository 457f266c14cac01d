"""Trains the style check: Noto's colour pictures against Fluent's line icons.

The pictures of the demo, and every picture of what the demo's prompts name, are left out of both sides, so that
the check has seen nothing that it will be asked about. Both sides get the same random paper colours, blur, noise and
trips through the autoencoder, and some of the colour pictures lose their colour, so that neither a white ground nor
sharpness nor greyness alone decides.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from assets.make.concepts import concepts
from assets.make.data import emoji, icons, to_tensor
from assets.make.demo import DEMO_ICONS, PROMPT_ICONS, PROMPTS
from assets.style_check import build


def sides() -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, 64, 64) colour pictures and line icons, without anything of the demo."""
    kept_out = {name for name, (caption, _) in concepts().items() if caption in {*PROMPTS, *DEMO_ICONS.values()}}
    colour = [pixels for name, pixels in sorted(emoji().items()) if name not in kept_out]
    line = [pixels for name, pixels in icons(demo=False).items() if name not in PROMPT_ICONS]
    return to_tensor(colour), to_tensor(line)


def split(images: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Four fifths to train on, one fifth held out."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    cut = len(images) * 4 // 5
    return images[order[:cut]], images[order[cut:]]


def soften(images: torch.Tensor, vae: AutoencoderKL | None = None) -> torch.Tensor:
    """What generated pictures are like: shifted, blurred, noisy, a little off in tone."""
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    if vae is not None and torch.rand(()) < 0.3:
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
            images = vae.decode(latents + torch.rand(()) * 0.25 * latents.std() * torch.randn_like(latents)).sample
    size = int(torch.randint(40, 65, ()))
    if size < 56:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        images = F.interpolate(images, size=64, mode="bilinear")
    count = len(images)
    zoom = 0.8 + 0.4 * torch.rand(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom, zoom
    theta[:, :, 2] = 0.15 * torch.randn(count, 2)
    grid = F.affine_grid(theta, [count, 3, 64, 64], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = 0.85 + 0.3 * torch.rand(count, 1, 1, 1)
    shift = 0.1 * torch.randn(count, 3, 1, 1)
    return (images * gain + shift + 0.05 * torch.rand(()) * torch.randn_like(images)).clamp(-1, 1)


def tint(images: torch.Tensor, chance: float) -> torch.Tensor:
    """Multiplies some of the pictures with a random light paper colour, as if drawn on it."""
    count = len(images)
    paper = 1 - 0.5 * torch.rand(count, 3, 1, 1) * (torch.rand(count, 1, 1, 1) < chance)
    return (images + 1) * paper - 1


def ink(images: torch.Tensor, chance: float) -> torch.Tensor:
    """Draws some of the icons in a dark colour instead of black."""
    count = len(images)
    dark = 0.5 * torch.rand(count, 3, 1, 1) * (torch.rand(count, 1, 1, 1) < chance)
    return ((images + 1) / 2 * (1 - dark) + dark) * 2 - 1


def fade(images: torch.Tensor, chance: float) -> torch.Tensor:
    """Takes some or all of the colour from some of the pictures."""
    count = len(images)
    amount = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < chance)
    return images + amount * (images.mean(dim=1, keepdim=True) - images)


def train(vae_folder: Path, out: Path, *, steps: int = 400, batch: int = 24, seed: int = 0) -> dict[str, float]:
    """Trains, saves fp32 safetensors, and returns the held-out rates of right answers."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    (colour, colour_held), (line, line_held) = (split(side) for side in sides())
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    labels = torch.tensor([0.0] * batch + [1.0] * batch)
    for step in range(steps):
        some = fade(colour[torch.randint(len(colour), (batch,))], 0.2)
        others = ink(line[torch.randint(len(line), (batch,))], 0.3)
        images = soften(tint(torch.cat([some, others]), 0.3), vae)
        loss = F.binary_cross_entropy_with_logits(model(images)[:, 0], labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step} loss {loss.item():.4f}", flush=True)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "style-check.safetensors")
    ship(colour_held[:24], out / "held-out")
    with torch.no_grad():
        found = {}
        for name, held, right in (("colour", colour_held, False), ("line", line_held, True)):
            for kind, images in (("plain", held), ("softened", soften(tint(held, 0.3), vae))):
                probability = model(images).sigmoid()[:, 0]
                found[f"{name} {kind}"] = float(((probability > 0.5) == right).float().mean())
                found[f"{name} {kind} mean"] = float(probability.mean())
            grey = model(fade(held, 1.0)).sigmoid()[:, 0]
            found[f"{name} greyed mean"] = float(grey.mean())
    return found


def ship(images: torch.Tensor, folder: Path) -> None:
    """Saves some held-out pictures, (B, 3, 64, 64) in [-1, 1], for the tests."""
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index:02d}.png", optimize=True)
