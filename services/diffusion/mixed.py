"""LoRAs (Hu et al. 2021) that act row by row: each picture of a batch with its own, with several, or with none.

The base's weights stay as they are. Each adapted layer is hooked: to its output for row n, x A^T B^T is added, where A
and B hold all of the row's LoRAs side by side, each scaled by its alpha and weight. Ranks are padded with zeros to the
widest row's, so that a layer takes two batched products however many LoRAs there are; where all rows have the same, two
plain ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.diffusion.adapters import check_shapes, module_name, read_lora
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch

A, B = ".lora_A.weight", ".lora_B.weight"
Assignment = tuple[tuple[tuple[str, float], ...], ...]
"""Of each row, its adapters' names and weights, sorted."""


@dataclass(frozen=True)
class Layer:
    """What a LoRA adds to one module: A (r, in) or (r, in, kh, kw), and B (out, r) with its scale in it."""

    a: "torch.Tensor"
    b: "torch.Tensor"

    @property
    def memory_bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (self.a, self.b))


@dataclass(frozen=True)
class Adapter:
    """A LoRA's layers, by the part of the pipeline and the module's name in it."""

    layers: Mapping[str, Mapping[str, Layer]]

    @property
    def memory_bytes(self) -> int:
        return sum(layer.memory_bytes for part in self.layers.values() for layer in part.values())


def read_adapter(components: Components, path: Path) -> Adapter | None:
    """A LoRA's file, on the base's device and in its precision; None of a kind that cannot act row by row (DoRA, and
    layouts that only diffusers knows).

    Touches nothing of the loaded base, so any thread may call it. Raises as `load_loras`.
    """
    import torch

    found, alphas, metadata = read_lora(path, components)
    tensors = _in_pairs(components, found)
    keys = [key.removesuffix(A) for key in tensors if key.endswith(A)]
    if 2 * len(keys) != len(tensors):
        return None
    check_shapes(components, tensors, path)
    # Some layouts name an alpha after the layer's A.
    told = {key.removesuffix(".alpha"): float(value) for key, value in (alphas or {}).items()}
    told = {key.removesuffix(A): value for key, value in _in_pairs(components, told).items()}
    modules = {part: dict(model.named_modules()) for part, model in components.adaptable.items()}
    layers: dict[str, dict[str, Layer]] = {}
    with torch.no_grad():
        for key in keys:
            part, _, name = key.partition(".")
            name = module_name(components, part, name)
            module: Any = modules[part][name]
            weight = getattr(module, "base_layer", module).weight
            a, b = tensors[key + A], tensors[key + B]
            scale = _scale(key, a.shape[0], told, metadata)
            # One move each, with the scale where it is cheapest.
            a = a.to(components.device, weight.dtype)
            b = (b.float().flatten(1) * scale).to(components.device, weight.dtype)
            layers.setdefault(part, {})[name] = Layer(a, b)
    return Adapter(layers)


def _in_pairs(components: Components, found: "Mapping[str, Any]") -> dict[str, Any]:
    """With the keys that peft gives its layers, where diffusers knows how older layouts are renamed."""
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    if all(key.endswith((A, B)) for key in found):
        return dict(found)
    renamed: dict[str, Any] = {}
    for part in components.adaptable:
        own = {key.removeprefix(f"{part}."): value for key, value in found.items() if key.startswith(f"{part}.")}
        if not own or all(key.endswith((A, B)) for key in own):
            pass
        elif part == components.family.denoiser:
            own = convert_unet_state_dict_to_peft(own)
        else:
            try:
                own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
            except ValueError:
                return {}
        renamed |= {f"{part}.{key}": value for key, value in own.items()}
    return renamed


class RowAdapters:
    """The hooks of one model, and the LoRAs that it knows. Made before anything wraps its layers."""

    def __init__(self, model: "torch.nn.Module") -> None:
        import torch

        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        self._modules = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
        self._known: dict[str, Mapping[str, Layer]] = {}
        self._hooked: set[str] = set()
        self._acting: dict[str, _Gathered] = {}
        self._gathered_for: Assignment = ()
        self._on = False

    def add(self, name: str, layers: Mapping[str, Layer]) -> None:
        """Cheap: nothing is copied."""
        self._known[name] = layers
        for place in layers:
            if place not in self._hooked:
                self._hooked.add(place)
                self._modules[place].register_forward_hook(self._hook(place))

    def remove(self, name: str) -> None:
        """No such adapter is no error."""
        if self._known.pop(name, None) is not None:
            self._forget()

    @contextmanager
    def rows(self, rows: Sequence[Mapping[str, float]]) -> Iterator[None]:
        """The adapters by name, and their weights, of each row of the passes inside."""
        assignment = tuple(
            tuple(sorted((name, weight) for name, weight in row.items() if weight and name in self._known))
            for row in rows
        )
        if assignment != self._gathered_for:
            self._forget()
            self._acting = self._gather(assignment)
            self._gathered_for = assignment
        self._on = bool(self._acting)
        try:
            yield
        finally:
            self._on = False

    def _forget(self) -> None:
        self._acting, self._gathered_for = {}, ()

    def _gather(self, assignment: Assignment) -> "dict[str, _Gathered]":
        places = {place for row in assignment for name, _ in row for place in self._known[name]}
        gathered = {}
        for place in sorted(places):
            rows = [
                [(self._known[name][place], weight) for name, weight in row if place in self._known[name]]
                for row in assignment
            ]
            gathered[place] = _gather_layer(rows, self._modules[place])
        return gathered

    def _hook(self, place: str) -> Any:
        def add(module: Any, inputs: "tuple[torch.Tensor, ...]", output: "torch.Tensor") -> "torch.Tensor | None":
            gathered = self._acting.get(place) if self._on else None
            return None if gathered is None else gathered.add(inputs[0], output)

        return add


@dataclass(frozen=True)
class _Gathered:
    """Of N rows, or of all alike (N is 1)."""

    a: "torch.Tensor"  # (N, in, R); of a convolution (N * R, in, kh, kw)
    b: "torch.Tensor"  # (N, R, out)
    convolution: Mapping[str, Any] | None = None

    def add(self, x: "torch.Tensor", output: "torch.Tensor") -> "torch.Tensor":
        """`output` with what the rows' LoRAs make of x."""
        if self.convolution is not None:
            return self._add_convolved(x, output)
        import torch

        count, out = self.b.shape[0], self.b.shape[2]
        if count == 1:
            flat = torch.mm(x.reshape(-1, x.shape[-1]), self.a[0])
            return torch.addmm(output.reshape(-1, out), flat, self.b[0]).view(output.shape)
        # What a model unfolds (frames, patches) is unfolded row by row.
        middle = torch.bmm(x.reshape(count, -1, x.shape[-1]), self.a)
        return torch.baddbmm(output.reshape(count, -1, out), middle, self.b).view(output.shape)

    def _add_convolved(self, x: "torch.Tensor", output: "torch.Tensor") -> "torch.Tensor":
        import torch

        count, rank, _ = self.b.shape
        assert self.convolution is not None
        if count == 1:
            middle = torch.nn.functional.conv2d(x, self.a, **self.convolution)
            return output + torch.einsum("nrhw,ro->nohw", middle, self.b[0])
        groups = x.reshape(1, count * x.shape[1], *x.shape[2:])
        middle = torch.nn.functional.conv2d(groups, self.a, groups=count, **self.convolution)
        middle = middle.reshape(count, rank, -1)
        return output + torch.bmm(self.b.transpose(1, 2), middle).view(output.shape)


def _gather_layer(rows: "Sequence[Sequence[tuple[Layer, float]]]", module: Any) -> _Gathered:
    import torch

    weight = module.weight
    first = [(id(layer), strength) for layer, strength in rows[0]]
    if all([(id(layer), strength) for layer, strength in row] == first for row in rows):
        rows = rows[:1]
    rank = max(sum(layer.a.shape[0] for layer, _ in row) for row in rows)
    a = torch.zeros(len(rows), rank, *weight.shape[1:], dtype=weight.dtype, device=weight.device)
    b = torch.zeros(len(rows), rank, weight.shape[0], dtype=weight.dtype, device=weight.device)
    for place, row in enumerate(rows):
        start = 0
        for layer, strength in row:
            own = slice(start, start + layer.a.shape[0])
            a[place, own] = layer.a
            torch.mul(layer.b.T, strength, out=b[place, own])
            start = own.stop
    if isinstance(module, torch.nn.Conv2d):
        about = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return _Gathered(a.flatten(0, 1), b, about)
    return _Gathered(a.transpose(1, 2).contiguous(), b)


def _scale(key: str, rank: int, alphas: Mapping[str, float], metadata: Mapping[str, Any] | None) -> float:
    """By which a layer's output is multiplied: alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023)."""
    if metadata is None:
        return alphas.get(key, rank) / rank
    from peft.utils.other import get_pattern_key

    part, _, name = key.partition(".")
    pattern: Mapping[str, float] = metadata.get(f"{part}.alpha_pattern") or {}
    usual = metadata.get(f"{part}.lora_alpha", rank)
    alpha = float(pattern.get(get_pattern_key(list(pattern), name), usual))
    return alpha / (math.sqrt(rank) if metadata.get(f"{part}.use_rslora") else rank)
