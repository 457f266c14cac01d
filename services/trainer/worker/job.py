"""One job from its first report to its last: load, draw the class, cache, train, save."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
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
    Paused,
    Progress,
    Report,
    Trained,
    TrainingConfig,
)
from services.trainer.worker import hardware
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.checkpoint import Kept, Pace, store_weights
from services.trainer.worker.data import Item, needs_enlarging
from services.trainer.worker.loop import train
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee, captions_for, make_trainee, training_record
from services.trainer.worker.objective import schedule_of
from services.trainer.worker.plan import Plan, make_plan
from services.trainer.worker.prepare import Places, load_bases, make_training_set, with_resolution
from services.trainer.worker.samples import draw_samples
from services.trainer.worker.state import Learner, make_learner, restore, store_state

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
    pausing: Callable[[], bool]


def run_job(
    assignment: Assignment,
    items: Sequence[Item],
    places: Places,
    pausing: Callable[[], bool] = lambda: False,
) -> Iterator[Report | None]:
    """Does the job, or what earlier attempts have left of it, and yields what happens; None is a moment at which it can
    be left. The last report is Trained, or Paused soon after `pausing` says so.

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
    preparing = make_training_set(components, method, config, items, captions, places.blobs, device, precision)
    pictures = yield from _unless(pausing, preparing)
    if pictures is None:
        yield Paused()
        return
    trainee = make_trainee(components, method, config, frozen=hardware.frozen_dtype(precision))
    plan = make_plan(config, len(items))
    count = sum(parameter.numel() for parameter in trainee.parameters)
    yield Log(
        LogLevel.INFO, f"training {count:,} parameters for {plan.total_steps} steps in {plan.total_epochs} epochs"
    )
    yield from _train(Run(assignment, config, trainee, plan, places, device, precision, pausing), pictures)


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
    accelerator = hardware.make_accelerator(run.device, run.precision)
    learner = make_learner(trainee, config, plan, accelerator)
    since = yield from _restore(run, learner)
    earlier = [each for each in reversed(run.assignment.checkpoints) if since and each.step <= since.step]
    kept = Kept(run.places.blobs, config.checkpoints.keep, earlier)
    pace = Pace(config.checkpoints.interval_steps, last_step=plan.total_steps, pausing=run.pausing)
    sample_due = _every(config.samples.interval_steps if config.samples.prompts else None, but=plan.total_steps)
    steps = train(
        trainee,
        learner,
        pictures,
        schedule_of(trainee.components.scheduler_config),
        config,
        plan,
        accelerator=accelerator,
        meter=Meter(
            plan,
            memory=hardware.memory_gauge(run.device),
            overflow_is_skipped=run.precision == "fp16",
            since=since,
        ),
        settle_at=lambda step: pace.due(step) or sample_due(step),
        after=since.step if since else 0,
    )
    for progress in steps:
        yield progress
        if progress is not None and pace.due(progress.step):
            began = time.monotonic()
            checkpoint = _checkpoint(run, learner, progress)
            yield checkpoint
            kept.add(checkpoint)
            pace.saved(time.monotonic() - began)
            if pace.stop_after == progress.step:
                yield Paused()
                return
        if progress is not None and sample_due(progress.step):
            yield from _draw_samples(run, progress.step)
    yield from _draw_samples(run, plan.total_steps)
    yield Loading(LoadingStage.SAVING)
    layout = LAYOUT_LORA if trainee.is_lora else LAYOUT_PIPELINE
    yield Trained(plan.total_steps, layout, _store(run, plan.total_steps))


def _every(interval: int | None, *, but: int) -> Callable[[int], bool]:
    """True for the steps at an interval, except the last, after which all is saved and drawn anyway."""
    return lambda step: interval is not None and step % interval == 0 and step != but


def _restore(run: Run, learner: Learner) -> Generator[Report | None, None, Checkpoint | None]:
    """Stands where an earlier attempt was, if it can; says so, and says what was damaged."""
    job_id = run.assignment.job_id
    since, troubles = restore(learner, run.assignment.checkpoints, run.places.blobs, job_id=job_id)
    for trouble in troubles:
        yield Log(LogLevel.WARNING, trouble)
    if since is not None:
        yield Log(LogLevel.INFO, f"training goes on after step {since.step}, from its checkpoint")
    elif run.assignment.checkpoints:
        yield Log(LogLevel.WARNING, "no checkpoint can be gone on from: training begins anew")
    return since


def _unless(
    pausing: Callable[[], bool], preparing: Generator[Report | None, None, TrainingSet]
) -> Generator[Report | None, None, TrainingSet | None]:
    """What `preparing` says and returns; None, at the next moment that it can be left, where the job is to pause."""
    while True:
        try:
            report = next(preparing)
        except StopIteration as end:
            made: TrainingSet = end.value
            return made
        yield report
        if pausing():
            preparing.close()
            return None


def _checkpoint(run: Run, learner: Learner, progress: Progress) -> Checkpoint:
    """The weights and the state after a step, in the blob store before anybody hears of them."""
    files = _store(run, progress.step)
    job_id = run.assignment.job_id
    state = store_state(learner, run.places.blobs, run.places.scratch, job_id=job_id, step=progress.step)
    return Checkpoint(
        step=progress.step,
        size_bytes=sum(file.size_bytes for file in files),
        created_at=datetime.now(UTC),
        smoothed_loss=progress.smoothed_loss,
        files=files,
        state=state,
        elapsed_millis=progress.elapsed_millis,
    )


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
