"""Several jobs at once, each on a GPU of its own. The workers are not real ones, and say which GPU they were given."""

import pytest
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr

from services.trainer.config import TrainerSettings
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, script, trainer


async def given_to(client: Client, job_id: str) -> str:
    """What the job's last worker found in CUDA_VISIBLE_DEVICES."""
    stream = client.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id))
    lines = [answer.event.log.message async for answer in stream]
    return next(line.partition("=")[2] for line in reversed(lines) if line.startswith("CUDA_VISIBLE_DEVICES="))


async def started_together(client: Client, count: int) -> list[tr.TrainingJob]:
    jobs = [await client.create() for _ in range(count)]
    return [await client.ended(job.id) for job in jobs]


async def test_as_many_jobs_run_at_once_as_there_are_gpus_each_on_its_own(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=3, step_seconds=0.5, shows=["CUDA_VISIBLE_DEVICES"])
    own = given.model_copy(update={"gpus": ("GPU-a", "GPU-b"), "max_running_jobs": None})
    async with trainer(own, catalog.known) as client:
        able = await client.stub.GetTrainerCapabilities(pb.GetTrainerCapabilitiesRequest())
        assert able.max_running_jobs == 2
        jobs = await started_together(client, 3)
        assert [job.status for job in jobs] == [tr.JOB_STATUS_COMPLETED] * 3
        first, second, _ = [await given_to(client, job.id) for job in jobs]
        assert {first, second} == {"GPU-a", "GPU-b"}
        begun = sorted(job.started_at.ToNanoseconds() for job in jobs)
        done = sorted(job.finished_at.ToNanoseconds() for job in jobs)
        assert begun[1] < done[0], "two at once"
        assert begun[2] > done[0], "the third waits for a GPU"
        last = next(job for job in jobs if job.started_at.ToNanoseconds() == begun[2])
        freed = [job for job in jobs if job.finished_at.ToNanoseconds() < begun[2]]
        assert await given_to(client, last.id) in [await given_to(client, job.id) for job in freed]


async def test_more_workers_than_gpus_share_them_evenly(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=3, step_seconds=0.5, shows=["CUDA_VISIBLE_DEVICES"])
    own = given.model_copy(update={"gpus": ("0", "1"), "max_running_jobs": 4})
    async with trainer(own, catalog.known) as client:
        jobs = await started_together(client, 4)
        assert sorted([await given_to(client, job.id) for job in jobs]) == ["0", "0", "1", "1"]


async def test_without_a_gpu_one_job_runs_and_is_told_of_none(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script(monkeypatch, steps=2, shows=["CUDA_VISIBLE_DEVICES"])
    own = given.model_copy(update={"gpus": (), "max_running_jobs": None})
    async with trainer(own, catalog.known) as client:
        able = await client.stub.GetTrainerCapabilities(pb.GetTrainerCapabilitiesRequest())
        assert able.max_running_jobs == 1
        (job,) = await started_together(client, 1)
        assert await given_to(client, job.id) == ""
