"""`atelier jobs ...`"""

from pathlib import Path
from typing import Annotated

import typer
from atelier.trainer.v1.training_pb2 import JobStatus, LogLevel, TrainingJob, TrainingMethod

from atelier_client.cli.session import JsonOption, out, print_fields, print_json, print_table, session_of, time_text
from atelier_client.cli.watching import figures, watch_or_leave
from atelier_client.plain import flatten, short_name, to_plain

app = typer.Typer(no_args_is_help=True, help="Training jobs: list, start, watch, pause, resume, retry, promote.")
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]


@app.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str, typer.Option(help="pending, queued, running, paused, completed, failed or cancelled.")] = "",
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Leave ended jobs out.")] = False,
    json: JsonOption = False,
) -> None:
    """All jobs, newest first."""
    with session_of(context).client() as client:
        jobs = client.training.list(status=status, unfinished=unfinished)
    if json:
        print_json(jobs)
        return
    rows = (
        (
            each.id,
            _status(each),
            _method(each),
            each.dataset_id,
            each.base_model_id,
            _percent(each),
            each.model_id or "",
        )
        for each in jobs
    )
    print_table(["ID", "STATUS", "METHOD", "DATASET", "BASE", "DONE", "MODEL"], rows, empty="No jobs: atelier train")


@app.command()
def show(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """One job with its whole configuration."""
    with session_of(context).client() as client:
        found = client.training.get(job)
    if json:
        print_json(found)
        return
    progress = found.progress
    failure = f"{found.failure.message} ({found.failure.reason})" if found.HasField("failure") else ""
    running = found.status == JobStatus.JOB_STATUS_RUNNING and found.HasField("progress")
    print_fields(
        [
            ("id", found.id),
            ("status", _status(found)),
            ("queue place", found.queue_position or ""),
            ("priority", found.priority or ""),
            ("progress", f"step {progress.step}/{progress.total_steps}, {figures(progress)}" if running else ""),
            ("failure", failure),
            ("model", found.model_id or ""),
            ("method", _method(found)),
            ("dataset", found.dataset_id),
            ("base model", found.base_model_id),
            ("output name", found.output_name),
            ("images", found.num_items),
            ("snapshot", found.snapshot_digest),
            ("created", time_text(found.created_at)),
            ("started", time_text(found.started_at)),
            ("finished", time_text(found.finished_at)),
            *flatten(to_plain(found.config), "config"),
        ]
    )


@app.command()
def start(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """Queue a pending job."""
    with session_of(context).client() as client:
        found = client.training.start(job)
    _answer(found, json, f"is {_status(found)}")


@app.command()
def watch(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """Show a job until it ends. With --json, one event a line."""
    with session_of(context).client() as client:
        watch_or_leave(client, job, as_json=json)


@app.command()
def cancel(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """End a job within one step."""
    with session_of(context).client() as client:
        found = client.training.cancel(job)
    ended = found.status == JobStatus.JOB_STATUS_CANCELLED
    _answer(found, json, "is cancelled" if ended else "will end within one step")


@app.command()
def pause(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """Have a job stop behind a checkpoint; it keeps nobody waiting until it is resumed."""
    with session_of(context).client() as client:
        found = client.training.pause(job)
    paused = found.status == JobStatus.JOB_STATUS_PAUSED
    _answer(found, json, "is paused" if paused else "will pause at its next step")


@app.command()
def resume(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """Go on with a paused job as if it had never stopped."""
    with session_of(context).client() as client:
        found = client.training.resume(job)
    _answer(found, json, f"is {_status(found)}")


@app.command()
def retry(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """Try a failed or cancelled job again, from its last checkpoint."""
    with session_of(context).client() as client:
        found = client.training.retry(job)
    _answer(found, json, f"is {_status(found)}")


@app.command()
def prioritize(
    context: typer.Context,
    job: JobArgument,
    priority: Annotated[int, typer.Argument(min=-1000, max=1000, help="Higher comes first; jobs begin with 0.")],
    json: JsonOption = False,
) -> None:
    """Change a job's place in the queue."""
    with session_of(context).client() as client:
        found = client.training.prioritize(job, priority)
    _answer(found, json, f"has place {found.queue_position}" if found.queue_position else f"is {_status(found)}")


@app.command()
def checkpoints(context: typer.Context, job: JobArgument, json: JsonOption = False) -> None:
    """The checkpoints that are kept: the latest, the best, and those that are models."""
    with session_of(context).client() as client:
        found = client.training.checkpoints(job)
    if json:
        print_json(list(found))
        return
    rows = (
        (
            each.step,
            f"{each.smoothed_loss:.4f}",
            f"{each.validation_loss:.4f}{'  best' if each.is_best else ''}" if each.HasField("validation_loss") else "",
            time_text(each.created_at),
            each.model_id or "",
        )
        for each in found
    )
    print_table(["STEP", "LOSS", "VALIDATION", "CREATED", "MODEL"], rows, empty="No checkpoint is kept.")


@app.command()
def sheet(
    context: typer.Context,
    job: JobArgument,
    out_path: Annotated[Path, typer.Option("--out", "-o", help="A PNG file.")] = Path("sheet.png"),
) -> None:
    """Write all samples of a job onto one picture: a row for each step, a column for each prompt."""
    with session_of(context).client() as client:
        out_path.write_bytes(client.training.sheet(job))
    out.print(str(out_path), markup=False)


@app.command()
def promote(
    context: typer.Context,
    job: JobArgument,
    step: Annotated[int, typer.Argument(min=1, help="The checkpoint's step.")],
    name: Annotated[str, typer.Option(help="Default: the job's name and the step.")] = "",
    json: JsonOption = False,
) -> None:
    """Register a checkpoint as a model of its own."""
    with session_of(context).client() as client:
        model = client.models.get(client.training.promote(job, step, name=name))
    if json:
        print_json(model)
    else:
        out.print(f"Model {model.id} {model.name!r} is the checkpoint of step {step}.", markup=False)


@app.command()
def logs(
    context: typer.Context,
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    json: JsonOption = False,
) -> None:
    """The worker's log lines."""
    with session_of(context).client() as client:
        lines = client.training.logs(job, follow=follow)
        if json and not follow:
            print_json(list(lines))
            return
        for event in lines:
            if json:
                import json as json_module

                typer.echo(json_module.dumps(to_plain(event), ensure_ascii=False))
            else:
                level = short_name(LogLevel.DESCRIPTOR, event.log.level).upper()
                typer.echo(f"{event.created_at.ToJsonString()} {level:7} {event.log.message}")


def _answer(job: TrainingJob, json: bool, what: str) -> None:
    if json:
        print_json(job)
    else:
        out.print(f"Job {job.id} {what}.", markup=False)


def _status(job: TrainingJob) -> str:
    return short_name(JobStatus.DESCRIPTOR, job.status)


def _method(job: TrainingJob) -> str:
    return short_name(TrainingMethod.DESCRIPTOR, job.method)


def _percent(job: TrainingJob) -> str:
    if not job.progress.total_steps:
        return ""
    return f"{100 * job.progress.step // job.progress.total_steps} %"
