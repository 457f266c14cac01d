"""Models to measure on that are in no folder of the house."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
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
