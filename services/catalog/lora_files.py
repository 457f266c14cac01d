"""LoRA files that were made elsewhere: whose layout they have, their rank and family. No tensor is loaded to look."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.catalog.domain import ModelFamily
from services.catalog.tensor_files import read_header
from services.common.errors import InvalidArgument

CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]\.(lora_A|lora_down|lora\.down)\.weight$")
# The words that a family's denoiser listens to have so many channels: CLIP-L's, OpenCLIP-H's, and both of SDXL's.
CHANNELS = {
    768: ModelFamily.STABLE_DIFFUSION,
    1024: ModelFamily.STABLE_DIFFUSION,
    2048: ModelFamily.STABLE_DIFFUSION_XL,
}
FLUX_CHANNELS = 3072  # of its transformer; Stable Diffusion 3's has 1536, 3.5 Large 2432
JOINT_QUERY = re.compile(r"transformer\.transformer_blocks\.\d+\.attn\.(to|add)_[qkv]\w*\.lora_A\.weight$")
DOWN = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
DIFFUSERS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")
# Families that a file is refused for, by the names of their layers. The first that fits counts.
FOREIGN = {
    "Flux": re.compile(r"lora_unet_(double|single)_blocks_|transformer\.single_transformer_blocks\."),
    "Qwen-Image": re.compile(r"transformer\.transformer_blocks\.\d+\.(img|txt)_m"),
    "an unknown transformer": re.compile(r"transformer\.(?!transformer_blocks\.|norm_out|proj_out|context_embedder)"),
}
# What scripts write of a base, read leniently: `sdxl_base_v1-0`, `sdxl_1.0`, `stable-diffusion-xl-v1-base/lora`, ...
TOLD = (
    (re.compile(r"flux", re.I), "Flux"),
    (re.compile(r"sd_?xl|stable-diffusion-xl", re.I), ModelFamily.STABLE_DIFFUSION_XL),
    (re.compile(r"sd_?3|stable-diffusion-v?3", re.I), ModelFamily.STABLE_DIFFUSION_3),
    (re.compile(r"svd|stable-video", re.I), ModelFamily.STABLE_VIDEO_DIFFUSION),
    (re.compile(r"sd_?v?[12]([._-]|$)|stable-diffusion-v?[12]", re.I), ModelFamily.STABLE_DIFFUSION),
)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """`layout` is diffusers or kohya; `family` None where neither the shapes nor the metadata tell."""

    layout: str
    rank: int
    family: ModelFamily | None
    metadata: Mapping[str, str]


def read_lora(path: Path, *, field: str = "chunk") -> LoraFile:
    """What a .safetensors file says of itself. Raises InvalidArgument naming `field` with the reason for a file that is
    no LoRA, is for a family that nothing here draws, is cut off or lies."""
    return lora_in(*read_header(path, field=field), field=field)


def lora_in(header: Mapping[str, Any], metadata: Mapping[str, str], *, field: str) -> LoraFile:
    """As `read_lora`, of a header that has been read."""
    layout = layout_of(header)
    if not header or layout is None:
        rule = "holds no LoRA: its tensors are named neither as diffusers nor as kohya's scripts name them"
        raise InvalidArgument(rule, field=field, reason="NOT_A_LORA")
    ranks = [entry["shape"][0] for name, entry in header.items() if name.endswith(DOWN) and entry["shape"]]
    if not ranks:
        raise InvalidArgument("holds no LoRA: no layer has a down matrix", field=field, reason="NOT_A_LORA")
    family = _family(header) or _told(metadata)
    if family is not None and not isinstance(family, ModelFamily):
        rule = f"is a LoRA for {family}, a family that cannot be drawn with here"
        raise InvalidArgument(rule, field=field, reason="FAMILY_UNSUPPORTED")
    return LoraFile(layout, max(ranks), family, metadata)


def layout_of(header: Mapping[str, Any]) -> str | None:
    if all(name.startswith(DIFFUSERS) for name in header):
        return "diffusers"
    if all(name.startswith(KOHYA) for name in header):
        return "kohya"
    return None


def _family(header: Mapping[str, Any]) -> ModelFamily | str | None:
    """What the layers' names and shapes say; text for a family that nothing here draws."""
    for name, pattern in FOREIGN.items():
        if any(pattern.match(key) for key in header):
            return name
    if any(key.startswith("lora_unet_joint_blocks_") for key in header):
        return ModelFamily.STABLE_DIFFUSION_3
    if any(key.startswith("transformer.") for key in header):
        widths = {entry["shape"][-1] for key, entry in header.items() if JOINT_QUERY.match(key) and entry["shape"]}
        return "Flux" if FLUX_CHANNELS in widths else ModelFamily.STABLE_DIFFUSION_3
    if any("temporal_transformer_blocks" in key or "time_stack" in key for key in header):
        return ModelFamily.STABLE_VIDEO_DIFFUSION
    denoises = any(key.startswith(("unet.", "lora_unet_")) for key in header)
    if denoises and any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in header):
        return ModelFamily.STABLE_DIFFUSION_XL
    return CHANNELS.get(width) if (width := heard(header)) else None


def heard(header: Mapping[str, Any]) -> int | None:
    """Channels of the words that the denoiser's cross-attention listens to, if its layers agree."""
    widths = {entry["shape"][1] for key, entry in header.items() if CROSS_ATTENTION.search(key) and entry["shape"][1:]}
    return int(widths.pop()) if len(widths) == 1 else None


def _told(metadata: Mapping[str, str]) -> ModelFamily | str | None:
    """What the file's metadata says, where its layers do not tell."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        for pattern, family in TOLD:
            if pattern.search(metadata.get(key, "")):
                return family
    return None
