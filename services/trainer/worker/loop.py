"""The training loop: denoising score matching in latent space (Ho et al. 2020, Rombach et al. 2022)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.trainer.domain import Progress, TrainingConfig
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.draws import draw_step
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee
from services.trainer.worker.objective import NoiseSchedule
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


def train(
    trainee: Trainee,
    learner: Learner,
    pictures: TrainingSet,
    schedule: NoiseSchedule,
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

    parameters, optimizer = learner.parameters, learner.optimizer
    max_norm = config.max_grad_norm or float("inf")
    trainee.set_mode(training=True)
    for step in range(after + 1, plan.total_steps + 1):
        meter.begin_step()
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
        losses: list[torch.Tensor] = []
        for batch in step_batches(step, pictures, schedule, config, plan):
            with accelerator.autocast(), _dropout_from(config, step, len(losses)):
                loss = batch_loss(trainee, pictures, batch)
            accelerator.backward(loss)
            losses.append(loss.detach())
        norm = accelerator.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not trainee.is_lora)
        images = len(plan.images_of(step))
        if meter.end_step(step, images, torch.stack(losses).sum(), norm) or settle_at(step):
            yield from meter.settle()
        else:
            yield None


def batch_loss(trainee: Trainee, pictures: TrainingSet, batch: Batch) -> "torch.Tensor":
    """The batch's share of its step's loss."""
    device = trainee.device
    noisy, timesteps, target = (_send(each, device) for each in (batch.noisy, batch.timesteps, batch.target))
    embeddings = pictures.captions(batch.rows, batch.captionless)
    prediction = trainee.components.unet(noisy, timesteps, encoder_hidden_states=embeddings, return_dict=False)[0]
    errors = (prediction.float() - target).square().mean(dim=(1, 2, 3))
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
    step: int, pictures: TrainingSet, schedule: NoiseSchedule, config: TrainingConfig, plan: Plan
) -> Iterator[Batch]:
    """The step's pictures in batches of `config.batch_size`, each picture of a subject with one of its class, if any.

    A picture counts its min-SNR weight over the number of the step's pictures, and one of the class `prior_loss_weight`
    times that: Ruiz et al. 2022, equation 2, the mean over the subject plus the weighted mean over the class.
    """
    import torch

    epoch = plan.epoch_of(step)
    order = plan.order_of(epoch)
    rows = [order[place] for place in plan.images_of(step)]
    count = len(rows)
    weights = torch.full((count,), 1 / count)
    if pictures.num_class_images:
        first = (step - 1) * plan.images_per_step
        rows += [pictures.num_images + (first + place) % pictures.num_class_images for place in range(count)]
        prior = config.dreambooth.prior_loss_weight if config.dreambooth else 1.0
        weights = torch.cat([weights, prior * weights])
    draws = draw_step(
        plan.seed,
        step,
        len(rows),
        pictures.latents.shape,
        num_timesteps=len(schedule),
        flip=config.random_flip,
        caption_dropout=config.caption_dropout,
        noise_offset=config.noise_offset,
    )
    weights = weights * schedule.min_snr_weights(draws.timesteps, config.snr_gamma)
    for start in range(0, count, config.batch_size):
        chosen = list(range(start, min(start + config.batch_size, count)))
        chosen += [count + place for place in chosen if len(rows) > count]
        part, part_rows = draws[chosen], torch.tensor(rows)[chosen]
        latents = pictures.latents.sample(part_rows, part.flipped, part.jitter)
        yield Batch(
            noisy=schedule.diffuse(latents, part.noise, part.timesteps),
            target=schedule.target(latents, part.noise, part.timesteps),
            timesteps=part.timesteps,
            weights=weights[chosen],
            rows=part_rows,
            captionless=part.captionless,
        )
