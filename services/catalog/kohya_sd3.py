"""Stable Diffusion 3's layers, as diffusers names them and as Stability does, whose names kohya's scripts use.

Stability's attention has one matrix for queries, keys and values; a LoRA of it is three in one: their A under one
another, their B on the diagonal, zeros elsewhere.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from services.common.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    import numpy

    from services.catalog.tensor_files import Tensors

    Array: TypeAlias = numpy.ndarray[Any, Any]
    Layers: TypeAlias = dict[str, tuple[Array, Array, float]]

# Inside `transformer_blocks.N.` and `joint_blocks.N.`.
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
PLAIN = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "norm1.linear": "x_block.adaLN_modulation.1",
}
OUTSIDE = {
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "pos_embed.proj": "x_embedder.proj",
}
BLOCK = re.compile(r"transformer\.transformer_blocks\.(\d+)\.(.+)")
THEIRS = re.compile(r"lora_unet_joint_blocks_(\d+)_(.+)")
ENCODERS = {"lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2."}
ENCODER_LAYER = re.compile(r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")


def fused(layers: "Layers") -> "Layers":
    """(A, B, alpha) by module, from diffusers' names to Stability's, `transformer.` before them still.

    Raises FailedPrecondition naming a module that has no place there.
    """
    renamed: Layers = {}
    threes: dict[tuple[str, str], dict[str, tuple[Array, Array, float]]] = {}
    three_of = {name: theirs for theirs, names in FUSED.items() for name in names}
    for key, layer in layers.items():
        block = BLOCK.fullmatch(key)
        if not key.startswith("transformer."):
            renamed[key] = layer
        elif block and block[2] in three_of:
            threes.setdefault((block[1], three_of[block[2]]), {})[block[2]] = layer
        elif block and block[2] in PLAIN:
            renamed[f"transformer.joint_blocks.{block[1]}.{PLAIN[block[2]]}"] = layer
        elif (outside := key.removeprefix("transformer.")) in OUTSIDE:
            renamed[f"transformer.{OUTSIDE[outside]}"] = layer
        else:
            message = f"kohya's layout has no name for {key}: export the LoRA as diffusers has it"
            raise FailedPrecondition(message, reason="FORMAT_UNSUPPORTED")
    for (number, theirs), parts in threes.items():
        renamed[f"transformer.joint_blocks.{number}.{theirs}"] = _on_the_diagonal(FUSED[theirs], parts)
    return renamed


def _on_the_diagonal(
    names: tuple[str, ...], parts: "Mapping[str, tuple[Array, Array, float]]"
) -> "tuple[Array, Array, float]":
    """Of those of the three that are there. A reader scales by alpha / rank: with the ranks the alphas add up too."""
    import numpy

    some = next(iter(parts.values()))
    out = some[1].shape[0]
    down = numpy.concatenate([parts[name][0] for name in names if name in parts])
    up, column = numpy.zeros((3 * out, down.shape[0]), some[1].dtype), 0
    for row, name in enumerate(names):
        if name in parts:
            rank = parts[name][1].shape[1]
            up[row * out : (row + 1) * out, column : column + rank] = parts[name][1]
            column += rank
    return down, up, sum(alpha for _, _, alpha in parts.values())


def to_diffusers(tensors: "Tensors") -> "Tensors":
    """kohya's tensors under diffusers' names, with each alpha / rank multiplied into B.

    Raises InvalidArgument naming `chunk` for a layer that diffusers cannot adapt.
    """
    renamed: Tensors = {}
    for key in sorted(name for name in tensors if name.endswith(".lora_down.weight")):
        layer = key.removesuffix(".lora_down.weight")
        down, up = tensors[key], tensors.get(f"{layer}.lora_up.weight")
        if up is None or f"{layer}.dora_scale" in tensors:
            raise _refused(layer)
        up = (up * (float(tensors.get(f"{layer}.alpha", down.shape[0])) / down.shape[0])).astype(up.dtype)
        for module, (a, b) in _taken_apart(layer, down, up).items():
            renamed[f"{module}.lora_A.weight"], renamed[f"{module}.lora_B.weight"] = a, b
    return renamed


def _taken_apart(layer: str, down: "Array", up: "Array") -> "dict[str, tuple[Array, Array]]":
    """(A, B) by diffusers' names of one of kohya's layers; three where it is of queries, keys and values."""
    import numpy

    if (encoder := next((prefix for prefix in ENCODERS if layer.startswith(prefix)), None)) is not None:
        found = ENCODER_LAYER.fullmatch(layer.removeprefix(encoder))
        if not found:
            raise _refused(layer)
        module = f"text_model.encoder.layers.{found[1]}.{found[2]}.{found[3]}"
        return {ENCODERS[encoder] + module: (down, up)}
    outside = {f"lora_unet_{theirs.replace('.', '_')}": name for name, theirs in OUTSIDE.items()}
    if layer in outside:
        return {f"transformer.{outside[layer]}": (down, up)}
    block = THEIRS.fullmatch(layer)
    plain = {theirs.replace(".", "_"): name for name, theirs in PLAIN.items()}
    threes = {theirs.replace(".", "_"): names for theirs, names in FUSED.items()}
    if block and block[2] in plain:
        return {f"transformer.transformer_blocks.{block[1]}.{plain[block[2]]}": (down, up)}
    if not block or block[2] not in threes or up.shape[0] % 3:
        raise _refused(layer)
    parts: dict[str, tuple[Array, Array]] = {}
    for name, rows in zip(threes[block[2]], numpy.split(up, 3), strict=True):
        if used := numpy.flatnonzero(rows.any(axis=0)).tolist():  # a third has its own columns, or all of them
            own = slice(used[0], used[-1] + 1)
            parts[f"transformer.transformer_blocks.{block[1]}.{name}"] = (down[own], rows[:, own])
    return parts


def _refused(layer: str) -> InvalidArgument:
    rule = f"adapts {layer}, which diffusers cannot adapt in Stable Diffusion 3"
    return InvalidArgument(rule, field="chunk", reason="LAYER_UNSUPPORTED")
