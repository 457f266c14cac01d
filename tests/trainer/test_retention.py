"""Which checkpoints are kept, promoted and let go, over a real Trainer and a real Catalog."""

import asyncio
import hashlib
from collections.abc import Mapping

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, script
from tests.trainer.test_training import refusal

STEPS = 8


def promotion(job_id: str, step: int, name: str = "") -> pb.PromoteCheckpointRequest:
    return pb.PromoteCheckpointRequest(job_id=job_id, step=step, name=name)


async def checkpoints(client: Client, job_id: str) -> list[tr.Checkpoint]:
    return list((await client.stub.ListCheckpoints(pb.ListCheckpointsRequest(job_id=job_id))).checkpoints)


async def run(client: Client, monkeypatch: pytest.MonkeyPatch, keep: int = 2, **told: object) -> tr.TrainingJob:
    script(monkeypatch, steps=STEPS, checkpoints=[1, 2, 3, 4, 5, 6], **told)
    config = tr.TrainingConfig(checkpoints=tr.CheckpointConfig(keep=keep))
    return await client.ended((await client.create(config=config)).id)


async def model_of(catalog: RunningCatalog, model_id: int) -> model_pb2.Model:
    async with open_channel(catalog.address) as channel:
        return (await CatalogServiceStub(channel).GetModel(catalog_pb2.GetModelRequest(model_id=model_id))).model


def weights(job_id: str, step: int) -> bytes:
    return f"weights of {job_id} after {step}".encode()


def there(blobs: BlobStore, data: bytes) -> bool:
    return blobs.exists(hashlib.sha256(data).hexdigest())


async def left(blobs: BlobStore, made: Mapping[int, bytes], *expected: int) -> bool:
    """Whether just these steps' bytes are left, soon: what is let go is let go after the event that lets it."""
    async with asyncio.timeout(20):
        while [step for step, data in made.items() if there(blobs, data)] != list(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return True


def states(job_id: str) -> dict[int, bytes]:
    return {step: f"{job_id} {step}".encode() for step in range(1, 7)}


def all_weights(job_id: str) -> dict[int, bytes]:
    return {step: weights(job_id, step) for step in range(1, 7)}


async def test_the_latest_checkpoints_and_the_best_one_keep_their_weights(
    client: Client, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await run(client, monkeypatch, validations={"1": 0.9, "2": 0.3, "4": 0.4, "6": 0.5})
    kept = await checkpoints(client, job.id)
    assert [(each.step, each.is_best) for each in kept] == [(2, True), (5, False), (6, False)]
    assert kept[0].validation_loss == pytest.approx(0.3)
    assert not kept[1].HasField("validation_loss")
    assert await left(blobs, all_weights(job.id), 2, 5, 6)
    metrics = await client.stub.ListMetrics(pb.ListMetricsRequest(job_id=job.id))
    assert [(each.step, each.num_images) for each in metrics.validations] == [(1, 4), (2, 4), (4, 4), (6, 4)]


async def test_states_go_with_the_end_of_the_job(
    client: Client, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await run(client, monkeypatch, keep=10, fail_at=7)
    assert await left(blobs, states(job.id), 5, 6), "a failed job can be tried again from either of the latest two"
    script(monkeypatch, steps=STEPS)
    await client.stub.RetryTrainingJob(pb.RetryTrainingJobRequest(job_id=job.id))
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    assert await left(blobs, states(job.id))
    assert await left(blobs, all_weights(job.id), *range(1, 7))


async def test_a_checkpoint_becomes_a_model_of_its_own_once(
    client: Client, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await run(client, monkeypatch)
    first = await client.stub.PromoteCheckpoint(promotion(job.id, 5, "the early one"))
    again = await client.stub.PromoteCheckpoint(promotion(job.id, 5, "another name"))
    assert (first.model_name, again) == ("the early one", first)
    assert first.model_id != job.model_id
    model = await model_of(catalog, first.model_id)
    assert (model.job_id, model.checkpoint_step, model.base_model_id) == (job.id, 5, job.base_model_id)
    kept = await checkpoints(client, job.id)
    assert {each.step: each.model_id for each in kept if each.HasField("model_id")} == {5: first.model_id}
    unnamed = await client.stub.PromoteCheckpoint(promotion(job.id, 6))
    assert unnamed.model_name == f"Trained-{job.id[:8]}-6"


async def test_a_promoted_checkpoint_outlives_those_that_follow_and_its_job(
    client: Client, catalog: RunningCatalog, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=STEPS, checkpoints=[1, 2, 3, 4, 5, 6], step_seconds=0.15)
    config = tr.TrainingConfig(checkpoints=tr.CheckpointConfig(keep=2))
    job = await client.create(config=config)
    await client.until(job.id, "checkpoint")
    promoted = await client.stub.PromoteCheckpoint(promotion(job.id, 1))
    await client.ended(job.id)
    assert [each.step for each in await checkpoints(client, job.id)] == [1, 5, 6]
    await client.stub.DeleteTrainingJob(pb.DeleteTrainingJobRequest(job_id=job.id))
    assert await left(blobs, all_weights(job.id), 1)
    assert (await model_of(catalog, promoted.model_id)).checkpoint_step == 1


async def test_what_is_not_kept_cannot_be_promoted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await run(client, monkeypatch)
    for step in (1, 7, 100):
        error = await refusal(client.stub.PromoteCheckpoint(promotion(job.id, step)))
        assert error.kind == "checkpoint"
        assert f"no checkpoint of step {step}" in error.message
    assert [each.step for each in await checkpoints(client, job.id)] == [5, 6], "the attempt has left nothing behind"
