"""LoRA files: what their headers say, and diffusers' layout turned into kohya's. No tensor is loaded to look.

A safetensors file is the length of its header in 8 bytes, the header in JSON, and the tensors' bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.catalog.domain import ModelFamily
from services.common.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    import numpy

MAX_HEADER_BYTES = 32 << 20
"""A LoRA of ten thousand layers has four."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
KEY = re.compile(r"[A-Za-z0-9_.]{1,400}")
CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]\.(lora_A|lora_down|lora\.down)\.weight$")
# The words that a family's denoiser listens to have so many channels.
CHANNELS = {
    2048: ModelFamily.STABLE_DIFFUSION_XL,
    768: ModelFamily.STABLE_DIFFUSION,
    1024: ModelFamily.STABLE_DIFFUSION,
}
DOWN = ("lora_A.weight", "lora_down.weight", "lora.down.weight")


@dataclass(frozen=True, slots=True)
class LoraFile:
    """`layout` is diffusers or kohya; `family` None where the shapes do not tell."""

    layout: str
    rank: int
    family: ModelFamily | None
    metadata: Mapping[str, str]


def read_lora(path: Path, *, field: str = "chunk") -> LoraFile:
    """What a .safetensors file says of itself. Raises InvalidArgument naming `field` with the reason for a file that is
    no LoRA, is cut off or lies."""
    header, metadata = read_header(path, field=field)
    layout = _layout(header)
    if not header or layout is None:
        rule = "holds no LoRA: its tensors are named neither as diffusers nor as kohya's scripts name them"
        raise InvalidArgument(rule, field=field, reason="NOT_A_LORA")
    ranks = [entry["shape"][0] for name, entry in header.items() if name.endswith(DOWN) and entry["shape"]]
    if not ranks:
        raise InvalidArgument("holds no LoRA: no layer has a down matrix", field=field, reason="NOT_A_LORA")
    return LoraFile(layout, max(ranks), _family(header), metadata)


def read_header(path: Path, *, field: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Each tensor's dtype, shape and place, and the metadata. Raises InvalidArgument naming `field`."""

    def refuse(rule: str, reason: str = "CORRUPT") -> InvalidArgument:
        return InvalidArgument(rule, field=field, reason=reason)

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or length > size - 8 or start[8:] != b"{":
            if start[:2] == b"PK" or start[:1] == b"\x80":
                rule = "is a pickle (.ckpt, .pt), which can run any code when it is read: convert it to .safetensors"
                raise refuse(rule, "PICKLE_REFUSED")
            raise refuse("is no .safetensors file, or is cut off in its header")
        if length > MAX_HEADER_BYTES:
            raise refuse(f"has a header of {length} bytes; the limit is {MAX_HEADER_BYTES}", "HEADER_TOO_LARGE")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            _check(header, metadata, size - 8 - length)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise refuse(f"is no sound .safetensors file: {error}") from error
    return header, metadata


def _check(header: Mapping[str, Any], metadata: Mapping[str, Any], data_bytes: int) -> None:
    """Raises ValueError unless every tensor lies within the data, has the bytes of its shape, and none overlap."""
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not all text")
    taken = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape, width = entry["shape"], BYTES.get(entry["dtype"])
        if not KEY.fullmatch(name) or width is None or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"the tensor {name[:100]!r} cannot be used")
        if not 0 <= begin <= end <= data_bytes or end - begin != width * math.prod(shape):
            raise ValueError(f"the tensor {name!r} does not lie where its shape says")
        taken.append((begin, end))
    ends = 0
    for begin, end in sorted(taken):
        if begin < ends:
            raise ValueError("two tensors share bytes")
        ends = end


def _layout(header: Mapping[str, Any]) -> str | None:
    if all(name.startswith(("unet.", "text_encoder.", "text_encoder_2.", "transformer.")) for name in header):
        return "diffusers"
    if all(name.startswith(("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")) for name in header):
        return "kohya"
    return None


def _family(header: Mapping[str, Any]) -> ModelFamily | None:
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in header):
        return ModelFamily.STABLE_DIFFUSION_XL
    widths = {entry["shape"][1] for name, entry in header.items() if CROSS_ATTENTION.search(name)}
    return CHANNELS.get(widths.pop()) if len(widths) == 1 else None


def to_kohya(path: Path, *, title: str) -> bytes:
    """A LoRA file of Atelier's own in the layout of kohya's sd-scripts (networks/lora.py): `lora_down`, `lora_up` and
    `alpha` under names as `lora_unet_down_blocks_0_attentions_0_..._to_q`, with the `ss_` metadata and its two hashes,
    and modelspec's title.

    Raises FailedPrecondition for DoRA, which programs read differently in this layout, and for files made elsewhere.
    """
    from safetensors.numpy import load_file, save

    header, metadata = read_header(path, field="model_id")
    adapters = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    if not header or _layout(header) != "diffusers" or not adapters:
        message = "this LoRA was not made here: it can be exported as the file that it is"
        raise FailedPrecondition(message, reason="FORMAT_UNSUPPORTED")
    if any("lora_magnitude_vector" in name for name in header):
        message = "kohya's layout has no place for DoRA that all programs agree on: export it as diffusers has it"
        raise FailedPrecondition(message, reason="FORMAT_UNSUPPORTED")
    tensors = _renamed(load_file(path), adapters)
    known = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    # Ours tells which modules learn; theirs are arguments of their own network.
    own = {"ss_network_args": "{}", "ss_network_alpha": str(_alpha(adapters, "unet"))}
    known |= {name: value for name, value in own.items() if name in known}
    hashes = _hashes(_sorted(save(tensors, known)))
    return _sorted(save(tensors, known | hashes | {"modelspec.title": title, "format": "pt"}))


def _sorted(data: bytes) -> bytes:
    """A file whose metadata is in order: safetensors writes it in a random one, and equal models shall be equal files.
    The header may end in spaces."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return data[:8] + text.ljust(length) + data[8 + length :] if len(text) <= length else data


def _renamed(
    tensors: "Mapping[str, numpy.ndarray[Any, Any]]", adapters: Mapping[str, Any]
) -> "dict[str, numpy.ndarray[Any, Any]]":
    import numpy

    renamed: dict[str, numpy.ndarray[Any, Any]] = {}
    for name, value in tensors.items():
        model, _, rest = name.partition(".")
        module, side = rest.rsplit(".lora_", 1)
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[model] + module.replace(".", "_")
        renamed[f"{prefix}.lora_{'down' if side == 'A.weight' else 'up'}.weight"] = value
        renamed[f"{prefix}.alpha"] = numpy.array(_alpha(adapters, model), dtype=numpy.float32)
    return renamed


def _alpha(adapters: Mapping[str, Any], model: str) -> float:
    """kohya scales by alpha / rank; rsLoRA's alpha / sqrt(rank) becomes that with a larger alpha."""
    rank, alpha = adapters[f"{model}.r"], float(adapters[f"{model}.lora_alpha"])
    return alpha * math.sqrt(rank) if adapters.get(f"{model}.use_rslora") else alpha


def _hashes(data: bytes) -> dict[str, str]:
    """As kohya's train_util.precalculate_safetensors_hashes: of the tensors alone, and the old short one."""
    begin = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return {"sshs_model_hash": hashlib.sha256(data[begin:]).hexdigest(), "sshs_legacy_hash": legacy}
