"""The real worker and its Trainer, killed by SIGKILL at any moment: what comes out is what would have."""

from pathlib import Path

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import training_pb2 as tr
from safetensors.numpy import load

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.trainer.config import TrainerSettings
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of, free_port, trainer_process, workers_of
from tests.trainer.test_real_worker import register_tiny, stored

CONFIG = tr.TrainingConfig(
    max_steps=300,
    batch_size=2,
    seed=5,
    caption_dropout=0.1,
    random_flip=True,
    lora=tr.LoraConfig(rank=2, dropout=0.1),
    checkpoints=tr.CheckpointConfig(interval_steps=10, keep=2),
)


async def weights(catalog: RunningCatalog, blobs: BlobStore, job: tr.TrainingJob) -> dict[str, bytes]:
    """The trained tensors, bit for bit; the file's header names the job and would differ."""
    assert job.status == tr.JOB_STATUS_COMPLETED, job.failure
    async with open_channel(catalog.address) as channel:
        request = catalog_pb2.GetModelRequest(model_id=job.model_id)
        model = (await CatalogServiceStub(channel).GetModel(request)).model
    (file,) = [file for file in model.stored.files if file.path.endswith(".safetensors")]
    return {name: value.tobytes() for name, value in load(blobs.get(file.sha256)).items()}


async def next_event(client: Client, job_id: str, kind: str, *, seen: int) -> int:
    """The number of the first event of a kind after the event number `seen`."""
    async for response in client.watch(job_id, seen):
        if response.event.WhichOneof("event") == kind:
            return response.event.sequence
    raise AssertionError(f"the job ended without another {kind}")


async def kill_worker_at(client: Client, job_id: str, kind: str, *, seen: int) -> int:
    """Kills the job's worker once an event of a kind comes after the event number `seen`; gives the number of the
    event that the next worker begins with."""
    seen = await next_event(client, job_id, kind, seen=seen)
    for worker in workers_of(job_id):
        worker.kill()
    return await next_event(client, job_id, "loading", seen=seen)


@pytest.mark.timeout(400)
async def test_the_weights_of_a_job_whose_processes_were_killed_are_those_of_one_left_alone(
    given: TrainerSettings,
    catalog: RunningCatalog,
    blobs: BlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Threads that spin beside another training's make steps of seconds (docs/operations.md).
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    fixed = given.model_copy(update={"listen": f"127.0.0.1:{free_port()}", "lease_seconds": 5.0})
    async with trainer_process(fixed, tmp_path, real=True) as first, client_of(first.address, catalog.known) as client:
        undisturbed = await client.ended((await client.create(base_model_id=base_id, config=CONFIG)).id, seconds=150)
        job = await client.create(base_model_id=base_id, config=CONFIG)
        seen = await kill_worker_at(client, job.id, "loading", seen=0)
        seen = await kill_worker_at(client, job.id, "checkpoint", seen=seen)
        seen = await kill_worker_at(client, job.id, "step", seen=seen)
        await next_event(client, job.id, "checkpoint", seen=seen)
        orphans = workers_of(job.id)
        await first.kill()
    for worker in orphans:
        worker.kill()
    async with (
        trainer_process(fixed, tmp_path, real=True) as second,
        client_of(second.address, catalog.known) as client,
    ):
        killed = await client.ended(job.id, seconds=150)
        logs = [event.log.message for event in await client.events(job.id) if event.HasField("log")]
        assert sum(line.startswith("training goes on after step") for line in logs) >= 2
        assert await weights(catalog, blobs, killed) == await weights(catalog, blobs, undisturbed)
        events = await client.events(job.id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
