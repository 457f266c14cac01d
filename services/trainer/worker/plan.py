"""How many steps a job takes, which pictures each sees, and at which learning rate."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from services.trainer.domain import Schedule, TrainingConfig
from services.trainer.worker.seeds import generator_for


@dataclass(frozen=True, slots=True)
class Plan:
    """An optimizer step sees up to `accumulation` batches of up to `batch_size` pictures, each batch out of one
    bucket. The last ones of an epoch see what is left: no picture is dropped, none is seen twice in an epoch, and the
    loss stays the mean over the pictures seen."""

    num_images: int
    batch_size: int
    accumulation: int
    total_steps: int
    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    seed: int
    buckets: tuple[int, ...] = ()
    """Which bucket each picture is in; empty: all are in one."""

    @property
    def images_per_step(self) -> int:
        """At most."""
        return self.batch_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        sizes = Counter(self.buckets).values() if self.buckets else [self.num_images]
        return math.ceil(sum(math.ceil(size / self.batch_size) for size in sizes) / self.accumulation)

    @property
    def total_epochs(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """From 1, for steps from 1."""
        return (step - 1) // self.steps_per_epoch + 1

    def batches_of(self, step: int) -> tuple[tuple[int, ...], ...]:
        """The step's pictures, batch by batch. An epoch's order is a function of the seed and the epoch alone."""
        batches = _batches(self.seed, self.epoch_of(step), self.num_images, self.batch_size, self.buckets)
        start = (step - 1) % self.steps_per_epoch * self.accumulation
        return batches[start : start + self.accumulation]

    def images_of(self, step: int) -> tuple[int, ...]:
        """The step's pictures."""
        return tuple(row for batch in self.batches_of(step) for row in batch)

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 1, 2, ...: a straight rise that reaches the full rate with the last warm-up step, then the
        schedule's fall, which would reach 0 one step after the last."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        done = (step - 1 - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        match self.schedule:
            case Schedule.CONSTANT:
                return self.learning_rate
            case Schedule.LINEAR:
                return self.learning_rate * (1 - done)
            case Schedule.COSINE:
                return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


@lru_cache(maxsize=2)
def _batches(
    seed: int, epoch: int, count: int, batch_size: int, buckets: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """All pictures in a random order, those of one bucket together in batches, and these in a random order too."""
    import torch

    generator = generator_for(seed, "order", epoch)
    members: dict[int, list[int]] = {}
    for row in torch.randperm(count, generator=generator).tolist():
        members.setdefault(buckets[row] if buckets else 0, []).append(row)
    batches = [
        tuple(rows[start : start + batch_size])
        for _, rows in sorted(members.items())
        for start in range(0, len(rows), batch_size)
    ]
    if len(members) > 1:
        batches = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
    return tuple(batches)


def make_plan(config: TrainingConfig, num_images: int, buckets: Sequence[int] = ()) -> Plan:
    """The plan of a job on `num_images` >= 1 pictures; `config.seed` is set. `buckets` says which each is in."""
    if config.seed is None:
        raise ValueError("a plan wants a seed")
    plan = Plan(
        num_images=num_images,
        batch_size=config.batch_size,
        accumulation=config.gradient_accumulation_steps,
        total_steps=config.max_steps or 1,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        seed=config.seed,
        buckets=tuple(buckets) if len(set(buckets)) > 1 else (),
    )
    return plan if config.max_steps else replace(plan, total_steps=plan.steps_per_epoch * config.epochs)
