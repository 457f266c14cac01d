"""Checkpoints as their authors lay them out, made of diffusers folders: what diffusers' converters take apart."""

import json
import re
from pathlib import Path
from typing import Any

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A component's tensors and its config.json."""
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return load_file(file), json.loads((folder / "config.json").read_text())


def unet_to_ldm(folder: Path) -> dict[str, Any]:
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    tensors, config = read(folder)
    layers, known = config["layers_per_block"], DIFFUSERS_TO_LDM_MAPPING["unet"]
    top = known["layers"] | known["addition_embed_type"]
    listens = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}
    found = {}
    for name, value in tensors.items():
        block = re.match(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", name)
        if block is None:
            found[f"model.diffusion_model.{top[name]}"] = value
            continue
        side, number, kind, place, rest = block.groups()
        if kind == "resnets":
            module, _, end = rest.rpartition(".")
            rest = f"{RESNET[module]}.{end}"
        if side == "mid":
            home = f"middle_block.{1 if kind == 'attentions' else 2 * int(place)}"
        elif kind == "downsamplers":
            home, rest = f"input_blocks.{(int(number) + 1) * (layers + 1)}.0", rest.replace("conv", "op")
        elif kind == "upsamplers":
            home = f"output_blocks.{int(number) * (layers + 1) + layers}.{2 if number in listens else 1}"
        else:
            first = 1 if side == "down" else 0
            home = f"{'input' if side == 'down' else 'output'}_blocks.{first + int(number) * (layers + 1) + int(place)}"
            home += ".0" if kind == "resnets" else ".1"
        found[f"model.diffusion_model.{home}.{rest}"] = value
    return found


def vae_to_ldm(folder: Path) -> dict[str, Any]:
    tensors, config = read(folder)
    last = len(config["up_block_types"]) - 1
    found = {}
    for name, value in tensors.items():
        name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        for theirs, ours in (
            ("down_blocks", "down"),
            ("resnets", "block"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
        ):
            name = name.replace(theirs, ours)
        found[f"first_stage_model.{name}"] = value
    return found


def clip_to_ldm(folder: Path, prefix: str) -> dict[str, Any]:
    tensors, _ = read(folder)
    names = ((name, name if name.startswith("text_") else f"text_model.{name}") for name in tensors)
    return {prefix + whole: tensors[name] for name, whole in names}


def open_clip_to_ldm(folder: Path, prefix: str) -> dict[str, Any]:
    """OpenCLIP's names, with queries, keys and values in one matrix."""
    import torch

    tensors, config = read(folder)
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        name = name.removeprefix("text_model.")
        layer = re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            name = name.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
            name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
            turned = name == "text_projection.weight"
            found[prefix + ("text_projection" if turned else name)] = value.T.contiguous() if turned else value
        elif layer[2] in OPEN_CLIP:
            found[f"{prefix}transformer.resblocks.{layer[1]}.{OPEN_CLIP[layer[2]]}.{layer[3]}"] = value
    start = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    for number in range(config["num_hidden_layers"]):
        for end in ("weight", "bias"):
            three = [tensors[f"{start}encoder.layers.{number}.self_attn.{each}_proj.{end}"] for each in "qkv"]
            found[f"{prefix}transformer.resblocks.{number}.attn.in_proj_{end}"] = torch.cat(three)
    return found


def sd1_checkpoint(pipeline: Path, path: Path) -> Path:
    """A Stable Diffusion 1.x folder as one file."""
    from safetensors.torch import save_file

    text = clip_to_ldm(pipeline / "text_encoder", "cond_stage_model.transformer.")
    save_file({**unet_to_ldm(pipeline / "unet"), **vae_to_ldm(pipeline / "vae"), **text}, path)
    return path
