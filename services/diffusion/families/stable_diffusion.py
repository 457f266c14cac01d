"""Stable Diffusion 1.x and 2.x, and every pipeline of the same classes, such as the starter model."""

from collections.abc import Mapping
from typing import Any

from services.diffusion.families.family import Family, Part


def fix_scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as diffusers' StableDiffusionPipeline corrects it on loading.

    Old checkpoints were saved with `steps_offset` 0 and `clip_sample` true, which these models were not trained for;
    without the same correction, the same weights would draw another picture here than there.
    """
    fixed = dict(config)
    if fixed.get("steps_offset", 1) != 1:
        fixed["steps_offset"] = 1
    if fixed.get("clip_sample", False):
        fixed["clip_sample"] = False
    return fixed


FAMILY = Family(
    name="stable_diffusion",
    parts=(
        Part(
            "tokenizer",
            "transformers",
            "CLIPTokenizer",
            files=("vocab.json", "merges.txt"),
            instead="tokenizer.json",  # all that transformers 5 saves
        ),
        Part("text_encoder", "transformers", "CLIPTextModel", "model.safetensors", ("config.json",)),
        Part("vae", "diffusers", "AutoencoderKL", "diffusion_pytorch_model.safetensors", ("config.json",)),
        Part("unet", "diffusers", "UNet2DConditionModel", "diffusion_pytorch_model.safetensors", ("config.json",)),
        Part("scheduler", "diffusers", "DDIMScheduler", files=("scheduler_config.json",)),
    ),
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    text_encoder_lora_targets=("q_proj", "k_proj", "v_proj", "out_proj"),
    fix_scheduler_config=fix_scheduler_config,
)
