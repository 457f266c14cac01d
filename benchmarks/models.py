"""Models to measure on that are in no folder of the house."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

ASSETS = Path(__file__).resolve().parents[1] / "assets"
STARTER = ASSETS / "starter-model"


def make_sd15(folder: Path) -> Path:
    """A folder with Stable Diffusion 1.5's own configuration, random weights halved on disk, and the starter model's
    tokenizer and schedule; gives `folder`. 2.1 GB."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet.half().save_pretrained(folder / "unet")
    del unet
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    vae.half().save_pretrained(folder / "vae")
    words = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12, num_attention_heads=12
    )
    CLIPTextModel(words).half().save_pretrained(folder / "text_encoder")
    for part in ("tokenizer", "scheduler", "model_index.json"):
        source = STARTER / part
        if source.is_dir():
            shutil.copytree(source, folder / part)
        elif source.is_file():
            shutil.copy(source, folder / part)
    config = folder / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 77}))
    return folder


def make_larger(folder: Path) -> Path:
    """A pipeline of the same classes with random weights, 49 M parameters in the denoiser, 256 px; passes of 0.1 s."""
    torch.manual_seed(0)
    small = StableDiffusionPipeline.from_pretrained(STARTER, torch_dtype=torch.float32)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=256,
    )
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(96, 192, 384),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=small.text_encoder.config.hidden_size,
        attention_head_dim=8,
    )
    pipeline = StableDiffusionPipeline(
        vae, small.text_encoder, small.tokenizer, unet, small.scheduler, None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)
    return folder


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def make_lora(folder: Path, unet: UNet2DConditionModel, *, rank: int, seed: int) -> Path:
    """A LoRA on the attention of `unet`, of random numbers that change a picture visibly; gives its file, in diffusers'
    layout."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(ATTENTION):
            out, into = module.weight.shape
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) / into**0.5
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.2 / rank**0.5
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path
