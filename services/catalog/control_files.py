"""ControlNets (Zhang et al. 2023) as diffusers keeps them: looked at before they are registered, no tensor loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.catalog.domain import CONTROL_CONFIG, CONTROL_FILE, ModelFamily, StoredWeights
from services.catalog.lora_files import CHANNELS
from services.catalog.tensor_files import read_header
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument

FAMILIES = (ModelFamily.STABLE_DIFFUSION, ModelFamily.STABLE_DIFFUSION_XL)
"""Those that ControlNets steer here."""
CLASS_NAME = "ControlNetModel"
FIELD = "stored.files"
MAX_CONFIG_BYTES = 1 << 20
OWN = ("controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight", "controlnet_down_blocks.0.weight")
"""Tensors that every ControlNet has, and no other model."""


def check_control(blobs: BlobStore, weights: StoredWeights, family: ModelFamily) -> None:
    """Whether the files are a ControlNet's for such a family. Blocks.

    Raises InvalidArgument naming `stored.files` with the reason (CORRUPT, NOT_A_CONTROLNET), and FailedPrecondition
    (FAMILY_MISMATCH).
    """
    paths = {file.path: blobs.path(file.sha256) for file in weights.files}
    config = _config(paths[CONTROL_CONFIG])
    if (kind := config.get("_class_name")) != CLASS_NAME:
        rule = f"{CONTROL_CONFIG} is of a {str(kind)[:100]!r}, and not of a {CLASS_NAME}"
        raise InvalidArgument(rule, field=FIELD, reason="NOT_A_CONTROLNET")
    header, _ = read_header(paths[CONTROL_FILE], field=FIELD)
    if missing := [name for name in OWN if name not in header]:
        rule = f"{CONTROL_FILE} holds no ControlNet: it has no {missing[0]}"
        raise InvalidArgument(rule, field=FIELD, reason="NOT_A_CONTROLNET")
    if (made_for := _family(config)) is not family:
        message = f"it is a ControlNet for {made_for.value}, and not for {family.value}"
        raise FailedPrecondition(message, reason="FAMILY_MISMATCH")


def _config(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        rule = f"{CONTROL_CONFIG} has more than {MAX_CONFIG_BYTES} bytes"
        raise InvalidArgument(rule, field=FIELD, reason="TOO_MANY_BYTES")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{CONTROL_CONFIG} is no JSON: {error}", field=FIELD, reason="CORRUPT") from error
    if not isinstance(config, dict):
        raise InvalidArgument(f"{CONTROL_CONFIG} holds no settings", field=FIELD, reason="CORRUPT")
    return config


def _family(config: Mapping[str, Any]) -> ModelFamily:
    """By what the UNet is told: SDXL's is told sizes too. Widths tell where they are those of a published model."""
    width = config.get("cross_attention_dim")
    told = CHANNELS.get(width) if isinstance(width, int) else None
    if told is not None:
        return told
    is_xl = config.get("addition_embed_type") == "text_time"
    return ModelFamily.STABLE_DIFFUSION_XL if is_xl else ModelFamily.STABLE_DIFFUSION
