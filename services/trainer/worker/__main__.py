"""`python -m services.trainer.worker`: does one training job and ends. 0: done or told to stop; 1: failed; 3: not
wanted.

torch and its kin take seconds to import, so the Trainer is told first that the worker lives.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from services.common.blobs import open_blobs
from services.common.telemetry import configure_logging, get_logger
from services.diffusion.device import without_bitsandbytes
from services.trainer.domain import LAST_WORDS, Cancelled, Loading, LoadingStage, Log, LogLevel, Optimizer, Report
from services.trainer.worker.assignment import Assignment, assignment_from_proto
from services.trainer.worker.attach import Detached, TrainerLink, TrainerLost
from services.trainer.worker.config import WorkerSettings
from services.trainer.worker.failures import failure_of
from services.trainer.worker.lending import TrainingClock, lending
from services.trainer.worker.mlflow_runs import MlflowRun
from services.trainer.worker.tracking import Tracker

DONE, FAILED, NOT_WANTED = 0, 1, 3


def main(
    on_link: Callable[[TrainerLink], object] = lambda link: None,
    on_assignment: Callable[[Assignment], object] = lambda assignment: None,
) -> int:
    """`on_link` sees the link before it is used, `on_assignment` what is to be done before torch is imported."""
    configure_logging()
    log = get_logger("trainer-worker")
    settings = WorkerSettings()
    link = TrainerLink(
        settings.trainer_address,
        job_id=settings.job_id,
        token=settings.token,
        patience_seconds=settings.patience_seconds,
    )
    on_link(link)
    try:
        code = work(link, settings, on_assignment)
        link.close()
    except (Detached, TrainerLost) as error:
        log.warning("leaving", reason=error.reason, message=error.message)
        return NOT_WANTED
    return code


def work(
    link: TrainerLink,
    settings: WorkerSettings,
    on_assignment: Callable[[Assignment], object] = lambda assignment: None,
) -> int:
    """Attaches, does the job and reports it, failures included. Raises Detached and TrainerLost alone."""
    assigned = link.attach()
    try:
        link.report(Loading(LoadingStage.STARTING_WORKER))
        assignment = assignment_from_proto(assigned)
        on_assignment(assignment)
        reports = _reports(assignment, settings, link)
        told_to_stop = _follow(link, reports, _trackers(assignment, settings))
    except (Detached, TrainerLost):
        raise
    except BaseException as error:
        for line in traceback.format_exception(error):
            link.report(Log(LogLevel.ERROR, line.rstrip()))
        link.report(failure_of(error))
        return FAILED
    if told_to_stop:
        link.report(Cancelled())
    return DONE


def _trackers(assignment: Assignment, settings: WorkerSettings) -> list[Tracker | MlflowRun]:
    blobs = open_blobs(settings.blob_url)
    trackers: list[Tracker | MlflowRun] = []
    if settings.tensorboard_dir:
        trackers.append(Tracker(settings.tensorboard_dir, blobs))
    if settings.mlflow_uri:
        trackers.append(MlflowRun(settings.mlflow_uri, assignment, blobs))
    return trackers


def _follow(link: TrainerLink, reports: Iterator[Report | None], trackers: Sequence[Tracker | MlflowRun]) -> bool:
    """Hands reports over until the last, or until the Trainer says stop: True then. What trackers have to say of
    themselves comes before the last word."""

    def note(report: Report) -> None:
        said = [tracker.note(report) for tracker in trackers]
        if isinstance(report, LAST_WORDS):
            said += [tracker.close() for tracker in trackers]
        for trouble in filter(None, said):
            link.report(trouble)

    try:
        for report in reports:
            if link.cancelled:
                note(Cancelled())
                return True
            if report is not None:
                note(report)
                link.report(report)
        return False
    except (Detached, TrainerLost):
        for tracker in trackers:
            tracker.close()
        raise
    except BaseException as error:
        note(failure_of(error))
        raise


def _reports(assignment: Assignment, settings: WorkerSettings, link: TrainerLink) -> Iterator[Report | None]:
    from services.trainer.worker.hardware import choose_device
    from services.trainer.worker.job import run_job
    from services.trainer.worker.manifest import read_manifest
    from services.trainer.worker.prepare import Places
    from services.trainer.worker.room import room_made, wait_for_device

    cache = settings.cache_dir or settings.dir / "cache"
    places = Places(
        blobs=open_blobs(settings.blob_url),
        scratch=settings.dir,
        models=cache / "stored",
        hub_cache=cache / "hub",
        weights_dir=settings.weights_dir,
    )
    items = read_manifest(settings.catalog_address, assignment.snapshot_digest)
    class_digest = assignment.class_snapshot_digest
    class_items = read_manifest(settings.catalog_address, class_digest) if class_digest else ()
    clock = TrainingClock(assignment.lent_millis)
    reports = run_job(assignment, items, places, lambda: link.pausing, class_items, clock)
    if assignment.config.share_device:
        device = choose_device(assignment.config.device)
        room = partial(room_made, device, settings.dir / "aside") if device == "cuda" else None
        reports = lending(reports, link, clock, settle=partial(wait_for_device, device), room=room)
    yield from reports


def _lighten(assignment: Assignment) -> None:
    if assignment.config.optimizer is not Optimizer.ADAMW_8BIT:
        without_bitsandbytes()


if __name__ == "__main__":
    # What is fetched is fetched on purpose; loading a folder asks nobody.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Stopped from outside, it leaves a checkpoint behind, as when it is paused.
    sys.exit(main(lambda link: signal.signal(signal.SIGTERM, lambda *_: link.pause()), _lighten))
