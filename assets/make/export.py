"""The shipped folder: the parts gathered as a StableDiffusionPipeline in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from assets.make.base import build_scheduler


def assemble(vae: Path, base: Path) -> StableDiffusionPipeline:
    """The pipeline of an autoencoder folder and a base folder (unet, text_encoder, tokenizer), in float32."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(base / "unet"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(vae: Path, base: Path, out: Path) -> int:
    """Saves the pipeline in fp16 safetensors; returns the folder's size in bytes."""
    assemble(vae, base).to(torch.float16).save_pretrained(out, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # CLIP's layout, for loaders that do not read tokenizer.json
        shutil.copy(base / "tokenizer" / name, out / "tokenizer" / name)
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
