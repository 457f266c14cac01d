"""What is computed once because nothing that learns can change it: latents always, words unless their encoder learns or
their tags are shuffled.

The pictures' crop is fixed, and so the VAE's answer for each is too. Its whole posterior is kept, mean and deviation,
and each step draws a fresh sample from it, as if the VAE ran every time. Mirrored pictures have their own latents: a
mirrored latent is not the latent of the mirrored picture.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from services.diffusion.encode import encode_images, encode_prompts
from services.diffusion.families.family import Conditioning
from services.diffusion.load import Components
from services.trainer.worker.data import Pictures, in_parts
from services.trainer.worker.spool import Spool

if TYPE_CHECKING:
    import torch

    from services.trainer.worker.clips import ClipLatents

ON_DEVICE_BYTES = 256 << 20  # a cache of embeddings up to this size lives beside the model

Captions: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Conditioning]"
"""(rows (B,), captionless (B,) bool, wording (B,) int64) -> what the denoiser is told, (B, ...) each, on its device."""


@dataclass(frozen=True)
class Latents:
    """Posteriors of N pictures of one size in V variants: as they are and, where V is 2, mirrored. (V, N, C, H, W)
    float32, CPU. `masks` (V, N, 1, H, W) say how much each place counts."""

    mean: "torch.Tensor"
    deviation: "torch.Tensor"
    masks: "torch.Tensor | None" = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.mean.shape[2:])

    def sample(
        self, places: "torch.Tensor", flipped: "torch.Tensor", jitter: "torch.Tensor", wording: "torch.Tensor"
    ) -> "torch.Tensor":
        """(B, C, H, W) latents of the pictures at `places` (B,), at `jitter` (B, C, H, W) standard deviations. Of
        `wording` only clips make use."""
        variant = flipped.long()
        return self.mean[variant, places] + self.deviation[variant, places] * jitter

    def mask(self, places: "torch.Tensor", flipped: "torch.Tensor") -> "torch.Tensor | None":
        """(B, 1, H, W), of mean 1 over each picture, so that a small subject counts as much as a large one."""
        if self.masks is None:
            return None
        chosen = self.masks[flipped.long(), places]
        return chosen / chosen.mean(dim=(1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class TrainingSet:
    """`num_images` pictures to learn from, behind them `num_held_out` to validate on and `num_class_images` that keep
    DreamBooth's class: rows 0, 1, 2, ... in this order."""

    latents: "tuple[Latents | ClipLatents, ...]"  # one for each size
    homes: tuple[int, ...]  # which of these each row is in
    places: "torch.Tensor"  # (rows,) and where
    captions: Captions
    geometry: "torch.Tensor"  # (rows, 6), see services.diffusion.geometry
    num_images: int
    num_class_images: int = 0
    num_held_out: int = 0

    def conditioning(self, rows: "torch.Tensor", captionless: "torch.Tensor", wording: "torch.Tensor") -> Conditioning:
        """What the denoiser is told of the pictures in `rows` (B,)."""
        said = self.captions(rows, captionless, wording)
        return {**said, "geometry": self.geometry[rows].to(next(iter(said.values())).device)}

    @property
    def buckets(self) -> tuple[int, ...]:
        """Which size each picture to learn from has."""
        return self.homes[: self.num_images]


class LatentsBuilder:
    """Takes pictures a few at a time, so that progress can be told between. What is too much to keep in memory goes to
    a file in `scratch`."""

    def __init__(self, components: Components, *, flip: bool, scratch: Path | None = None) -> None:
        self._components = components
        self._flip = flip
        self._scratch = scratch
        self._posteriors: dict[tuple[int, ...], Spool] = {}  # of (N, V, 2, C, H, W): mean and deviation
        self._masks: dict[tuple[int, ...], Spool] = {}  # of (N, V, 1, H, W)
        self._rows: dict[tuple[int, ...], list[int]] = {}

    def add(self, rows: Sequence[int], pictures: Pictures) -> None:
        """Pictures of one size; each row once, in any order."""
        import torch
        from torch.nn.functional import adaptive_avg_pool2d

        variants = [pictures.pixels, pictures.pixels.flip(-1)] if self._flip else [pictures.pixels]
        mean, deviation = encode_images(self._components, torch.cat(variants))
        shape: tuple[int, ...] = tuple(mean.shape[1:])
        posterior = torch.stack([mean, deviation], dim=1).float().cpu().view(len(variants), len(rows), 2, *shape)
        self._posteriors.setdefault(shape, Spool(self._scratch)).add(posterior.transpose(0, 1))
        self._rows.setdefault(shape, []).extend(rows)
        if pictures.masks is None:
            return
        small = adaptive_avg_pool2d(pictures.masks, (mean.shape[2], mean.shape[3]))
        # A picture that is transparent all over counts all over: there is nothing else to learn from it.
        small = torch.where(small.amax(dim=(1, 2, 3), keepdim=True) > 0, small, torch.ones_like(small))
        masks = torch.stack([small, small.flip(-1)][: len(variants)], dim=1)
        self._masks.setdefault(shape, Spool(self._scratch)).add(masks)

    def build(self) -> "tuple[tuple[Latents, ...], tuple[int, ...], torch.Tensor]":
        """All of them, one Latents a size; and for each row in which of these it is, and where."""
        import torch

        count = sum(map(len, self._rows.values()))
        latents, homes, places = [], [0] * count, torch.zeros(count, dtype=torch.long)
        for home, shape in enumerate(sorted(self._posteriors)):
            posterior = self._posteriors[shape].build().transpose(0, 1)
            masks = self._masks[shape].build().transpose(0, 1) if shape in self._masks else None
            latents.append(Latents(posterior[:, :, 0], posterior[:, :, 1], masks))
            for place, row in enumerate(self._rows[shape]):
                homes[row], places[row] = home, place
        return tuple(latents), tuple(homes), places


def lines_of(caption: str) -> list[str]:
    """A caption of several lines is several captions, of which a step takes one; at least one, which may be empty."""
    return [line.strip() for line in caption.splitlines() if line.strip()] or [""]


def reworded(caption: str, wording: int, *, keep: int) -> str:
    """One of the caption's lines, with its tags in an order that `wording` decides; the first `keep` stay in front."""
    lines = lines_of(caption)
    tags = [tag.strip() for tag in lines[wording % len(lines)].split(",")]
    rest = tags[keep:]
    random.Random(wording).shuffle(rest)
    return ", ".join(tags[:keep] + rest)


def cached_captions(
    components: Components, captions: Sequence[str], *, dtype: "torch.dtype", scratch: Path | None = None
) -> Captions:
    """For an encoder that does not learn: each different line is encoded once, and the empty one for dropout. What is
    too much to keep in memory goes to a file in `scratch`."""
    import torch

    lines = [lines_of(caption) for caption in captions]
    distinct = list(dict.fromkeys(["", *(line for each in lines for line in each)]))
    spools: dict[str, Spool] = {}
    with torch.no_grad():
        for part in in_parts(distinct):
            for name, rows in encode_prompts(components, [distinct[place] for place in part]).items():
                spools.setdefault(name, Spool(scratch)).add(rows.to("cpu", dtype))
    table = {name: spool.build() for name, spool in spools.items()}
    device = components.device
    home = device if sum(each.nbytes for each in table.values()) <= ON_DEVICE_BYTES else torch.device("cpu")
    table = {name: each.to(home) for name, each in table.items()}
    places = {line: place for place, line in enumerate(distinct)}
    index = torch.tensor([places[line] for each in lines for line in each])
    counts = torch.tensor([len(each) for each in lines])
    starts = counts.cumsum(0) - counts

    def embed(rows: "torch.Tensor", captionless: "torch.Tensor", wording: "torch.Tensor") -> Conditioning:
        chosen = index[starts[rows] + wording % counts[rows]].masked_fill(captionless, 0)
        return {name: each[chosen.to(home)].to(device) for name, each in table.items()}

    return embed


def read_captions(
    components: Components, captions: Sequence[str], *, learns: bool, shuffle: bool = False, keep: int = 0
) -> Captions:
    """For words that cannot be cached, since their encoder `learns` or their tags are shuffled: they are read anew each
    time, and gradients flow into an encoder that learns."""
    import torch

    lines = [lines_of(caption) for caption in captions]

    def text(row: int, wording: int) -> str:
        return reworded(captions[row], wording, keep=keep) if shuffle else lines[row][wording % len(lines[row])]

    def embed(rows: "torch.Tensor", captionless: "torch.Tensor", wording: "torch.Tensor") -> Conditioning:
        chosen = zip(rows.tolist(), captionless.tolist(), wording.tolist(), strict=True)
        texts = ["" if left_out else text(row, number) for row, left_out, number in chosen]
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return encode_prompts(components, texts)

    return embed
