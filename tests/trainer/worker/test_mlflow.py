"""Runs in a real tracking store of MLflow, in SQLite, read back by MLflow's own client."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from services.common.blobs import BlobStore
from services.trainer.domain import (
    Cancelled,
    Failure,
    LoraConfig,
    Method,
    Paused,
    Report,
    Sample,
    Trained,
    TrainingConfig,
    Validation,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.mlflow_runs import MlflowRun
from tests.trainer.house import free_port
from tests.trainer.made import progress

ASSIGNMENT = Assignment(
    "0f0e0d0c-1111-2222-3333-444455556666",
    Method.LORA,
    TrainingConfig(seed=7, resolution=64, lora=LoraConfig(rank=8, alpha=8.0)),
    "ab" * 32,
    (BaseModel(7, "tiny", "stable_diffusion", "cd" * 32),),
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/runs.sqlite"
    MlflowClient(tracking_uri=uri).create_experiment("atelier", artifact_location=(folder / "artifacts").as_uri())
    return uri


def runs_of(uri: str, job_id: str) -> list[Run]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("atelier")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`atelier.job_id` = '{job_id}'"))


def follow(uri: str, blobs: BlobStore, *reports: Report, job: str = ASSIGNMENT.job_id) -> list[str]:
    """An attempt of the job; what its log would say."""
    run = MlflowRun(uri, replace(ASSIGNMENT, job_id=job), blobs)
    said = [run.note(report) for report in reports] + [run.close()]
    return [log.message for log in said if log is not None]


def test_a_job_is_one_run_however_many_attempts_it_takes(uri: str, blobs: BlobStore, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(picture, "PNG")
    sample = Sample(1, 0, "a cat", blobs.put(picture.getvalue()), 8, 4)
    assert follow(uri, blobs, progress(1, loss=0.5), sample, Paused()) == []
    (paused,) = runs_of(uri, ASSIGNMENT.job_id)
    assert paused.info.status == "SCHEDULED"
    assert follow(uri, blobs, progress(2, loss=0.25), Validation(2, 0.75, 4, True), Trained(2, 2, ())) == []
    (run,) = runs_of(uri, ASSIGNMENT.job_id)
    assert (run.info.run_id, run.info.status) == (paused.info.run_id, "FINISHED")
    assert run.info.run_name == "lora-0f0e0d0c"
    assert (run.data.params["lora.rank"], run.data.params["weight_decay"]) == ("8", "0.01"), "defaults too"
    assert run.data.tags["atelier.snapshot_digest"] == "ab" * 32
    assert run.data.tags["atelier.base_digest"] == "cd" * 32
    assert run.data.tags["atelier.version.torch"]
    assert run.data.metrics["loss/validation"] == 0.75
    client = MlflowClient(tracking_uri=uri)
    curve = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss/train")]
    assert curve == [(1, 0.5), (2, 0.25)]
    (kept,) = client.list_artifacts(run.info.run_id, "samples")
    file = client.download_artifacts(run.info.run_id, kept.path, str(tmp_path))
    assert Image.open(file).size == (8, 4)


@pytest.mark.parametrize(
    ("last", "status"), [((Failure("INTERNAL", "x"),), "FAILED"), ((Cancelled(),), "KILLED"), ((), "RUNNING")]
)
def test_a_run_ends_as_its_job_does(uri: str, blobs: BlobStore, last: tuple[Report, ...], status: str) -> None:
    job = f"job-{status}"
    assert follow(uri, blobs, progress(1), *last, job=job) == []
    (run,) = runs_of(uri, job)
    assert run.info.status == status


def test_many_steps_are_sent_together_and_none_is_lost(uri: str, blobs: BlobStore) -> None:
    began = time.monotonic()
    run = MlflowRun(uri, replace(ASSIGNMENT, job_id="long"), blobs)
    for step in range(1, 1001):
        run.note(progress(step))
    noted = time.monotonic() - began
    run.note(Trained(1000, 2, ()))
    assert run.close() is None
    assert noted < 1, "training does not wait for it"
    (found,) = runs_of(uri, "long")
    history = MlflowClient(tracking_uri=uri).get_metric_history(found.info.run_id, "loss/train")
    assert [each.step for each in history] == list(range(1, 1001))


def test_a_server_that_is_away_is_said_once_and_fails_nothing(blobs: BlobStore) -> None:
    reports = [progress(step) for step in range(1, 50)]
    said = follow(f"http://127.0.0.1:{free_port()}", blobs, *reports, Trained(50, 2, ()))
    assert len(said) == 1
    assert said[0].startswith("no MLflow from here on: ")
