"""LoRAs (Hu et al. 2021) that act row by row: each picture of a batch with its own, with several, or with none.

The base's weights stay as they are. An adapted layer finds what to do with row n of a pass at place n of two stacks, A
and B, which hold all of the row's LoRAs side by side, each scaled by its alpha and weight, ranks padded with zeros: it
takes two batched products more, however many LoRAs there are. Where that is dear beside the layer itself, it is
replaced by one batched product with W + B A of each row. A row that stays where it was in the last pass costs nothing:
only those that have come are laid into the stacks. Where all rows have the same, there is one for all, which is merged
in their second pass: the first one need not wait for it.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.diffusion.adapters import A, B, fitting_pairs, read_lora
from services.diffusion.device import bytes_of
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch

Wanted = tuple[tuple[str, float], ...]
"""Adapters' names and weights, sorted."""
DEAR = 0.25
"""Of a layer's own product, what those of its LoRAs may cost before they are merged."""
MERGED_BYTES = 256 << 20
"""What merged weights of a pass may take, and what is kept of passes before it."""
MOST_KEPT = 16
"""Passes whose rows stay laid out."""
WIDE = 4
"""So many times the ranks that are wanted, stacks are made anew, narrower."""


@dataclass(frozen=True)
class Layer:
    """What a LoRA adds to one module: A (r, in) or (r, in, kh, kw), and B (r, out) with its scale in it."""

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
    if 2 * sum(1 for key in tensors if key.endswith(A)) != len(tensors):
        return None
    pairs = fitting_pairs(components, tensors, path)
    # Some layouts name an alpha after the layer's A.
    told = {key.removesuffix(".alpha"): float(value) for key, value in (alphas or {}).items()}
    told = {key.removesuffix(A): value for key, value in _in_pairs(components, told).items()}
    device = components.device
    layers: dict[str, dict[str, Layer]] = {}
    with torch.no_grad():
        for key, part, name, weight, a, b in pairs:
            scale, dtype = _scale(key, len(a), told, metadata), weight.dtype
            # One move each, with the scale where it is cheapest; never the file's own pages, which may have to be
            # fetched in the middle of a pass.
            scaled = b.to(device, dtype, copy=True) if scale == 1 else (b.float() * scale).to(device, dtype)
            layers.setdefault(part, {})[name] = Layer(a.to(device, dtype, copy=True), scaled.flatten(1).T)
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
        self._kept: list[_Alike | _Mixed] = []  # latest used last
        self._acting: Mapping[str, _Act] = {}
        self.laying_seconds = 0.0
        """All that was spent in laying rows out."""

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
            self._kept = [laid for laid in self._kept if laid.forget(name)]

    def order(self, rows: Sequence[Mapping[str, float]]) -> list[int]:
        """Which of the rows comes at each place of a pass, so that most stay where they were in one before."""
        wanted = self._wanted(rows)
        nearest = self._nearest(wanted) if len(wanted) > 1 else None
        if nearest is None:
            return list(range(len(rows)))
        left: dict[Wanted, list[int]] = {}
        for row in reversed(range(len(wanted))):
            left.setdefault(wanted[row], []).append(row)
        stays = {
            place: left[row].pop()
            for place, row in enumerate(nearest.rows[: len(rows)])
            if row is not None and left.get(row)
        }
        come = iter(sorted(row for rest in left.values() for row in rest))
        return [stays[place] if place in stays else next(come) for place in range(len(wanted))]

    @contextmanager
    def rows(self, rows: Sequence[Mapping[str, float]], *, steady: bool = False) -> Iterator[None]:
        """The adapters by name, and their weights, of each row of the passes inside, which want no gradients. `steady`:
        rows that are all alike are drawn to the same bits whatever was drawn before; nothing is merged."""
        began = time.perf_counter()
        self._acting = self._lay(self._wanted(rows), steady)
        self.laying_seconds += time.perf_counter() - began
        try:
            yield
        finally:
            self._acting = {}

    def _wanted(self, rows: Sequence[Mapping[str, float]]) -> tuple[Wanted, ...]:
        """Rows that are all alike are one."""
        wanted = tuple(
            tuple(sorted((name, weight) for name, weight in row.items() if weight and name in self._known))
            for row in rows
        )
        return wanted[:1] if len(set(wanted)) == 1 else wanted

    def _adapt(self, place: str) -> None:
        module = self._modules[place]
        plain = module.forward

        def forward(x: "torch.Tensor") -> "torch.Tensor":
            act = self._acting.get(place)
            answer: torch.Tensor = plain(x) if act is None else act(x, plain)
            return answer

        module.forward = forward

    def _lay(self, wanted: tuple[Wanted, ...], steady: bool) -> "Mapping[str, _Act]":
        if not any(wanted):
            return {}
        laid = self._nearest(wanted, steady) or self._spare(wanted, steady)
        if laid in self._kept:
            self._kept.remove(laid)
        acting = laid.lay(wanted)
        self._kept.append(laid)  # if nothing went wrong
        while len(self._kept) > 1 and (len(self._kept) > MOST_KEPT or self.memory_bytes > MERGED_BYTES):
            del self._kept[0]
        return acting

    @property
    def memory_bytes(self) -> int:
        """Of what is laid out, beside the adapters themselves."""
        return sum(each.memory_bytes for each in self._kept)

    def _spare(self, wanted: tuple[Wanted, ...], steady: bool) -> "_Alike | _Mixed":
        """Where rows are laid that are nowhere: memory that was unused for longest, once there is no room for more."""
        if len(wanted) == 1:
            return _Alike(self._modules, self._known, steady)
        own = [laid for laid in self._kept if isinstance(laid, _Mixed)]
        if own and self.memory_bytes + max(laid.memory_bytes for laid in own) > MERGED_BYTES:
            return own[0]
        return _Mixed(self._modules, self._known)

    def _nearest(self, wanted: tuple[Wanted, ...], steady: bool = False) -> "_Alike | _Mixed | None":
        """Where most of the rows are laid already; at least half."""
        if len(wanted) == 1:
            alike = (laid for laid in self._kept if isinstance(laid, _Alike) and laid.is_steady == steady)
            return next((laid for laid in alike if tuple(laid.rows) == wanted), None)
        count: Counter[Wanted | None] = Counter(wanted)
        most, nearest = 0, None
        for laid in self._kept:
            there = (count & Counter(laid.rows)).total() if isinstance(laid, _Mixed) else 0
            most, nearest = (there, laid) if there and there >= most else (most, nearest)
        return nearest if 2 * most >= len(wanted) else None


_Act = Callable[["torch.Tensor", Callable[["torch.Tensor"], "torch.Tensor"]], "torch.Tensor"]
"""What a layer answers to its input and its own forward pass."""
_Layers = Sequence[tuple[Layer, float]]
"""What a row wants of a layer, each with its weight."""


class _Laid:
    """What the adapted layers do for the rows of a pass."""

    def __init__(self, modules: Mapping[str, Any], known: Mapping[str, Mapping[str, Layer]]) -> None:
        self._modules = modules
        self._known = known
        self.rows: list[Wanted | None] = []  # None: of an adapter that is gone
        self._acting: dict[str, _Act] = {}

    def forget(self, name: str) -> bool:
        """False where nothing is left."""
        self.rows = [None if row and any(name == each for each, _ in row) else row for row in self.rows]
        return any(row is not None for row in self.rows)

    def _layers_of(self, row: Wanted) -> "dict[str, _Layers]":
        layers: dict[str, list[tuple[Layer, float]]] = {}
        for name, weight in row:
            for place, layer in self._known[name].items():
                layers.setdefault(place, []).append((layer, weight))
        return {**layers}


class _Alike(_Laid):
    """One row for all of a pass: as the LoRAs' files have it in the first, merged from the second on unless it is
    steady."""

    def __init__(self, modules: Mapping[str, Any], known: Mapping[str, Mapping[str, Layer]], is_steady: bool) -> None:
        super().__init__(modules, known)
        self.is_steady = is_steady
        self._merged: list[_Merged] = []
        self._is_settled = False

    @property
    def memory_bytes(self) -> int:
        return sum(stack.memory_bytes for stack in self._merged)

    def lay(self, wanted: Sequence[Wanted]) -> "Mapping[str, _Act]":
        if self._is_settled:
            return self._acting
        is_first, room = not self.rows, MERGED_BYTES
        for name, layers in self._layers_of(wanted[0]).items():
            module = self._modules[name]
            if is_first:
                a, b = _side_by_side(layers)
                self._acting[name] = _low_rank(a[None], b[None], module)
            elif _is_better_merged(module, sum(len(layer.a) for layer, _ in layers), 1, room):
                stack = _Merged(module, 1)
                stack.put(0, layers)
                room -= stack.memory_bytes
                self._merged.append(stack)
                self._acting[name] = stack.acting(1)
        self.rows, self._is_settled = [*wanted], self.is_steady or not is_first
        return self._acting


class _Mixed(_Laid):
    """Several rows. Only those that have come are laid: they are few, and are merged at once."""

    def __init__(self, modules: Mapping[str, Any], known: Mapping[str, Mapping[str, Layer]]) -> None:
        super().__init__(modules, known)
        self._by_row: dict[Wanted, dict[str, _Layers]] = {}
        self._stacks: dict[str, _Merged | _LowRank] = {}

    @property
    def memory_bytes(self) -> int:
        return sum(stack.memory_bytes for stack in self._stacks.values())

    def lay(self, wanted: Sequence[Wanted]) -> "Mapping[str, _Act]":
        come = [place for place, row in enumerate(wanted) if self.rows[place : place + 1] != [row]]
        if not come and len(wanted) == len(self.rows):
            return self._acting
        self._by_row = {row: self._by_row.get(row) or self._layers_of(row) for row in wanted}
        stacks: dict[str, _Merged | _LowRank] = {}
        room = MERGED_BYTES
        for name in sorted({name for layers in self._by_row.values() for name in layers}):
            layers = [self._by_row[row].get(name, ()) for row in wanted]
            there = self._stacks.get(name)
            stack = self._fitting(there, self._modules[name], layers, room)
            for place in come if stack is there else range(len(wanted)):
                stack.put(place, layers[place])
            stacks[name] = stack
            room -= stack.memory_bytes if isinstance(stack, _Merged) else 0
        self.rows, self._stacks = [*wanted], stacks
        self._acting = {name: stack.acting(len(wanted)) for name, stack in stacks.items()}
        return self._acting

    def forget(self, name: str) -> bool:
        self._by_row = {row: layers for row, layers in self._by_row.items() if all(name != each for each, _ in row)}
        return super().forget(name)

    def _fitting(
        self, there: "_Merged | _LowRank | None", module: Any, layers: "Sequence[_Layers]", room: int
    ) -> "_Merged | _LowRank":
        """A new one where the one that is there does not do."""
        count, rank = len(layers), max(sum(len(layer.a) for layer, _ in row) for row in layers)
        if isinstance(there, _Merged) and there.takes(count, room):
            return there
        if there is not None:  # one that has become too small may soon be so again
            count = there.count if count <= there.count else max(count, 2 * there.count)
        if _is_better_merged(module, rank, count, room):
            return _Merged(module, count)
        if isinstance(there, _LowRank) and there.takes(len(layers), rank):
            return there
        return _LowRank(module, count, rank)


class _Merged:
    """W + B A (out, in) of each row."""

    def __init__(self, module: Any, count: int) -> None:
        self._module = module
        weight = module.weight
        self._weights = weight.new_empty(count, len(weight), weight[0].numel())
        self.count = count

    @property
    def memory_bytes(self) -> int:
        return bytes_of((self._weights,))

    def takes(self, count: int, room: int) -> bool:
        return count <= self.count and self.memory_bytes <= room

    def put(self, place: int, layers: _Layers) -> None:
        import torch

        plain, here = self._module.weight.flatten(1), self._weights[place]
        if layers:
            a, b = _side_by_side(layers)
            torch.addmm(plain, b.T, a.flatten(1), out=here)
        else:
            here.copy_(plain)

    def acting(self, count: int) -> _Act:
        import torch

        module, weights, bias = self._module, self._weights[:count], self._module.bias
        if count == 1:
            alike = weights[0].view(module.weight.shape)
            if isinstance(module, torch.nn.Conv2d):
                kernels = alike.contiguous(memory_format=torch.channels_last)
                return lambda x, _: module._conv_forward(x, kernels, bias)
            return lambda x, _: torch.nn.functional.linear(x, alike, bias)
        across = weights.transpose(1, 2)

        def act(x: "torch.Tensor", _: object) -> "torch.Tensor":
            # What a model unfolds (frames, patches) is unfolded row by row.
            rows = x.reshape(count, -1, x.shape[-1])
            answer = torch.bmm(rows, across) if bias is None else torch.baddbmm(bias, rows, across)
            return answer.view(*x.shape[:-1], -1)

        return act


class _LowRank:
    """A (R, in, ...) and B (R, out) of each row, with zeros where fewer than R are wanted."""

    def __init__(self, module: Any, count: int, rank: int) -> None:
        self._module = module
        weight = module.weight
        self._a = weight.new_empty(count, rank, *weight.shape[1:])
        self._b = weight.new_empty(count, rank, len(weight))
        self.count = count

    @property
    def memory_bytes(self) -> int:
        return bytes_of((self._a, self._b))

    def takes(self, count: int, rank: int) -> bool:
        return count <= self.count and rank <= self._a.shape[1] <= WIDE * rank

    def put(self, place: int, layers: _Layers) -> None:
        import torch

        at = 0
        for layer, weight in layers:
            end = at + len(layer.a)
            self._a[place, at:end].copy_(layer.a)
            torch.mul(layer.b, weight, out=self._b[place, at:end])
            at = end
        self._a[place, at:].zero_()
        self._b[place, at:].zero_()

    def acting(self, count: int) -> _Act:
        return _low_rank(self._a[:count], self._b[:count], self._module)


def _is_better_merged(module: Any, rank: int, count: int, room: int) -> bool:
    """Whether the two products cost much beside the layer's own, and there is room. In half precision small changes
    would be lost in the sum."""
    import torch

    weight = module.weight
    if weight.dtype != torch.float32 or (weight.ndim > 2 and count > 1):
        return False
    products = rank * (weight[0].numel() + len(weight))
    return bool(products > DEAR * weight.numel()) and count * bytes_of((weight,)) <= room


def _side_by_side(layers: _Layers) -> "tuple[torch.Tensor, torch.Tensor]":
    """A (R, in, ...) and B (R, out) of a row, the weights in B."""
    import torch

    a = [layer.a for layer, _ in layers]
    b = [layer.b if weight == 1 else layer.b * weight for layer, weight in layers]
    return (a[0], b[0]) if len(layers) == 1 else (torch.cat(a), torch.cat(b))


def _low_rank(a: "torch.Tensor", b: "torch.Tensor", module: Any) -> _Act:
    """Of rows' A (N, R, in, ...) and B (N, R, out)."""
    import torch

    if isinstance(module, torch.nn.Conv2d):
        return _low_rank_convolution(a, b, module)
    count, down = len(a), a.transpose(1, 2)

    def act(x: "torch.Tensor", plain: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
        answer = plain(x)
        middle = torch.bmm(x.reshape(count, -1, x.shape[-1]), down)
        answer.view(count, -1, answer.shape[-1]).baddbmm_(middle, b)
        return answer

    return act


def _low_rank_convolution(a: "torch.Tensor", b: "torch.Tensor", module: Any) -> _Act:
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
