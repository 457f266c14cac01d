"""A Trainer that dies, stops, or is one of two: no job is lost or trained by two, each model is registered once."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr

from services.common.clients import open_channel
from services.trainer.config import TrainerSettings
from services.trainer.store import QUEUED_AGAIN
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of, free_port, script, trainer, trainer_process


async def models_of(catalog: RunningCatalog, job_id: str) -> list[model_pb2.Model]:
    async with open_channel(catalog.address) as channel:
        listed = await CatalogServiceStub(channel).ListModels(catalog_pb2.ListModelsRequest(page_size=1000))
    return [model for model in listed.models if model.job_id == job_id]


@pytest.fixture
def fixed(given: TrainerSettings) -> TrainerSettings:
    """A Trainer that comes back at the same port."""
    return given.model_copy(update={"listen": f"127.0.0.1:{free_port()}"})


async def test_a_worker_outlives_its_trainer_and_goes_on_with_the_next(
    fixed: TrainerSettings, catalog: RunningCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=40, step_seconds=0.1, prints=["once"])
    async with trainer_process(fixed, tmp_path) as first, client_of(first.address, catalog.known) as client:
        job = await client.create()
        await client.until(job.id, "step")
        await first.kill()
        before = time.monotonic()
    async with trainer_process(fixed, tmp_path) as second, client_of(second.address, catalog.known) as client:
        assert time.monotonic() - before < 20
        ended = await client.ended(job.id)
        assert ended.status == tr.JOB_STATUS_COMPLETED
        events = await client.events(job.id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [event.step.step for event in events if event.HasField("step")]
    assert steps == list(range(1, 41)), "none twice, none lost"
    assert [event.log.message for event in events if event.HasField("log")].count("once") == 1
    assert len(await models_of(catalog, job.id)) == 1


async def test_a_worker_that_died_while_the_trainer_was_away_is_followed_by_another(
    fixed: TrainerSettings, catalog: RunningCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=400, step_seconds=0.1)
    async with trainer_process(fixed, tmp_path) as first, client_of(first.address, catalog.known) as client:
        job, waiting = await client.create(), await client.create()
        await client.until(job.id, "step")
        (worker,) = [
            child
            for child in psutil.Process(first.process.pid).children(recursive=True)
            if child.environ().get("ATELIER_WORKER_JOB_ID") == job.id
        ]
        await first.kill()
    worker.kill()
    script(monkeypatch)
    async with trainer_process(fixed, tmp_path) as second, client_of(second.address, catalog.known) as client:
        assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
        assert (await client.ended(waiting.id)).status == tr.JOB_STATUS_COMPLETED, "the queue goes on"


@pytest.mark.parametrize("point", ["trained", "registered", "completed"])
async def test_a_model_is_registered_once_wherever_the_trainer_dies(
    fixed: TrainerSettings, catalog: RunningCatalog, tmp_path: Path, point: str
) -> None:
    async with (
        trainer_process(fixed, tmp_path, crash_at=point) as first,
        client_of(first.address, catalog.known) as client,
    ):
        job = await client.create()
        async with asyncio.timeout(30):
            assert await first.process.wait() == 9, "it died where it was told to"
    assert len(await models_of(catalog, job.id)) == (0 if point == "trained" else 1)
    async with trainer_process(fixed, tmp_path) as second, client_of(second.address, catalog.known) as client:
        ended = await client.ended(job.id)
        events = await client.events(job.id)
    (model,) = await models_of(catalog, job.id)
    assert (ended.status, ended.model_id) == (tr.JOB_STATUS_COMPLETED, model.id)
    assert [event.WhichOneof("event") for event in events].count("done") == 1
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_catalog_that_is_away_for_a_while_delays_the_model_and_loses_nothing(
    client: Client, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=5, step_seconds=0.1)
    job = await client.create()
    await client.until(job.id, "step")
    await catalog.stop()
    await asyncio.sleep(2)
    assert (await client.get(job.id)).status == tr.JOB_STATUS_RUNNING
    error = client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id))
    with pytest.raises(Exception, match="being registered"):
        await error
    await catalog.start()
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    assert len(await models_of(catalog, job.id)) == 1


async def test_a_catalog_that_never_comes_back_fails_the_job_with_the_reason(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=5, step_seconds=0.1)
    async with trainer(given.model_copy(update={"registration_seconds": 1.0}), catalog.known) as client:
        job = await client.create()
        await client.until(job.id, "step")
        await catalog.stop()
        ended = await client.ended(job.id)
        assert (ended.status, ended.failure.reason) == (tr.JOB_STATUS_FAILED, "REGISTRATION_FAILED")


async def test_a_trainer_that_stops_queues_its_jobs_again(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=1000, step_seconds=0.1)
    async with trainer(given, catalog.known) as client:
        job = await client.create()
        await client.until(job.id, "step")
    script(monkeypatch)
    async with trainer(given, catalog.known) as client:
        assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
        kinds = [event.WhichOneof("event") for event in await client.events(job.id)]
        assert kinds.count("queued") == 2
        logs = [event.log.message for event in await client.events(job.id) if event.HasField("log")]
        assert QUEUED_AGAIN in logs


async def test_two_replicas_share_a_queue_and_see_each_other(
    given: TrainerSettings,
    catalog: RunningCatalog,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, steps=3, step_seconds=0.1)
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for name in ("one", "two"):
            own = {"replica": name, "database_url": postgres_url, "data_dir": tmp_path / name}
            clients.append(await stack.enter_async_context(trainer(given.model_copy(update=own), catalog.known)))
        jobs = [await clients[0].create() for _ in range(6)]
        heard = await asyncio.gather(*(clients[1].events(job.id) for job in jobs))
        for job, events in zip(jobs, heard, strict=True):
            assert (await clients[1].get(job.id)).status == tr.JOB_STATUS_COMPLETED
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            assert [event.step.step for event in events if event.HasField("step")] == [1, 2, 3], "trained by one"
            assert len(await models_of(catalog, job.id)) == 1


async def test_a_job_is_cancelled_through_the_other_replica(
    given: TrainerSettings,
    catalog: RunningCatalog,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, steps=1000, step_seconds=0.1)
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for name, most in (("one", 1), ("two", 1)):
            own = {"replica": name, "database_url": postgres_url, "data_dir": tmp_path / name, "max_running_jobs": most}
            clients.append(await stack.enter_async_context(trainer(given.model_copy(update=own), catalog.known)))
        jobs = [await clients[0].create() for _ in range(2)]
        for job in jobs:
            await clients[0].until(job.id, "step")
        for job in jobs:  # one of them runs at the other
            await clients[0].stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id))
        for job in jobs:
            assert (await clients[1].ended(job.id)).status == tr.JOB_STATUS_CANCELLED
