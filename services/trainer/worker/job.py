"""One job from its first report to its last: load, draw the class, cache, train, save."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.common.errors import FailedPrecondition
from services.trainer.domain import (
    Checkpoint,
    Loading,
    LoadingStage,
    Log,
    LogLevel,
    ModelFile,
    Progress,
    Report,
    Trained,
    TrainingConfig,
)
from services.trainer.worker import hardware
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.checkpoint import Kept, store_weights
from services.trainer.worker.data import Item, needs_enlarging
from services.trainer.worker.loop import train
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee, captions_for, make_trainee, training_record
from services.trainer.worker.objective import schedule_of
from services.trainer.worker.plan import Plan, make_plan
from services.trainer.worker.prepare import Places, load_bases, make_training_set, with_resolution
from services.trainer.worker.samples import draw_samples

LAYOUT_PIPELINE, LAYOUT_LORA = 1, 2  # the Catalog's numbers


@dataclass(frozen=True)
class Run:
    """A job that is ready for its first step."""

    assignment: Assignment
    config: TrainingConfig  # with the resolution filled in
    trainee: Trainee
    plan: Plan
    places: Places
    device: str
    precision: str


def run_job(assignment: Assignment, items: Sequence[Item], places: Places) -> Iterator[Report | None]:
    """Does the job and yields what happens; None is a moment at which it can be left. The last report is Trained.

    Leaving the generator stops the job within one pass of the denoiser. Raises the errors of `failures`.
    """
    config, method = assignment.config, assignment.method
    if not items:
        raise FailedPrecondition("the dataset is empty", reason="EMPTY_DATASET")
    captions = captions_for(method, config, [item.caption for item in items])
    device = hardware.choose_device(config.device)
    precision = hardware.choose_precision(config.mixed_precision, device)
    yield Loading(LoadingStage.LOADING_MODEL)
    components = load_bases(assignment.bases, places, device)
    config = with_resolution(config, components)
    yield _describe(assignment, items, config, device, precision)
    pictures = yield from make_training_set(
        components, method, config, items, captions, places.blobs, device, precision
    )
    trainee = make_trainee(components, method, config, frozen=hardware.frozen_dtype(precision))
    plan = make_plan(config, len(items))
    count = sum(parameter.numel() for parameter in trainee.parameters)
    yield Log(
        LogLevel.INFO, f"training {count:,} parameters for {plan.total_steps} steps in {plan.total_epochs} epochs"
    )
    yield from _train(Run(assignment, config, trainee, plan, places, device, precision), pictures)


def _describe(
    assignment: Assignment, items: Sequence[Item], config: TrainingConfig, device: str, precision: str
) -> Log:
    base, resolution = assignment.bases[0], config.resolution or 0
    text = (
        f"{assignment.method.value} on {base.name!r} with {len(items)} pictures at {resolution} px,"
        f" on {device}, mixed precision {precision}, seed {config.seed}"
    )
    if small := sum(needs_enlarging(item, resolution) for item in items):
        return Log(LogLevel.WARNING, f"{text}; {small} of the pictures are smaller than that and were enlarged")
    return Log(LogLevel.INFO, text)


def _train(run: Run, pictures: TrainingSet) -> Iterator[Report | None]:
    config, plan, trainee = run.config, run.plan, run.trainee
    kept = Kept(run.places.blobs, config.checkpoints.keep)
    checkpoint_due = _every(config.checkpoints.interval_steps, but=plan.total_steps)
    sample_due = _every(config.samples.interval_steps if config.samples.prompts else None, but=plan.total_steps)
    steps = train(
        trainee,
        pictures,
        schedule_of(trainee.components.scheduler_config),
        config,
        plan,
        accelerator=hardware.make_accelerator(run.device, run.precision),
        meter=Meter(plan, memory=hardware.memory_gauge(run.device), overflow_is_skipped=run.precision == "fp16"),
        settle_at=lambda step: checkpoint_due(step) or sample_due(step),
    )
    for progress in steps:
        yield progress
        if progress is not None and checkpoint_due(progress.step):
            files = _store(run, progress.step)
            yield _checkpoint(progress, files)
            kept.add(files)
        if progress is not None and sample_due(progress.step):
            yield from _draw_samples(run, progress.step)
    yield from _draw_samples(run, plan.total_steps)
    yield Loading(LoadingStage.SAVING)
    layout = LAYOUT_LORA if trainee.is_lora else LAYOUT_PIPELINE
    yield Trained(plan.total_steps, layout, _store(run, plan.total_steps))


def _every(interval: int | None, *, but: int) -> Callable[[int], bool]:
    """True for the steps at an interval, except the last, after which all is saved and drawn anyway."""
    return lambda step: interval is not None and step % interval == 0 and step != but


def _checkpoint(progress: Progress, files: tuple[ModelFile, ...]) -> Checkpoint:
    size = sum(file.size_bytes for file in files)
    return Checkpoint(progress.step, size, datetime.now(UTC), progress.smoothed_loss, files)


def _draw_samples(run: Run, step: int) -> Iterator[Report | None]:
    config = run.config
    if not config.samples.prompts:
        return
    run.trainee.set_mode(training=False)
    yield from draw_samples(
        run.trainee.components,
        config.samples,
        run.places.blobs,
        step=step,
        seed=config.seed or 0,
        side=config.resolution or 0,
        autocast=hardware.autocast(run.device, run.precision),
    )
    run.trainee.set_mode(training=True)


def _store(run: Run, step: int) -> tuple[ModelFile, ...]:
    base = run.assignment.bases[0]
    record = training_record(
        run.assignment.method,
        run.config,
        job_id=run.assignment.job_id,
        base_name=base.name,
        base_digest=base.digest or f"{base.hub_repo}@{base.hub_revision}",
        snapshot_digest=run.assignment.snapshot_digest,
        num_images=run.plan.num_images,
        resolution=run.config.resolution or 0,
        step=step,
        epoch=run.plan.epoch_of(step),
    )
    return store_weights(run.trainee, run.places.blobs, run.places.scratch, record)
