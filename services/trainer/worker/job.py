"""One job from its first report to its last: load, hold out, draw the class, cache, train, validate, save."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from services.common.errors import FailedPrecondition
from services.diffusion.objective import Objective
from services.trainer.domain import (
    LAYOUT_LORA,
    LAYOUT_PIPELINE,
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
    Validation,
)
from services.trainer.worker import hardware
from services.trainer.worker.aside import at_hand, idle_parts, set_aside
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.checkpoint import Pace, store_weights
from services.trainer.worker.class_pictures import class_pictures
from services.trainer.worker.clips import draw_clip_samples
from services.trainer.worker.data import Item, needs_enlarging
from services.trainer.worker.loop import train
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee, captions_for, make_trainee, training_record
from services.trainer.worker.plan import Plan, make_plan
from services.trainer.worker.prepare import Places, load_bases, make_training_set, training_size, with_resolution
from services.trainer.worker.record import KEY as RECORD
from services.trainer.worker.record import record_training
from services.trainer.worker.samples import draw_samples
from services.trainer.worker.state import Learner, make_learner, restore, store_state
from services.trainer.worker.validation import Judge, compare, hold_out, validation_loss

Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """A job that is ready for its first step."""

    assignment: Assignment
    config: TrainingConfig  # with the resolution filled in
    trainee: Trainee
    items: Sequence[Item]
    pictures: TrainingSet
    objective: Objective
    plan: Plan
    judge: Judge
    places: Places
    device: str
    precision: str
    pausing: Callable[[], bool]
    clock: Callable[[], float]


def run_job(
    assignment: Assignment,
    items: Sequence[Item],
    places: Places,
    pausing: Callable[[], bool] = lambda: False,
    class_items: Sequence[Item] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Report | None]:
    """Does the job, or what earlier attempts have left of it, and yields what happens; None is a moment at which it can
    be left. The last report is Trained, or Paused soon after `pausing` says so. `class_items` are DreamBooth's class,
    where that is a dataset. Seconds are those of `clock`, which may stand still between two reports, as everything does
    then.

    Leaving the generator stops the job within one pass of the denoiser. Raises the errors of `failures`.
    """
    config, method = assignment.config, assignment.method
    if not items:
        raise FailedPrecondition("the dataset is empty", reason="EMPTY_DATASET")
    device = hardware.choose_device(config.device)
    precision = hardware.choose_precision(config.mixed_precision, device)
    yield Loading(LoadingStage.LOADING_MODEL)
    components = load_bases(assignment.bases, places, device)
    config = with_resolution(config, components)
    yield _describe(assignment, items, config, device, precision)
    num_held_out = 0
    if config.validation.share:
        likeness = yield from _unless(pausing, compare(items, places.blobs))
        if likeness is None:
            yield Paused()
            return
        held = set(hold_out(likeness, config.validation.share, config.seed or 0))
        num_held_out = len(held)
        items = [item for row, item in enumerate(items) if row not in held] + [items[row] for row in sorted(held)]
        yield Log(LogLevel.INFO, f"{num_held_out} of the {len(items)} pictures are held out for validation")
    captions = captions_for(method, config, [item.caption for item in items])
    drawing = class_pictures(
        components,
        method,
        config,
        assignment.bases,
        class_items,
        places.blobs,
        places.class_cache,
        device,
        precision,
    )
    classes = yield from _unless(pausing, drawing)
    if classes is None:
        yield Paused()
        return
    preparing = make_training_set(
        components,
        method,
        config,
        items,
        captions,
        places.blobs,
        device,
        precision,
        num_held_out,
        classes,
        places.scratch,
    )
    pictures = yield from _unless(pausing, preparing)
    if pictures is None:
        yield Paused()
        return
    trainee = make_trainee(components, method, config, frozen=hardware.frozen_dtype(precision))
    set_aside(idle_parts(components, config))
    plan = make_plan(config, pictures.num_images, pictures.buckets)
    count = sum(parameter.numel() for parameter in trainee.parameters)
    yield Log(
        LogLevel.INFO, f"training {count:,} parameters for {plan.total_steps} steps in {plan.total_epochs} epochs"
    )
    objective = trainee.components.family.objective(trainee.components.scheduler_config)
    judge = Judge(config.validation.patience)
    yield from _train(
        Run(
            assignment,
            config,
            trainee,
            items,
            pictures,
            objective,
            plan,
            judge,
            places,
            device,
            precision,
            pausing,
            clock,
        )
    )


def _describe(
    assignment: Assignment, items: Sequence[Item], config: TrainingConfig, device: str, precision: str
) -> Log:
    base, resolution = assignment.bases[0], config.resolution or 0
    text = (
        f"{assignment.method.value} on {base.name!r} with {len(items)} pictures at {resolution} px,"
        f" on {device}, mixed precision {precision}, seed {config.seed}"
    )
    small = sum(needs_enlarging(item, resolution) for item in items)
    if small and not config.aspect_buckets:
        return Log(LogLevel.WARNING, f"{text}; {small} of the pictures are smaller than that and were enlarged")
    return Log(LogLevel.INFO, text)


def _train(run: Run) -> Iterator[Report | None]:
    config, plan, trainee = run.config, run.plan, run.trainee
    accelerator = hardware.make_accelerator(run.device, run.precision)
    learner = make_learner(trainee, config, plan, accelerator)
    since = yield from _restore(run, learner)
    made = [each for each in reversed(run.assignment.checkpoints) if since and each.step <= since.step]
    pace = Pace(config.checkpoints.interval_steps, last_step=plan.total_steps, pausing=run.pausing, clock=run.clock)
    sample_due = _every(
        config.samples.interval_steps if config.samples.prompts or config.samples.clips else None, but=plan.total_steps
    )
    measure_due = _measures(run)
    steps = train(
        trainee,
        learner,
        run.pictures,
        run.objective,
        config,
        plan,
        accelerator=accelerator,
        meter=Meter(
            plan,
            memory=hardware.memory_gauge(run.device),
            overflow_is_skipped=run.precision == "fp16",
            since=since,
            clock=run.clock,
        ),
        settle_at=lambda step: pace.due(step) or sample_due(step) or measure_due(step),
        after=since.step if since else 0,
    )
    last = since.step if since else 0
    for progress in steps if not run.judge.is_exhausted else ():
        yield progress
        if progress is None:
            continue
        last, verdict = progress.step, None
        if measure_due(last):
            with learner.averaged():
                loss = yield from validation_loss(trainee, run.pictures, run.objective, config, accelerator)
            verdict = run.judge.note(last, loss, run.pictures.num_held_out)
            yield verdict
        best = verdict is not None and verdict.is_best and last < plan.total_steps
        if pace.due(last) or best:
            began = time.monotonic()
            checkpoint = _checkpoint(run, learner, progress, verdict)
            yield checkpoint
            made.append(checkpoint)
            pace.saved(time.monotonic() - began)
            if pace.stop_after == last:
                yield Paused()
                return
        if sample_due(last):
            yield from _draw_samples(run, learner, last)
        if run.judge.is_exhausted:
            break
    if last < plan.total_steps:
        yield Log(
            LogLevel.INFO,
            f"training ends after step {last}: {config.validation.patience} measurements since were none better",
        )
    yield from _draw_samples(run, learner, last)
    yield Loading(LoadingStage.SAVING)
    layout = LAYOUT_LORA if trainee.is_lora else LAYOUT_PIPELINE
    if (chosen := _best(run, made)) is not None:
        yield Log(LogLevel.INFO, f"the model is the checkpoint of step {chosen.step}, the best by validation loss")
        yield Trained(chosen.step, layout, chosen.files)
        return
    with learner.averaged():
        files = _store(run, last)
    yield Trained(last, layout, files)


def _every(interval: int | None, *, but: int) -> Callable[[int], bool]:
    """True for the steps at an interval, except the last, after which all is saved and drawn anyway."""
    return lambda step: interval is not None and step % interval == 0 and step != but


def _measures(run: Run) -> Callable[[int], bool]:
    """True for the steps after which the pictures held out are measured, the last among them."""
    if not run.pictures.num_held_out:
        return lambda step: False
    interval = run.config.validation.interval_steps or run.plan.steps_per_epoch
    return lambda step: step % interval == 0 or step == run.plan.total_steps


def _best(run: Run, made: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint that shall be the model, where it is not what training ended with."""
    best = run.judge.best
    if not run.config.validation.use_best or best is None:
        return None
    return next((each for each in made if each.step == best[0] and each.files), None)


def _restore(run: Run, learner: Learner) -> Generator[Report | None, None, Checkpoint | None]:
    """Stands where an earlier attempt was, if it can; says so, and says what was damaged."""
    job_id = run.assignment.job_id
    since, measured, troubles = restore(learner, run.assignment.checkpoints, run.places.blobs, job_id=job_id)
    run.judge.measured.extend(measured)
    for trouble in troubles:
        yield Log(LogLevel.WARNING, trouble)
    if since is not None:
        yield Log(LogLevel.INFO, f"training goes on after step {since.step}, from its checkpoint")
    elif run.assignment.checkpoints:
        yield Log(LogLevel.WARNING, "no checkpoint can be gone on from: training begins anew")
    return since


def _unless(
    pausing: Callable[[], bool], preparing: Generator[Report | None, None, Made]
) -> Generator[Report | None, None, Made | None]:
    """What `preparing` says and returns; None, at the next moment that it can be left, where the job is to pause."""
    while True:
        try:
            report = next(preparing)
        except StopIteration as end:
            made: Made = end.value
            return made
        yield report
        if pausing():
            preparing.close()
            return None


def _checkpoint(run: Run, learner: Learner, progress: Progress, verdict: Validation | None) -> Checkpoint:
    """The weights and the state after a step, in the blob store before anybody hears of them."""
    with learner.averaged():
        files = _store(run, progress.step)
    state = store_state(
        learner,
        run.places.blobs,
        run.places.scratch,
        job_id=run.assignment.job_id,
        step=progress.step,
        measured=run.judge.measured,
    )
    return Checkpoint(
        step=progress.step,
        size_bytes=sum(file.size_bytes for file in files),
        created_at=datetime.now(UTC),
        smoothed_loss=progress.smoothed_loss,
        files=files,
        state=state,
        elapsed_millis=progress.elapsed_millis,
        validation_loss=verdict.loss if verdict else None,
    )


def _draw_samples(run: Run, learner: Learner, step: int) -> Iterator[Report | None]:
    config, components = run.config, run.trainee.components
    if not config.samples.prompts and not config.samples.clips:
        return
    with ExitStack() as stack:
        stack.enter_context(at_hand(idle_parts(components, config), run.trainee.device))
        stack.enter_context(learner.averaged())
        run.trainee.set_mode(training=False)
        blobs, autocast = run.places.blobs, hardware.autocast(run.device, run.precision)
        if components.family.draws_clips:
            items = run.items[: config.samples.clips]
            sizes = [training_size(item, config, components) for item in items]
            yield from draw_clip_samples(components, config, items, sizes, blobs, step=step, autocast=autocast)
        else:
            seed, side = config.seed or 0, config.resolution or 0
            yield from draw_samples(
                components, config.samples, blobs, step=step, seed=seed, side=side, autocast=autocast
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
        family=run.trainee.components.family,
        snapshot_digest=run.assignment.snapshot_digest,
        num_images=run.pictures.num_images,
        resolution=run.config.resolution or 0,
        step=step,
        epoch=run.plan.epoch_of(step),
    )
    record[RECORD] = record_training(
        run.assignment,
        run.config,
        device=run.device,
        precision=run.precision,
        num_images=run.pictures.num_images,
        step=step,
    )
    return store_weights(run.trainee, run.places.blobs, run.places.scratch, record)
