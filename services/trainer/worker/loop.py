"""The training loop: denoising score matching in latent space (Ho et al. 2020, Rombach et al. 2022)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.diffusion.objective import Objective
from services.trainer.domain import Progress, TrainingConfig
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.draws import Draws, draw_step
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee
from services.trainer.worker.plan import Plan
from services.trainer.worker.seeds import derive_seed
from services.trainer.worker.state import Learner

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


@dataclass(frozen=True)
class Batch:
    """Part of an optimizer step, on the CPU. Images are (B, C, H, W) float32."""

    noisy: "torch.Tensor"
    target: "torch.Tensor"
    timesteps: "torch.Tensor"  # (B,)
    weights: "torch.Tensor"  # (B,) what each picture's mean squared error counts; the step's loss is their sum
    rows: "torch.Tensor"  # (B,) which pictures
    captionless: "torch.Tensor"  # (B,) bool
    wording: "torch.Tensor"  # (B,) int64
    mask: "torch.Tensor | None" = None  # (B, 1, H, W) how much each place counts, 1 in the mean


def train(
    trainee: Trainee,
    learner: Learner,
    pictures: TrainingSet,
    objective: Objective,
    config: TrainingConfig,
    plan: Plan,
    *,
    accelerator: "Accelerator",
    meter: Meter,
    settle_at: Callable[[int], bool] = lambda step: False,
    after: int = 0,
) -> Iterator[Progress | None]:
    """Trains on after step `after`, where the learner stands, yielding after every optimizer step the progress that is
    known by then, or None.

    On an accelerator numbers are read some steps at a time, so that it never waits; after the steps that `settle_at`
    names, and after the last, all of it is yielded before the next step begins, and the model stands exactly there.
    Leaving the generator ends the training. Raises LossNotFinite.
    """
    import torch

    trainee.set_mode(training=True)
    for step in range(after + 1, plan.total_steps + 1):
        meter.begin_step()
        for group in learner.optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step) * group["ratio"]
        losses: list[torch.Tensor] = []
        for batch, is_last in _with_last(step_batches(step, pictures, objective, config, plan)):
            with accelerator.autocast(), _dropout_from(config, step, len(losses)):
                loss = batch_loss(trainee, pictures, batch)
            learner.backward(accelerator, loss, is_last=is_last)
            losses.append(loss.detach())
        norm = learner.finish_step(accelerator, config.max_grad_norm)
        if learner.average is not None:
            learner.average.update(step)
        images = len(plan.images_of(step))
        if meter.end_step(step, images, torch.stack(losses).sum(), norm) or settle_at(step):
            yield from meter.settle()
        else:
            yield None


def _with_last(batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Each with whether it is the last, which is known when the next is asked for."""
    before = next(batches)
    for batch in batches:
        yield before, False
        before = batch
    yield before, True


def batch_loss(trainee: Trainee, pictures: TrainingSet, batch: Batch) -> "torch.Tensor":
    """The batch's share of its step's loss."""
    device = trainee.device
    noisy, timesteps, target = (_send(each, device) for each in (batch.noisy, batch.timesteps, batch.target))
    conditioning = pictures.conditioning(batch.rows, batch.captionless, batch.wording)
    prediction = trainee.components.family.predict(trainee.components, noisy, timesteps, conditioning)
    squares = (prediction.float() - target).square()
    if batch.mask is not None:
        squares = squares * _send(batch.mask, device)
    errors = squares.flatten(1).mean(dim=1)
    loss: torch.Tensor = (errors * _send(batch.weights, device)).sum()
    return loss


def _send(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """To the device; to CUDA through pinned memory, because a copy from elsewhere waits for all that is queued
    there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def _dropout_from(config: TrainingConfig, step: int, part: int) -> Iterator[None]:
    """Dropout layers know only the global generator: while they draw, it is a function of the seed and the step."""
    if config.lora is None or not config.lora.dropout or config.seed is None:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "dropout", step, part))
        yield


def step_batches(
    step: int, pictures: TrainingSet, objective: Objective, config: TrainingConfig, plan: Plan
) -> Iterator[Batch]:
    """The step's pictures in the plan's batches, each picture of a subject with one of its class, if any; pictures of
    several sizes come apart.

    A picture counts its min-SNR weight over the number of the step's pictures, and one of the class `prior_loss_weight`
    times that: Ruiz et al. 2022, equation 2, the mean over the subject plus the weighted mean over the class.
    """
    import torch

    batches = plan.batches_of(step)
    rows = [row for batch in batches for row in batch]
    count = len(rows)
    weights = torch.full((count,), 1 / count)
    if pictures.num_class_images:
        first, classes = (step - 1) * plan.images_per_step, pictures.num_images + pictures.num_held_out
        rows += [classes + (first + place) % pictures.num_class_images for place in range(count)]
        prior = config.dreambooth.prior_loss_weight if config.dreambooth else 1.0
        weights = torch.cat([weights, prior * weights])
    homes = [pictures.homes[row] for row in rows]
    members = {home: [place for place, each in enumerate(homes) if each == home] for home in sorted(set(homes))}
    draws = {
        home: draw_step(
            plan.seed,
            step,
            len(those),
            pictures.latents[home].shape,
            flip=config.random_flip,
            caption_dropout=config.caption_dropout,
            noise_offset=config.noise_offset,
            part=part,
        )
        for part, (home, those) in enumerate(members.items())
    }
    start = 0
    for batch in batches:
        chosen = list(range(start, start + len(batch)))
        chosen += [count + place for place in chosen if len(rows) > count]
        start += len(batch)
        for home, those in members.items():
            if here := [place for place in chosen if homes[place] == home]:
                drawn = draws[home][[those.index(place) for place in here]]
                yield make_batch(pictures, home, torch.tensor(rows)[here], drawn, weights[here], objective, config)


def make_batch(
    pictures: TrainingSet,
    home: int,
    rows: "torch.Tensor",
    draws: Draws,
    weights: "torch.Tensor",
    objective: Objective,
    config: TrainingConfig,
) -> Batch:
    """A batch of pictures of one size, as the draws have it; `weights` before min-SNR's."""
    cached, places = pictures.latents[home], pictures.places[rows]
    latents = cached.sample(places, draws.flipped, draws.jitter, draws.wording)
    times = objective.times(draws.where)
    return Batch(
        noisy=objective.diffuse(latents, draws.noise, times),
        target=objective.target(latents, draws.noise, times),
        timesteps=times,
        weights=weights * objective.min_snr_weights(times, config.snr_gamma),
        rows=rows,
        captionless=draws.captionless,
        wording=draws.wording,
        mask=cached.mask(places, draws.flipped),
    )
