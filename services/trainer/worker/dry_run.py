"""`python -m services.trainer.worker.dry_run ASSIGNMENT RESULT`: makes a few steps of a job and says what they took.

The job's own code does it, on some of its own pictures and with its own shapes, so that what is measured is what will
be. RESULT is JSON: `{"footprint": {...}}`, or `{"failure": {...}}` with the reason DOES_NOT_FIT or one that the job
would fail with.
"""

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.trainer.v1.worker_service_pb2 import JobAssignment

from services.common.blobs import open_blobs
from services.common.errors import FailedPrecondition
from services.common.telemetry import configure_logging
from services.diffusion.load import Components
from services.trainer.codec import dump
from services.trainer.domain import Device, Footprint, Method, Optimizer, TrainingConfig
from services.trainer.worker import class_pictures, hardware
from services.trainer.worker.aside import at_hand, idle_parts, set_aside
from services.trainer.worker.assignment import Assignment, assignment_from_proto
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.clips import draw_from
from services.trainer.worker.config import WorkerSettings
from services.trainer.worker.data import Item
from services.trainer.worker.draws import draw_step
from services.trainer.worker.failures import failure_of
from services.trainer.worker.loop import Batch, batch_loss, make_batch
from services.trainer.worker.manifest import read_manifest
from services.trainer.worker.methods import Trainee, captions_for, make_trainee, save_weights, trains_every_weight
from services.trainer.worker.plan import make_plan
from services.trainer.worker.prepare import (
    Places,
    load_bases,
    make_training_set,
    training_size,
    with_resolution,
)
from services.trainer.worker.samples import DRAWN_AT_ONCE, draw
from services.trainer.worker.spool import KEPT_BYTES
from services.trainer.worker.state import Learner, make_learner, steps_inside_backward

if TYPE_CHECKING:
    from accelerate import Accelerator

TIMED_STEPS = 3
MOST_SHAPES = 4
"""Sizes that are stepped through, the largest: those of one resolution have all about the same area."""
OPTIMIZER_BYTES = {Optimizer.ADAMW: 8, Optimizer.ADAMW_8BIT: 2, Optimizer.PRODIGY: 16, Optimizer.ADAFACTOR: 0}
"""A trained parameter's, at least."""


class DoesNotFit(FailedPrecondition):
    """The job needs more than there is."""

    default_reason = "DOES_NOT_FIT"


def measure(
    assignment: Assignment, items: Sequence[Item], places: Places, class_items: Sequence[Item] = ()
) -> Footprint:
    """`class_items` are DreamBooth's class, where that is a dataset. Raises DoesNotFit, and what the job itself would
    fail with."""
    config, method = assignment.config, assignment.method
    device = hardware.choose_device(config.device)
    precision = hardware.choose_precision(config.mixed_precision, device)
    total = hardware.memory_total(device)
    components = load_bases(assignment.bases, places, device)
    config = with_resolution(config, components)
    _require_room(components, method, config, total)
    sizes = [training_size(item, config, components) for item in items]
    largest = sorted(set(sizes), key=lambda size: size[0] * size[1], reverse=True)[:MOST_SHAPES]
    some = [
        item
        for size in largest
        for item in [item for item, each in zip(items, sizes, strict=True) if each == size][: config.batch_size]
    ]
    began = time.monotonic()
    pictures = _prepared(components, method, config, some, places, device, precision)
    num_read = len(items) + len(class_items)
    reading = (time.monotonic() - began) / len(some) * num_read
    trainee = make_trainee(components, method, config, frozen=hardware.frozen_dtype(precision))
    set_aside(idle_parts(components, config))
    held = max(1, round(config.validation.share * len(items))) if config.validation.share else 0
    # The pictures held out are chosen by what looks alike; here any will do.
    homes = [largest.index(size) if size in largest else 0 for size in sizes][: len(items) - held]
    plan = make_plan(config, len(items) - held, homes if config.aspect_buckets else ())
    accelerator = hardware.make_accelerator(device, precision)
    learner = make_learner(trainee, config, plan, accelerator)
    seconds = []
    for home in (*range(len(pictures.latents)), *([_most_common(pictures)] * TIMED_STEPS)):
        batch = _batch_of(pictures, home, trainee, config, method)
        began = time.monotonic()
        _step(trainee, learner, pictures, batch, config, accelerator)
        float(next(iter(trainee.parameters)).detach().flatten()[0])  # waits for the device
        seconds.append(time.monotonic() - began)
    step_seconds = statistics.median(seconds[-TIMED_STEPS:]) * config.gradient_accumulation_steps
    class_seconds = _draw_once(trainee, config, method, device, precision)
    with tempfile.TemporaryDirectory(dir=places.scratch) as folder:
        saved = Path(folder)
        files = save_weights(trainee, saved, {})
        weights = sum((saved / path).stat().st_size for path in files)
        learner.save(saved / "state", job_id=assignment.job_id, step=1, measured=[])
        state = (saved / "state").stat().st_size
    cached = sum(each.mean.nbytes * 2 for each in pictures.latents) / max(1, len(some)) * (num_read - len(some))
    peak = hardware.memory_gauge(device)()[1] + (round(min(cached, KEPT_BYTES)) if device == "cpu" else 0)
    if peak > total:
        raise DoesNotFit(f"training needs {_gigabytes(peak)} of memory on {device}, which has {_gigabytes(total)}")
    return Footprint(
        device=Device(device),
        trained_parameters=sum(parameter.numel() for parameter in trainee.parameters),
        num_images=plan.num_images,
        total_steps=plan.total_steps,
        total_epochs=plan.total_epochs,
        memory_bytes=peak,
        memory_total_bytes=total,
        step_seconds=step_seconds,
        preparing_seconds=reading + class_seconds,
        weights_bytes=weights,
        state_bytes=state,
    )


def _require_room(components: Components, method: Method, config: TrainingConfig, total: int) -> None:
    """Before a step is tried that would bring the machine down: what is needed at the very least, from the numbers of
    parameters alone. A LoRA's own are left out."""
    learning = [components.denoiser] if trains_every_weight(method, config) else []
    learning += components.text_encoders if learning and config.train_text_encoder else []
    count = sum(parameter.numel() for model in learning for parameter in model.parameters())
    gradient = 0 if steps_inside_backward(config) and config.gradient_accumulation_steps == 1 else 4
    per = gradient + OPTIMIZER_BYTES[config.optimizer] + (4 if config.ema_decay else 0)  # and the mean
    needed = components.memory_bytes + count * per
    if needed > total:
        message = f"training needs at least {_gigabytes(needed)} of memory on {components.device.type}"
        rule = "train a LoRA, or choose an optimizer with less memory (adamw_8bit, adafactor) and max_grad_norm 0"
        raise DoesNotFit(f"{message}, which has {_gigabytes(total)}: {rule}")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _prepared(
    components: Components,
    method: Method,
    config: TrainingConfig,
    some: Sequence[Item],
    places: Places,
    device: str,
    precision: str,
) -> TrainingSet:
    """The caches of some pictures, without DreamBooth's class, which is made up for in the batches."""
    plain = replace(config, dreambooth=config.dreambooth and replace(config.dreambooth, prior_preservation=False))
    captions = captions_for(method, plain, [item.caption for item in some])
    preparing = make_training_set(components, method, plain, some, captions, places.blobs, device, precision)
    while True:
        try:
            next(preparing)
        except StopIteration as end:
            made: TrainingSet = end.value
            return made


def _most_common(pictures: TrainingSet) -> int:
    return Counter(pictures.homes).most_common(1)[0][0]


def _batch_of(pictures: TrainingSet, home: int, trainee: Trainee, config: TrainingConfig, method: Method) -> Batch:
    """A batch as large as the job's, pictures repeated where there are too few, each with one of the class if any."""
    import torch

    prior = method is Method.DREAMBOOTH and config.dreambooth is not None and config.dreambooth.prior_preservation
    count = config.batch_size * (2 if prior else 1)
    here = [row for row, each in enumerate(pictures.homes) if each == home]
    rows = torch.tensor([here[place % len(here)] for place in range(count)])
    objective = trainee.components.family.objective(trainee.components.scheduler_config)
    draws = draw_step(
        config.seed or 0,
        1,
        count,
        pictures.latents[home].shape,
        flip=config.random_flip,
        caption_dropout=config.caption_dropout,
        noise_offset=config.noise_offset,
    )
    return make_batch(pictures, home, rows, draws, torch.full((count,), 1 / count), objective, config)


def _step(
    trainee: Trainee,
    learner: Learner,
    pictures: TrainingSet,
    batch: Batch,
    config: TrainingConfig,
    accelerator: "Accelerator",
) -> None:
    """As the loop makes one, with a learning rate of 0."""
    trainee.set_mode(training=True)
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    with accelerator.autocast():
        loss = batch_loss(trainee, pictures, batch)
    learner.backward(accelerator, loss, is_last=True)
    learner.finish_step(accelerator, config.max_grad_norm)
    if learner.average is not None:
        learner.average.update(1)


def _draw_once(trainee: Trainee, config: TrainingConfig, method: Method, device: str, precision: str) -> float:
    """Draws as samples and class pictures are drawn, for one step; gives the seconds that drawing the class takes."""
    dreambooth = config.dreambooth if method is Method.DREAMBOOTH else None
    import torch

    draws = dreambooth is not None and dreambooth.prior_preservation and dreambooth.class_dataset_id is None
    count = dreambooth.num_class_images if dreambooth and draws else 0
    together = min(DRAWN_AT_ONCE, max(count, len(config.samples.prompts), config.samples.clips))
    if not together:
        return 0.0
    components = trainee.components
    began = time.monotonic()
    with at_hand(idle_parts(components, config), trainee.device):
        trainee.set_mode(training=False)
        side, autocast = config.resolution or components.size.native, hardware.autocast(device, precision)
        pictures: Iterator[torch.Tensor | None]
        if components.family.draws_clips:
            frame = torch.zeros(3, side, side)
            pictures = draw_from(components, config, frame, seed=0, steps=1, autocast=autocast)
        else:
            pictures = draw(
                components, [""] * together, [0] * together, side=side, steps=1, guidance_scale=7.5, autocast=autocast
            )
        for _ in pictures:
            pass
    return (time.monotonic() - began) * class_pictures.STEPS * count / together


def main(arguments: Sequence[str]) -> int:
    configure_logging()
    source, target = (Path(argument) for argument in arguments)
    settings = WorkerSettings()
    cache = settings.cache_dir or settings.dir / "cache"
    places = Places(
        blobs=open_blobs(settings.blob_url),
        scratch=settings.dir,
        models=cache / "stored",
        hub_cache=cache / "hub",
        weights_dir=settings.weights_dir,
    )
    try:
        assignment = assignment_from_proto(JobAssignment.FromString(source.read_bytes()))
        items = read_manifest(settings.catalog_address, assignment.snapshot_digest)
        class_digest = assignment.class_snapshot_digest
        class_items = read_manifest(settings.catalog_address, class_digest) if class_digest else ()
        answer = {"footprint": json.loads(dump(measure(assignment, items, places, class_items)))}
    except Exception as error:
        failure = failure_of(error)
        if failure.reason == "OUT_OF_MEMORY":
            total = _gigabytes(hardware.memory_total(hardware.choose_device(assignment.config.device)))
            failure = replace(failure, reason="DOES_NOT_FIT", message=f"training needs more than {total}, all there is")
        answer = {"failure": json.loads(dump(failure))}
    target.write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
