"""Random numbers that are a function of what they are for, so that nothing drawn beside training can disturb it."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) for one purpose, for example `derive_seed(7, "step", 12)`: equal inputs, equal seeds."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> "torch.Generator":
    """A generator on the CPU, whatever device trains: the same numbers everywhere."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
