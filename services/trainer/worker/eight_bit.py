"""AdamW with its memory in eight bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), for CPUs.

bitsandbytes has the same for GPUs. On a CPU its kernels bring a second OpenMP runtime, whose threads and torch's keep
each other from their cores; here torch does all of it, a stretch at a time, so that little is unpacked at
once.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.optim.adamw import adamw

BLOCK = 256  # numbers that share a scale
STRETCH = 1 << 20  # numbers unpacked at a time, 4 MB: fewer would have the threads wait for each other more often
LEAST = 4096  # smaller tensors are remembered in 32 bits: biases and norms, which are few and matter
BETAS, EPSILON = (0.9, 0.999), 1e-8


def dynamic_code(*, signed: bool) -> torch.Tensor:
    """The 256 values, ascending in [-1, 1] or [0, 1], that a byte can stand for: finer near 0, by decades from 1e-7,
    each next one with twice as many (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning")."""
    values = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1, dtype=torch.float64)
        means = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).float()
        values += [means, -means] if signed else [means]
    return torch.cat(values).sort().values


@lru_cache(maxsize=2)
def _tables(signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of the bytes, and for the upper half of each float32, as int16 + 2**15, the byte nearest to it."""
    code = dynamic_code(signed=signed)
    halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.bfloat16).float()
    nearest = torch.bucketize(halves.nan_to_num().clamp(-1, 1), (code[1:] + code[:-1]) / 2)
    if not signed:
        # Never 0 for a second moment, by whose root is divided (Li et al. 2023, "Memory Efficient Optimizers with 4-bit
        # States").
        nearest = nearest.clamp(min=1)
    return code, nearest.to(torch.uint8)


def pack(values: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, *, signed: bool) -> None:
    """Writes (N,) float32 as bytes (N,) and their scales (N / BLOCK,); N is a multiple of BLOCK."""
    blocks = values.view(-1, BLOCK)
    torch.amax(blocks.abs(), dim=1, out=scales)
    halves = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).bfloat16().view(torch.int16)
    places = halves.flatten().to(torch.int32).add_(1 << 15)
    torch.index_select(_tables(signed)[1], 0, places, out=packed)


def unpack(packed: torch.Tensor, scales: torch.Tensor, *, signed: bool) -> torch.Tensor:
    """(N,) float32 of what `pack` wrote."""
    values = _tables(signed)[0].index_select(0, packed.to(torch.int32))
    values.view(-1, BLOCK).mul_(scales[:, None])
    return values


class EightBitAdamW(torch.optim.Optimizer):
    """As `torch.optim.AdamW`, with two bytes a parameter and not eight."""

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closures
        """Applies the gradients that there are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                memory = self.state[parameter]
                if not memory:
                    memory.update(_blank(parameter.numel()))
                memory["step"] += 1
                # Views, for what learns is contiguous; a gradient that is not would be copied.
                values, gradient = parameter.view(-1), parameter.grad.reshape(-1)
                if parameter.numel() < LEAST:
                    _update(values, gradient, memory["first"], memory["second"], memory["step"], group)
                else:
                    _update_packed(values, gradient, memory, group)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As every optimizer's, without the cast to the parameters' type, which would make the bytes floats."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for place, memory in state_dict["state"].items():
            self.state[parameters[place]] = {
                name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in memory.items()
            }


def _blank(count: int) -> dict[str, Any]:
    if count < LEAST:
        return {"step": 0, "first": torch.zeros(count), "second": torch.zeros(count)}
    blocks = -(-count // BLOCK)
    zero = int(_tables(True)[1][1 << 15])
    return {
        "step": 0,
        "first": torch.full((blocks * BLOCK,), zero, dtype=torch.uint8),
        "first_scale": torch.zeros(blocks),
        "second": torch.zeros(blocks * BLOCK, dtype=torch.uint8),
        "second_scale": torch.zeros(blocks),
    }


def _update_packed(
    values: torch.Tensor, gradient: torch.Tensor, memory: Mapping[str, Any], group: Mapping[str, Any]
) -> None:
    for start in range(0, len(values), STRETCH):
        own = slice(start, start + STRETCH)
        blocks = slice(start // BLOCK, (start + STRETCH) // BLOCK)
        first, first_scale = memory["first"][own], memory["first_scale"][blocks]
        second, second_scale = memory["second"][own], memory["second_scale"][blocks]
        mean, square = unpack(first, first_scale, signed=True), unpack(second, second_scale, signed=False)
        count = len(values[own])  # what is behind it only fills the last block
        _update(values[own], gradient[own], mean[:count], square[:count], memory["step"], group)
        pack(mean, first, first_scale, signed=True)
        pack(square, second, second_scale, signed=False)


def _update(
    values: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    step: int,
    group: Mapping[str, Any],
) -> None:
    adamw(
        [values],
        [gradient],
        [mean],
        [square],
        [],
        [torch.tensor(float(step - 1))],
        fused=True,
        amsgrad=False,
        beta1=BETAS[0],
        beta2=BETAS[1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=EPSILON,
        maximize=False,
    )
