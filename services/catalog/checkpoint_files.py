"""Whole checkpoints as one file, in their authors' layout: whose they are, by the names and shapes of their layers."""

import re
from collections.abc import Mapping
from typing import Any

from services.catalog.domain import ModelFamily
from services.catalog.lora_files import CHANNELS
from services.common.errors import InvalidArgument

DENOISER = "model.diffusion_model."
CONV_IN = f"{DENOISER}input_blocks.0.0.weight"
CROSS_ATTENTION = re.compile(r"model\.diffusion_model\.\w+\.[\d.]+\.transformer_blocks\.0\.attn2\.to_k\.weight")
# Denoisers that take more than noise and words, by the channels of what they look at.
MORE_CHANNELS = {5: "a depth-to-image model", 7: "an upscaler", 8: "InstructPix2Pix", 9: "an inpainting model"}
# The first that fits counts.
FOREIGN = {
    "Flux": re.compile(r"(model\.diffusion_model\.)?double_blocks\."),
    "Stable Video Diffusion, whose diffusers folder can be registered instead": re.compile(r".*\.time_stack\."),
    "a latent consistency model": re.compile(r"model\.diffusion_model\.time_embed\.cond_proj\."),
    "the refiner of Stable Diffusion XL": re.compile(r"conditioner\.embedders\.0\.model\."),
    "a ControlNet": re.compile(r"control_model\."),
}


def is_checkpoint(header: Mapping[str, Any]) -> bool:
    return any(name.startswith((DENOISER, "joint_blocks.", "double_blocks.", "control_model.")) for name in header)


def checkpoint_family(header: Mapping[str, Any], *, field: str = "chunk") -> ModelFamily:
    """The family of a whole checkpoint. Raises InvalidArgument naming `field` and what it is, for one of which this
    makes no base."""
    for name, pattern in FOREIGN.items():
        if any(pattern.match(key) for key in header):
            raise _refused(name, field)
    if any(key.removeprefix(DENOISER).startswith("joint_blocks.") for key in header):
        return ModelFamily.STABLE_DIFFUSION_3
    shape = header.get(CONV_IN, {}).get("shape", [])
    if len(shape) != 4:
        raise _refused("an architecture that is not known", field)
    if shape[1] in MORE_CHANNELS:
        raise _refused(MORE_CHANNELS[shape[1]], field)
    if any(key.startswith("conditioner.embedders.1.") for key in header):
        return ModelFamily.STABLE_DIFFUSION_XL
    if any(key.startswith("cond_stage_model.") for key in header):
        return ModelFamily.STABLE_DIFFUSION
    widths = {entry["shape"][-1] for key, entry in header.items() if CROSS_ATTENTION.fullmatch(key) and entry["shape"]}
    family = CHANNELS.get(widths.pop()) if len(widths) == 1 else None
    if family is None:
        raise _refused("an architecture that is not known", field)
    return family


def _refused(name: str, field: str) -> InvalidArgument:
    rule = f"is a checkpoint of {name}: it cannot be drawn with here"
    return InvalidArgument(rule, field=field, reason="FAMILY_UNSUPPORTED")
