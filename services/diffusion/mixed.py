"""LoRAs (Hu et al. 2021) that act row by row: each picture of a batch with its own, with several, or with none.

The base's weights stay as they are. An adapted layer finds what to do with row n of a pass in A and B, which hold all
of the row's LoRAs side by side, each scaled by its alpha and weight, ranks padded with zeros to the widest row's: a
layer takes two batched products more, however many LoRAs there are. Where that is dear beside the layer itself, it is
replaced by one batched product with W + B A of each row, which is made in a row's second pass: the first one need not
wait for it. Where all rows have the same, the batch is one.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.diffusion.adapters import check_shapes, module_name, read_lora
from services.diffusion.device import bytes_of
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch

A, B = ".lora_A.weight", ".lora_B.weight"
Wanted = tuple[tuple[str, float], ...]
"""Adapters' names and weights, sorted."""
DEAR = 0.25
"""Of a layer's own product, what those of its LoRAs may cost before they are merged."""
MERGED_BYTES = 256 << 20
"""What merged weights of a pass may take, and what is kept of passes before it."""
MOST_SEEN = 1000
"""Combinations of LoRAs and weights that are remembered to have been there."""


@dataclass(frozen=True)
class Layer:
    """What a LoRA adds to one module: A (r, in) or (r, in, kh, kw), and B (out, r) with its scale in it."""

    a: "torch.Tensor"
    b: "torch.Tensor"

    @property
    def memory_bytes(self) -> int:
        return bytes_of((self.a, self.b))


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
    """The adapted layers of one model, and the LoRAs that it knows. Made before anything wraps its layers."""

    def __init__(self, model: "torch.nn.Module") -> None:
        import torch

        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        self._modules: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, kinds)
        }
        self._known: dict[str, Mapping[str, Layer]] = {}
        self._adapted: set[str] = set()
        self._assignment: tuple[Wanted, ...] = ()
        self._gathered: dict[str, _Acting] = {}
        self._parts: OrderedDict[_PartKey, tuple[torch.Tensor, ...]] = OrderedDict()  # latest used last
        self._parts_bytes = 0
        self._seen: set[Wanted] = set()  # in passes before
        self._is_settled = True  # what should be merged is
        self._acting: Mapping[str, _Acting] = {}

    def add(self, name: str, layers: Mapping[str, Layer]) -> None:
        """Cheap: nothing is copied."""
        self._known[name] = layers
        for place in layers:
            if place not in self._adapted:
                self._adapted.add(place)
                self._adapt(place)

    def remove(self, name: str) -> None:
        """No such adapter is no error."""
        if self._known.pop(name, None) is not None:
            self._assignment, self._gathered = (), {}
            for key in [key for key in self._parts if any(name == each for each, _ in key[1])]:
                self._drop(key)

    @contextmanager
    def rows(self, rows: Sequence[Mapping[str, float]]) -> Iterator[None]:
        """The adapters by name, and their weights, of each row of the passes inside, which want no gradients."""
        assignment = tuple(
            tuple(sorted((name, weight) for name, weight in row.items() if weight and name in self._known))
            for row in rows
        )
        if assignment != self._assignment or not self._is_settled:
            self._gather(assignment)
        self._acting = self._gathered
        try:
            yield
        finally:
            self._acting = {}

    def _adapt(self, place: str) -> None:
        module = self._modules[place]
        plain = module.forward

        def forward(x: "torch.Tensor") -> "torch.Tensor":
            acting = self._acting.get(place)
            answer: torch.Tensor = plain(x) if acting is None else acting(x, plain)
            return answer

        module.forward = forward

    def _gather(self, assignment: tuple[Wanted, ...]) -> None:
        """Makes what the rows want; parts that were made before are used again."""
        merges = self._seen.issuperset(assignment)
        if len(self._seen) > MOST_SEEN:
            self._seen.clear()
        self._seen.update(assignment)
        self._gathered = {}
        used: set[_PartKey] = set()
        room, puts_off = MERGED_BYTES, False
        for place in sorted({place for row in assignment for name, _ in row for place in self._known[name]}):
            module = self._modules[place]
            rows = [tuple(each for each in row if place in self._known[each[0]]) for row in assignment]
            if len(set(rows)) == 1:
                rows = rows[:1]
            rank = max(sum(len(self._known[name][place].a) for name, _ in row) for row in rows)
            size = len(rows) * module.weight.numel() * module.weight.element_size()
            is_better = size <= room and _is_better_merged(module, rank, count=len(rows))
            room -= size if is_better else 0
            is_merged = is_better and merges
            puts_off = puts_off or is_better != is_merged
            parts = {row: self._part((place, row, is_merged)) for row in set(rows)}
            used.update((place, row, is_merged) for row in parts)
            act = _merged if is_merged else _low_rank
            self._gathered[place] = act([parts[row] for row in rows], module)
        self._assignment, self._is_settled = assignment, not puts_off
        for key in [key for key in self._parts if key not in used]:
            if self._parts_bytes <= MERGED_BYTES:
                break
            self._drop(key)

    def _part(self, key: "_PartKey") -> "tuple[torch.Tensor, ...]":
        place, row, is_merged = key
        part = self._parts.get(key)
        if part is None:
            module = self._modules[place]
            part = _side_by_side([(self._known[name][place], weight) for name, weight in row], module)
            part = self._parts[key] = (_merge(*part, module),) if is_merged else part
            self._parts_bytes += bytes_of(part)
        self._parts.move_to_end(key)
        return part

    def _drop(self, key: "_PartKey") -> None:
        self._parts_bytes -= bytes_of(self._parts.pop(key))


_PartKey = tuple[str, Wanted, bool]
"""A layer's name, what a row wants of it, and whether that is merged."""
_Acting = Callable[["torch.Tensor", Callable[["torch.Tensor"], "torch.Tensor"]], "torch.Tensor"]
"""What a layer answers to its input and its own forward pass."""


def _is_better_merged(module: Any, rank: int, *, count: int) -> bool:
    """Whether the two products cost much beside the layer's own. In half precision small changes would be lost in the
    sum."""
    import torch

    weight = module.weight
    if weight.dtype != torch.float32 or (weight.ndim > 2 and count > 1):
        return False
    products = rank * (weight[0].numel() + len(weight))
    return bool(products > DEAR * weight.numel())


def _side_by_side(layers: "Sequence[tuple[Layer, float]]", module: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """A (R, in, ...) and B (R, out) of a row, the weights in B."""
    import torch

    if not layers:
        weight = module.weight
        return weight.new_zeros(0, *weight.shape[1:]), weight.new_zeros(0, len(weight))
    a = [layer.a for layer, _ in layers]
    b = [layer.b.T * weight for layer, weight in layers]
    return (a[0], b[0]) if len(layers) == 1 else (torch.cat(a), torch.cat(b))


def _merge(a: "torch.Tensor", b: "torch.Tensor", module: Any) -> "torch.Tensor":
    """W + B A (in, out)."""
    import torch

    return torch.addmm(module.weight.flatten(1).T, a.flatten(1).T, b)


def _merged(parts: "Sequence[tuple[torch.Tensor, ...]]", module: Any) -> _Acting:
    import torch

    count, bias = len(parts), module.bias
    if count == 1:
        alike = parts[0][0].T.view(module.weight.shape)
        if isinstance(module, torch.nn.Conv2d):
            kernels = alike.contiguous(memory_format=torch.channels_last)
            return lambda x, _: module._conv_forward(x, kernels, bias)
        return lambda x, _: torch.nn.functional.linear(x, alike, bias)
    weights = torch.stack([part for (part,) in parts])

    def act(x: "torch.Tensor", _: object) -> "torch.Tensor":
        # What a model unfolds (frames, patches) is unfolded row by row.
        rows = x.reshape(count, -1, x.shape[-1])
        answer = torch.bmm(rows, weights) if bias is None else torch.baddbmm(bias, rows, weights)
        return answer.view(*x.shape[:-1], -1)

    return act


def _low_rank(parts: "Sequence[tuple[torch.Tensor, ...]]", module: Any) -> _Acting:
    import torch

    # (N, R, in, ...) and (N, R, out)
    a, b = (torch.nn.utils.rnn.pad_sequence(list(each), batch_first=True) for each in zip(*parts, strict=True))
    if isinstance(module, torch.nn.Conv2d):
        return _low_rank_convolution(a, b, module)
    count, down = len(parts), a.transpose(1, 2)

    def act(x: "torch.Tensor", plain: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
        answer = plain(x)
        middle = torch.bmm(x.reshape(count, -1, x.shape[-1]), down)
        answer.view(count, -1, answer.shape[-1]).baddbmm_(middle, b)
        return answer

    return act


def _low_rank_convolution(a: "torch.Tensor", b: "torch.Tensor", module: Any) -> _Acting:
    import torch

    count, rank = a.shape[:2]
    kernels, up = a.flatten(0, 1), b.transpose(1, 2)
    about = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}

    def act(x: "torch.Tensor", plain: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
        answer = plain(x)
        if count == 1:
            middle = torch.nn.functional.conv2d(x, kernels, **about)
            return answer.add_(torch.nn.functional.conv2d(middle, up[0, :, :, None, None]))
        groups = x.reshape(1, count * x.shape[1], *x.shape[2:])
        middle = torch.nn.functional.conv2d(groups, kernels, groups=count, **about).reshape(count, rank, -1)
        return answer.add_(torch.bmm(up, middle).view(answer.shape))

    return act


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
