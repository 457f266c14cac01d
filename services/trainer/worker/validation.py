"""Pictures held out of training, the loss on them, and what follows from it: the best step, and when to stop."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition
from services.common.likeness import groups, perceptual_hash
from services.diffusion.objective import Objective
from services.trainer.domain import Loading, LoadingStage, Report, TrainingConfig, Validation
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.data import Item, decode_item
from services.trainer.worker.loop import Batch, batch_loss
from services.trainer.worker.methods import Trainee
from services.trainer.worker.seeds import derive_seed, generator_for
from services.trainer.worker.state import Measured

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

TIMESTEPS_EACH = 4
"""Timesteps at which each picture is measured: one in each quarter of the schedule."""
COMPARED_AT_ONCE = 16


def compare(items: Sequence[Item], blobs: BlobStore) -> Generator[Report | None, None, list[int]]:
    """Returns the groups of pictures that look alike, a number for each picture."""
    hashes = []
    for place, item in enumerate(items):
        if place % COMPARED_AT_ONCE == 0:
            yield Loading(LoadingStage.COMPARING_IMAGES, place, len(items))
        hashes.append(perceptual_hash(decode_item(item, blobs)[0]))
    return groups(hashes)


def hold_out(likeness: Sequence[int], share: float, seed: int) -> list[int]:
    """Which pictures are held out: about `share` of them, at least one, whole groups of those that look alike.

    Raises FailedPrecondition when all pictures look alike.
    """
    import torch

    members: dict[int, list[int]] = {}
    for place, group in enumerate(likeness):
        members.setdefault(group, []).append(place)
    if len(members) < 2:
        message = f"validation needs pictures that differ: all {len(likeness)} are near-duplicates of one another"
        raise FailedPrecondition(message, reason="NOTHING_TO_HOLD_OUT")
    wanted = max(1, round(share * len(likeness)))
    alike = list(members.values())
    held: list[int] = []
    for place in torch.randperm(len(alike), generator=generator_for(seed, "held out")).tolist():
        if len(held) + len(alike[place]) <= wanted:
            held += alike[place]
    # Every group is larger than what is wanted: the smallest, then.
    return sorted(held) or min(alike, key=len)


def validation_loss(
    trainee: Trainee,
    pictures: TrainingSet,
    objective: Objective,
    config: TrainingConfig,
    accelerator: "Accelerator",
) -> Generator[None, None, float]:
    """Returns the mean squared error over the pictures held out, without min-SNR weights; yields after each pass of the
    denoiser. Everything that chance decides is a function of the seed and the picture: equal weights, equal losses."""
    import torch

    total = torch.zeros((), device=trainee.device)
    trainee.set_mode(training=False)
    try:
        for batch in _batches(pictures, objective, config):
            with torch.no_grad(), accelerator.autocast():
                total += batch_loss(trainee, pictures, batch)
            yield
    finally:
        trainee.set_mode(training=True)
    return float(total)


def _batches(pictures: TrainingSet, objective: Objective, config: TrainingConfig) -> Iterator[Batch]:
    import torch

    held = range(pictures.num_images, pictures.num_images + pictures.num_held_out)
    for home, cached in enumerate(pictures.latents):
        passes = [(row, part) for row in held if pictures.homes[row] == home for part in range(TIMESTEPS_EACH)]
        for start in range(0, len(passes), config.batch_size):
            some = passes[start : start + config.batch_size]
            rows = torch.tensor([row for row, _ in some])
            noise, where = zip(*(_draw(config, cached.shape, *each) for each in some), strict=True)
            epsilon, times = torch.stack(noise), objective.times(torch.stack(where))
            plain = torch.zeros(len(some), dtype=torch.long)
            latents = cached.sample(pictures.places[rows], plain, torch.zeros_like(epsilon), plain)
            yield Batch(
                noisy=objective.diffuse(latents, epsilon, times),
                target=objective.target(latents, epsilon, times),
                timesteps=times,
                weights=torch.full((len(some),), 1 / (len(held) * TIMESTEPS_EACH)),
                rows=rows,
                captionless=plain.bool(),
                wording=plain,
                mask=cached.mask(pictures.places[rows], plain),
            )


def _draw(config: TrainingConfig, shape: tuple[int, ...], row: int, part: int) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    generator = torch.Generator().manual_seed(derive_seed(config.seed or 0, "validation", row, part))
    where = (part + torch.rand((), generator=generator)) / TIMESTEPS_EACH
    return torch.randn(shape, generator=generator), where


@dataclass
class Judge:
    """Remembers the measurements of a job."""

    patience: int
    measured: Measured = field(default_factory=list)

    @property
    def best(self) -> tuple[int, float] | None:
        """The step with the lowest loss, the first of equals, and that loss."""
        return min(self.measured, key=lambda each: each[1], default=None)

    @property
    def is_exhausted(self) -> bool:
        """True when the last `patience` measurements were none better than the best before them."""
        if not self.patience or self.best is None:
            return False
        return len(self.measured) - self.measured.index(self.best) > self.patience

    def note(self, step: int, loss: float, num_images: int) -> Validation:
        """A measurement after `step`."""
        before = self.best
        self.measured.append((step, loss))
        return Validation(step, loss, num_images, is_best=before is None or loss < before[1])
