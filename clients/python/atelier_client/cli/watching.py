"""A training job on the terminal: a live bar where there is one, plain lines where there is none."""

import json
import time
from collections.abc import Callable
from datetime import timedelta

import typer
from atelier.trainer.v1.training_pb2 import (
    JobStatus,
    LoadingStage,
    LogLevel,
    StepProgress,
    TrainingEvent,
    TrainingJob,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.progress import TaskID as Task

from atelier_client.cli.session import err, out
from atelier_client.client import Atelier
from atelier_client.errors import NotFound
from atelier_client.plain import short_name, to_plain

LINE_SECONDS = 5.0  # between progress lines where no bar can be drawn
_STAGES = {
    LoadingStage.LOADING_STAGE_STARTING_WORKER: "starting the worker",
    LoadingStage.LOADING_STAGE_LOADING_MODEL: "loading the base model",
    LoadingStage.LOADING_STAGE_CACHING_LATENTS: "caching latents and captions",
    LoadingStage.LOADING_STAGE_DRAWING_CLASS_IMAGES: "drawing class pictures",
    LoadingStage.LOADING_STAGE_COMPARING_IMAGES: "looking for near-duplicates",
    LoadingStage.LOADING_STAGE_SAVING: "saving",
    LoadingStage.LOADING_STAGE_REGISTERING: "registering the model",
}


def watch_or_leave(client: Atelier, job_id: str, *, as_json: bool) -> None:
    """Shows the job until it ends; exits with 1 when it failed or was cancelled.

    Ctrl-C leaves the job running, says how to come back, and exits with 130.
    """
    try:
        if as_json:
            for event in client.training.watch(job_id):
                typer.echo(json.dumps(to_plain(event), ensure_ascii=False))
            job = client.training.get(job_id)
        else:
            job = watch_job(client, job_id, err)
            print_end(client, job)
    except KeyboardInterrupt:
        err.print(
            f"\nThe job goes on. Watch it: atelier jobs watch {job_id}    Cancel it: atelier jobs cancel {job_id}",
            markup=False,
        )
        raise typer.Exit(130) from None
    if job.status != JobStatus.JOB_STATUS_COMPLETED:
        raise typer.Exit(1)


def watch_job(
    client: Atelier, job_id: str, console: Console, on_event: Callable[[TrainingEvent], None] | None = None
) -> TrainingJob:
    """Draws the job's progress on `console` until it ends, and gives the ended job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    last_line = 0.0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("waiting", total=None, figures="")
        for event in client.training.watch(job_id):
            if on_event is not None:
                on_event(event)
            _show_event(bar, task, event)
            kind = event.WhichOneof("event")
            if not console.is_terminal and (kind != "step" or time.monotonic() - last_line > LINE_SECONDS):
                last_line = time.monotonic()
                console.print(describe(event), markup=False)
    return client.training.get(job_id)


def _show_event(bar: Progress, task: Task, event: TrainingEvent) -> None:
    kind = event.WhichOneof("event")
    if kind == "step":
        step = event.step
        bar.update(
            task,
            description=f"epoch {step.epoch}/{step.total_epochs}",
            completed=step.step,
            total=step.total_steps,
            figures=figures(step),
        )
    elif kind == "log":
        if event.log.level >= LogLevel.LOG_LEVEL_WARNING and bar.console.is_terminal:
            bar.console.print(describe(event), markup=False)
    elif kind in ("queued", "loading", "paused", "lent"):
        bar.update(task, description=describe(event))
    elif kind in ("done", "failed", "cancelled"):
        bar.update(task, description=str(kind))


def figures(step: StepProgress) -> str:
    """loss 0.1234  12.3 images/s  0:01:20 left  lent for 8.5 s so far"""
    left = timedelta(seconds=round(step.remaining_millis / 1000))
    lent = f"  lent for {step.lent_millis / 1000:.1f} s so far" if step.lent_millis else ""
    return f"loss {step.smoothed_loss:.4f}  {step.images_per_second:.1f} images/s  {left} left{lent}"


def describe(event: TrainingEvent) -> str:
    """One line that says what happened."""
    kind = event.WhichOneof("event")
    if kind == "queued":
        return f"queued, place {event.queued.position}" if event.queued.position else "queued"
    if kind == "loading":
        stage = _STAGES.get(event.loading.stage, short_name(LoadingStage.DESCRIPTOR, event.loading.stage))
        return f"{stage} ({event.loading.done}/{event.loading.total})" if event.loading.total else stage
    if kind == "step":
        step = event.step
        return f"step {step.step}/{step.total_steps}  epoch {step.epoch}/{step.total_epochs}  {figures(step)}"
    if kind == "validation":
        best = ", the best so far" if event.validation.is_best else ""
        return f"validation loss {event.validation.loss:.4f} at step {event.validation.step}{best}"
    if kind == "sample":
        return f"sample of step {event.sample.step}: {event.sample.prompt!r}"
    if kind == "checkpoint":
        return f"checkpoint at step {event.checkpoint.step}"
    if kind == "log":
        return f"{short_name(LogLevel.DESCRIPTOR, event.log.level)}: {event.log.message}"
    if kind == "lent":
        if event.lent.HasField("lent_millis"):
            return f"the generator has given the device back after {event.lent.lent_millis / 1000:.1f} s"
        return "the device is lent to the generator" + (", training is out of its memory" * event.lent.made_room)
    if kind == "done":
        return f"done: model {event.done.model_id} {event.done.model_name!r}"
    if kind == "failed":
        return f"failed: {event.failed.message} ({event.failed.reason})"
    if kind == "paused":
        return "paused, until it is resumed"
    return str(kind)


def print_end(client: Atelier, job: TrainingJob) -> None:
    """What came of an ended job, and what to do next."""
    if job.status == JobStatus.JOB_STATUS_COMPLETED:
        try:
            name = client.models.get(job.model_id).name
        except NotFound:
            name = "deleted since"
        out.print(f"Model {job.model_id} {name!r} is registered.", markup=False)
        out.print(f'Draw with it: atelier generate "a prompt" --model {job.model_id}', markup=False)
    elif job.status == JobStatus.JOB_STATUS_FAILED:
        err.print("error:", style="bold red", end=" ")
        err.print(f"the job failed: {job.failure.message} ({job.failure.reason})", markup=False)
        err.print(f"Its log: atelier jobs logs {job.id}    Once more: atelier jobs retry {job.id}", markup=False)
    else:
        err.print(f"The job is {short_name(JobStatus.DESCRIPTOR, job.status)}.", markup=False)
