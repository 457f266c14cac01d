"""How many steps a job takes, which pictures each sees, and at which learning rate."""

import math
from dataclasses import dataclass
from functools import lru_cache

from services.trainer.domain import Schedule, TrainingConfig
from services.trainer.worker.seeds import generator_for


@dataclass(frozen=True, slots=True)
class Plan:
    """An optimizer step sees up to `images_per_step` pictures. The last step of an epoch sees what is left: no
    picture is dropped, none is seen twice in an epoch, and the loss stays the mean over the pictures seen."""

    num_images: int
    images_per_step: int
    total_steps: int
    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_images / self.images_per_step)

    @property
    def total_epochs(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """From 1, for steps from 1."""
        return (step - 1) // self.steps_per_epoch + 1

    def images_of(self, step: int) -> range:
        """Places of the step's pictures in its epoch's order."""
        start = (step - 1) % self.steps_per_epoch * self.images_per_step
        return range(start, min(start + self.images_per_step, self.num_images))

    def order_of(self, epoch: int) -> tuple[int, ...]:
        """The epoch's order: a permutation of the pictures, a function of the seed and the epoch alone."""
        return _order(self.seed, epoch, self.num_images)

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
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    import torch

    return tuple(torch.randperm(count, generator=generator_for(seed, "order", epoch)).tolist())


def make_plan(config: TrainingConfig, num_images: int) -> Plan:
    """The plan of a job on `num_images` >= 1 pictures; `config.seed` is set."""
    if config.seed is None:
        raise ValueError("a plan wants a seed")
    per_step = config.batch_size * config.gradient_accumulation_steps
    return Plan(
        num_images=num_images,
        images_per_step=per_step,
        total_steps=config.max_steps or math.ceil(num_images / per_step) * config.epochs,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        seed=config.seed,
    )
