"""What is computed once because nothing that learns can change it: latents always, words unless their encoder learns.

The pictures' crop is fixed, and so the VAE's answer for each is too. Its whole posterior is kept, mean and deviation,
and each step draws a fresh sample from it, as if the VAE ran every time. Mirrored pictures have their own latents: a
mirrored latent is not the latent of the mirrored picture.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from services.diffusion.encode import encode_images, encode_prompts
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch

ENCODED_AT_ONCE = 8  # pictures or prompts; a CPU gains nothing from more, and a GPU's memory is spared
ON_DEVICE_BYTES = 256 << 20  # a cache of embeddings up to this size lives beside the model

Captions: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
"""(rows (B,), captionless (B,) bool) -> embeddings (B, T, D) on the model's device."""


@dataclass(frozen=True)
class Latents:
    """Posteriors of N pictures in V variants: as they are and, where V is 2, mirrored. (V, N, C, H, W) float32, CPU."""

    mean: "torch.Tensor"
    deviation: "torch.Tensor"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.mean.shape[2:]
        return channels, height, width

    def sample(self, rows: "torch.Tensor", flipped: "torch.Tensor", jitter: "torch.Tensor") -> "torch.Tensor":
        """(B, C, H, W) latents of the pictures `rows` (B,), at `jitter` (B, C, H, W) standard deviations."""
        variant = flipped.long()
        return self.mean[variant, rows] + self.deviation[variant, rows] * jitter


@dataclass(frozen=True)
class TrainingSet:
    """`num_images` pictures to learn from and, behind them in the same tensors, `num_class_images` that keep the
    class."""

    latents: Latents
    captions: Captions
    num_images: int
    num_class_images: int = 0


class LatentsBuilder:
    """Takes pictures a few at a time, so that progress can be told between."""

    def __init__(self, components: Components, *, flip: bool) -> None:
        self._components = components
        self._flip = flip
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, pictures: "torch.Tensor") -> None:
        """(B, 3, R, R) in [-1, 1]."""
        import torch

        variants = [pictures, pictures.flip(-1)] if self._flip else [pictures]
        mean, deviation = encode_images(self._components, torch.cat(variants))
        shape = (len(variants), len(pictures), *mean.shape[1:])
        self._parts.append((mean.float().cpu().view(shape), deviation.float().cpu().view(shape)))

    def build(self) -> Latents:
        """All of them, in the order they came."""
        import torch

        means, deviations = zip(*self._parts, strict=True)
        return Latents(torch.cat(means, dim=1), torch.cat(deviations, dim=1))


def in_parts(things: Sequence[object], size: int = ENCODED_AT_ONCE) -> Iterator[range]:
    """The places of `things`, some at a time."""
    for start in range(0, len(things), size):
        yield range(start, min(start + size, len(things)))


def cached_captions(components: Components, prompts: Sequence[str], *, dtype: "torch.dtype") -> Captions:
    """For an encoder that does not learn: each different prompt is encoded once, and the empty one for dropout."""
    import torch

    distinct = list(dict.fromkeys(["", *prompts]))
    with torch.no_grad():
        parts = [encode_prompts(components, [distinct[place] for place in part]) for part in in_parts(distinct)]
    table = torch.cat(parts).to(dtype)
    device = components.device
    home = device if table.nbytes <= ON_DEVICE_BYTES else torch.device("cpu")
    table = table.to(home)
    places = {prompt: place for place, prompt in enumerate(distinct)}
    index = torch.tensor([places[prompt] for prompt in prompts])

    def embed(rows: "torch.Tensor", captionless: "torch.Tensor") -> "torch.Tensor":
        chosen = index[rows].masked_fill(captionless, 0)
        return table[chosen.to(home)].to(device)

    return embed


def learning_captions(components: Components, prompts: Iterable[str]) -> Captions:
    """For an encoder that learns: it reads the prompts anew each time, and gradients flow into it."""
    known = list(prompts)

    def embed(rows: "torch.Tensor", captionless: "torch.Tensor") -> "torch.Tensor":
        texts = [
            "" if left_out else known[row] for row, left_out in zip(rows.tolist(), captionless.tolist(), strict=True)
        ]
        return encode_prompts(components, texts)

    return embed
