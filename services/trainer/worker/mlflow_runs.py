"""A job as a run of MLflow: its configuration, metrics, samples and how it ended, beside what the Trainer stores.

A thread of its own sends them, a batch at a time: a tracking server that is slow or away costs training nothing.
"""

import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.common.blobs import BlobStore
from services.trainer.domain import (
    Cancelled,
    Failure,
    Log,
    LogLevel,
    Paused,
    Progress,
    Report,
    Sample,
    Trained,
    Validation,
)
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.record import config_as_plain, versions
from services.trainer.worker.tracking import scalars

MOST_WAITING = 2000
"""Reports that wait to be sent; what comes while so many do is left out."""
MOST_AT_ONCE = 100
CLOSING_SECONDS = 10.0
"""How long the end of a job waits for what is still to be sent."""
LONGEST_VALUE = 500
STATUSES: dict[type[Report], str] = {
    Trained: "FINISHED",
    Failure: "FAILED",
    Cancelled: "KILLED",
    Paused: "SCHEDULED",  # it goes on another time
}
# Of MLflow's client: minutes of retries are too long, and what people train is nobody's business.
QUIET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowRun:
    """The run of one job at the tracking server `uri`; an attempt that goes on finds it again by the job's id."""

    def __init__(self, uri: str, assignment: Assignment, blobs: BlobStore) -> None:
        self._uri = uri
        self._assignment = assignment
        self._blobs = blobs
        self._waiting: queue.Queue[Progress | Validation | Sample] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._status = ""
        self._trouble: Log | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def note(self, report: Report) -> Log | None:
        """Takes in one report, at once. Gives what the job's log shall say, once, where it cannot be sent."""
        if isinstance(report, Progress | Validation | Sample) and self._thread.is_alive():
            with suppress(queue.Full):  # training is not held up
                self._waiting.put_nowait(report)
        self._status = STATUSES.get(type(report), self._status)
        return self._told()

    def close(self) -> Log | None:
        """Ends the run as the last report had it, once all is sent, or leaves it after some seconds. As `note`."""
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            return _trouble(f"{self._uri} does not answer")
        return self._told()

    def _told(self) -> Log | None:
        trouble, self._trouble = self._trouble, None
        return trouble

    def _work(self) -> None:
        try:
            client, run_id = self._open()
            for reports in self._batches():
                self._send(client, run_id, reports)
            if self._status == STATUSES[Paused]:
                client.update_run(run_id, self._status)
            elif self._status:
                client.set_terminated(run_id, self._status)
        except ImportError:
            self._trouble = _trouble("the tracking URI is set and mlflow-skinny is not there: install atelier[mlflow]")
        except Exception as error:  # a server that is away, refuses or is full
            self._trouble = _trouble(str(error).strip().partition("\n")[0])

    def _open(self) -> tuple[Any, str]:
        """A client, and the job's run, which is made where there is none."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        client, told = MlflowClient(tracking_uri=self._uri), self._assignment
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "atelier")
        if (experiment := client.get_experiment_by_name(name)) is None:
            try:
                experiment = client.get_experiment(client.create_experiment(name))
            except MlflowException:  # another worker was faster
                experiment = client.get_experiment_by_name(name)
            assert experiment is not None, "it is there now"
        where = f"tags.`atelier.job_id` = '{told.job_id}'"
        for run in client.search_runs([experiment.experiment_id], where, max_results=1):
            client.update_run(run.info.run_id, "RUNNING")
            return client, run.info.run_id
        run = client.create_run(
            experiment.experiment_id, run_name=f"{told.method.value}-{told.job_id[:8]}", tags=tags_of(told)
        )
        params = [Param(key, value[:LONGEST_VALUE]) for key, value in flat(config_as_plain(told.config))]
        client.log_batch(run.info.run_id, params=params)
        return client, run.info.run_id

    def _batches(self) -> Iterator[list[Progress | Validation | Sample]]:
        while not (self._closing.is_set() and self._waiting.empty()):
            try:
                reports = [self._waiting.get(timeout=0.2)]
            except queue.Empty:
                continue
            while len(reports) < MOST_AT_ONCE and not self._waiting.empty():
                reports.append(self._waiting.get_nowait())
            yield reports

    def _send(self, client: Any, run_id: str, reports: list[Progress | Validation | Sample]) -> None:
        from mlflow.entities import Metric

        now, metrics = int(time.time() * 1000), []
        for report in reports:
            match report:
                case Progress():
                    metrics += [Metric(name, value, now, report.step) for name, value in scalars(report).items()]
                case Validation():
                    metrics.append(Metric("loss/validation", report.loss, now, report.step))
                case Sample():
                    self._send_sample(client, run_id, report)
        if metrics:
            client.log_batch(run_id, metrics=metrics)

    def _send_sample(self, client: Any, run_id: str, sample: Sample) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{sample.step:06}-{sample.index}.png"
            file.write_bytes(self._blobs.get(sample.sha256))
            client.log_artifact(run_id, str(file), "samples")


def tags_of(assignment: Assignment) -> dict[str, str]:
    base = assignment.bases[0]
    return {
        "atelier.job_id": assignment.job_id,
        "atelier.method": assignment.method.value,
        "atelier.snapshot_digest": assignment.snapshot_digest,
        "atelier.base": base.name,
        "atelier.base_digest": base.digest or f"{base.hub_repo}@{base.hub_revision}",
        **{f"atelier.version.{name}": version for name, version in versions().items()},
    }


def flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (`lora.rank`, `4`) pairs."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)


def _trouble(message: str) -> Log:
    return Log(LogLevel.WARNING, f"no MLflow from here on: {message}")
