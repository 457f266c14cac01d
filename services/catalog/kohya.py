"""diffusers' layout of LoRAs turned into that of kohya's sd-scripts, and Stable Diffusion 3's back again.

The rest of what comes in stays as it is: diffusers reads kohya's layout itself, but not that of Stable Diffusion 3.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.catalog import kohya_sd3
from services.catalog.domain import Model, ModelFamily
from services.catalog.lora_files import heard, layout_of
from services.catalog.tensor_files import hashes, read_header, read_tensors, written
from services.common.errors import FailedPrecondition

if TYPE_CHECKING:
    from services.catalog.tensor_files import Tensors

SD3 = ModelFamily.STABLE_DIFFUSION_3
PREFIXES = {
    ModelFamily.STABLE_DIFFUSION: {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    ModelFamily.STABLE_DIFFUSION_XL: {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_",
        "text_encoder_2": "lora_te2_",
    },
    SD3: {"transformer": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
# (family, channels of the words, None where there is but one kind): ss_base_model_version, modelspec.architecture.
VERSIONS = {
    (ModelFamily.STABLE_DIFFUSION, 768): ("sd_v1", "stable-diffusion-v1/lora"),
    (ModelFamily.STABLE_DIFFUSION, 1024): ("sd_v2", "stable-diffusion-v2-512/lora"),
    (ModelFamily.STABLE_DIFFUSION_XL, None): ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    (SD3, None): ("sd3", "stable-diffusion-3/lora"),
}


def to_kohya(path: Path, model: Model) -> bytes:
    """A LoRA file of Atelier's own in the layout of kohya's sd-scripts (networks/lora.py): `lora_down`, `lora_up` and
    `alpha` under names as `lora_unet_down_blocks_0_attentions_0_..._to_q`, with the `ss_` metadata and its two hashes,
    and what Stability's model spec asks for (sai_model_spec 1.0.0).

    Raises FailedPrecondition for a family that the scripts do not know, for DoRA, which programs read differently in
    this layout, and for files made elsewhere.
    """
    header, metadata = read_header(path, field="model_id")
    adapters = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    if not header or layout_of(header) != "diffusers" or not adapters:
        raise _unfit("this LoRA was not made here: it can be exported as the file that it is")
    if model.family not in PREFIXES:
        raise _unfit(f"kohya's layout has no {model.family.value}: export the LoRA as diffusers has it")
    if any("lora_magnitude_vector" in name for name in header):
        raise _unfit("kohya's layout has no place for DoRA that all programs agree on: export it as diffusers has it")
    tensors = _renamed(read_tensors(path), adapters, model.family)
    known = _record(metadata, model, None if (model.family, None) in VERSIONS else heard(header), adapters)
    found = hashes(written(tensors, known))
    spec = {"modelspec.hash_sha256": f"0x{found['sshs_model_hash']}"}
    return written(tensors, known | found | spec)


def sd3_to_diffusers(path: Path) -> bytes:
    """kohya's file for Stable Diffusion 3 as diffusers loads it, alphas multiplied in. Raises InvalidArgument naming a
    layer that diffusers cannot adapt."""
    _, metadata = read_header(path, field="chunk")
    kept = {name: value for name, value in metadata.items() if name != "lora_adapter_metadata"}
    return written(kohya_sd3.to_diffusers(read_tensors(path)), {"format": "pt", **kept})


def _renamed(tensors: "Tensors", adapters: Mapping[str, Any], family: ModelFamily) -> "Tensors":
    import numpy

    pairs: dict[str, dict[str, numpy.ndarray[Any, Any]]] = {}
    alphas: dict[str, float] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        module, side = rest.rsplit(".lora_", 1)
        if part not in PREFIXES[family]:
            raise _unfit(f"kohya's layout has no place for {part} of {family.value}: export it as diffusers has it")
        key = f"{part}.{module}"
        pairs.setdefault(key, {})[side.removesuffix(".weight")] = value
        alphas[key] = _alpha(adapters, part)
    layers = {key: (pair["A"], pair["B"], alphas[key]) for key, pair in pairs.items()}
    if family is SD3:
        layers = kohya_sd3.fused(layers)
    renamed: Tensors = {}
    for key, (down, up, alpha) in layers.items():
        part, _, module = key.partition(".")
        name = PREFIXES[family][part] + module.replace(".", "_")
        renamed[f"{name}.lora_down.weight"] = down
        renamed[f"{name}.lora_up.weight"] = up
        renamed[f"{name}.alpha"] = numpy.array(alpha, dtype=numpy.float32)
    return renamed


def _alpha(adapters: Mapping[str, Any], part: str) -> float:
    """kohya scales by alpha / rank; rsLoRA's alpha / sqrt(rank) becomes that with a larger alpha."""
    rank, alpha = adapters[f"{part}.r"], float(adapters[f"{part}.lora_alpha"])
    return alpha * math.sqrt(rank) if adapters.get(f"{part}.use_rslora") else alpha


def _record(
    metadata: Mapping[str, str], model: Model, channels: int | None, adapters: Mapping[str, Any]
) -> dict[str, str]:
    """The file's metadata, without the hashes: what training wrote, and what is known of the model."""
    known = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    part = next(iter(sorted(name.partition(".")[0] for name in adapters)), "")
    part = next((each for each in ("unet", "transformer") if f"{each}.r" in adapters), part)
    # Ours tells which modules learn; theirs are arguments of their own network.
    known |= {
        "ss_network_module": "networks.lora_sd3" if model.family is SD3 else "networks.lora",
        "ss_network_dim": str(adapters[f"{part}.r"]),
        "ss_network_alpha": str(_alpha(adapters, part)),
        "ss_network_args": "{}",
        "ss_output_name": model.name,
    }
    version, architecture = VERSIONS.get((model.family, channels), ("", ""))
    size = model.native_resolution
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": architecture,
        "implementation": "diffusers",
        "title": model.name,
        "resolution": f"{size}x{size}" if size else "",
        "trigger_phrase": ", ".join(model.trigger_words),
        "license": model.license,
    }
    known |= {"ss_base_model_version": version} if version else {}
    known |= {f"modelspec.{name}": value for name, value in spec.items() if value}
    return known | {"format": "pt"}


def _unfit(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, reason="FORMAT_UNSUPPORTED")
