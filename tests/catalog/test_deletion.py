"""A dataset and the training jobs that were made from it: a real Trainer is asked."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb2
from atelier.trainer.v1 import training_pb2
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from tests.catalog.house import Catalog, catalog_at, png, refused

if TYPE_CHECKING:  # in the stubs of the generated code alone
    from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceAsyncStub


@pytest.fixture
def trainer_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
async def asking(tmp_path: Path, blobs: BlobStore, trainer_address: str, starter: Path) -> AsyncIterator[Catalog]:
    """A Catalog that asks the Trainer at `trainer_address`."""
    settings = {"trainer_address": trainer_address, "starter_model_dir": starter}
    async with catalog_at(tmp_path / "catalog", blobs, **settings) as running:
        yield running


@asynccontextmanager
async def trainer(folder: Path, catalog: Catalog, address: str) -> AsyncIterator["TrainerServiceAsyncStub"]:
    settings = TrainerSettings(
        data_dir=folder / "trainer", blob_url=catalog.blobs.url, catalog_address=catalog.address, listen=address,
        stop_grace_seconds=0.5,
    )  # fmt: skip
    async with serving(settings), open_channel(address) as channel:
        yield TrainerServiceStub(channel)


def deletion(dataset_id: int, *, force: bool = False) -> pb.DeleteDatasetRequest:
    return pb.DeleteDatasetRequest(dataset_id=dataset_id, force=force)


async def test_a_dataset_stays_while_a_job_is_unfinished(tmp_path: Path, asking: Catalog, trainer_address: str) -> None:
    used, free = await asking.dataset("used"), await asking.dataset("free")
    for id in (used, free):
        await asking.upload(id, png(id))
    base = await asking.register(native_resolution=64)
    async with trainer(tmp_path, asking, trainer_address) as jobs:
        job = (
            await jobs.CreateTrainingJob(trainer_pb2.CreateTrainingJobRequest(dataset_id=used, base_model_id=base.id))
        ).job
        with refused(FailedPrecondition, reason="DATASET_IN_USE", words=job.id):
            await asking.stub.DeleteDataset(deletion(used))
        await asking.stub.DeleteDataset(deletion(free))
        await jobs.CancelTrainingJob(trainer_pb2.CancelTrainingJobRequest(job_id=job.id))
        await asking.stub.DeleteDataset(deletion(used))
    for id in (used, free):
        with refused(NotFound):
            await asking.get(id)


async def test_a_dataset_that_is_a_jobs_class_stays_too(tmp_path: Path, asking: Catalog, trainer_address: str) -> None:
    learnt, classes = await asking.dataset("learnt"), await asking.dataset("classes")
    for id in (learnt, classes):
        await asking.upload(id, png(id))
    base = await asking.register(native_resolution=64)
    dreambooth = training_pb2.DreamBoothConfig(
        instance_prompt="sks dog", class_prompt="a dog", prior_preservation=True, class_dataset_id=classes
    )
    request = trainer_pb2.CreateTrainingJobRequest(
        dataset_id=learnt,
        base_model_id=base.id,
        method=training_pb2.TRAINING_METHOD_DREAMBOOTH,
        config=training_pb2.TrainingConfig(dreambooth=dreambooth),
    )
    async with trainer(tmp_path, asking, trainer_address) as jobs:
        job = (await jobs.CreateTrainingJob(request)).job
        with refused(FailedPrecondition, reason="DATASET_IN_USE", words=job.id):
            await asking.stub.DeleteDataset(deletion(classes))


async def test_force_deletes_what_a_job_uses_and_leaves_its_snapshot(
    tmp_path: Path, asking: Catalog, trainer_address: str
) -> None:
    id = await asking.dataset()
    await asking.upload(id, png(1))
    base = await asking.register(native_resolution=64)
    async with trainer(tmp_path, asking, trainer_address) as jobs:
        request = trainer_pb2.CreateTrainingJobRequest(dataset_id=id, base_model_id=base.id)
        job = (await jobs.CreateTrainingJob(request)).job
        await asking.stub.DeleteDataset(deletion(id, force=True))
    digest = job.snapshot_digest
    assert (await asking.stub.GetSnapshot(pb.GetSnapshotRequest(digest=digest))).snapshot.num_items == 1


async def test_without_an_answer_from_the_trainer_only_force_deletes(asking: Catalog) -> None:
    id = await asking.dataset()
    with refused(Unavailable, reason="TRAINER_UNAVAILABLE", words="force"):
        await asking.stub.DeleteDataset(deletion(id))
    with refused(NotFound):
        await asking.stub.DeleteDataset(deletion(id + 1))
    assert (await asking.get(id)).name == "icons"
    await asking.stub.DeleteDataset(deletion(id, force=True))
    with refused(NotFound):
        await asking.get(id)


async def test_a_catalog_that_knows_no_trainer_asks_nobody(catalog: Catalog) -> None:
    await catalog.stub.DeleteDataset(deletion(await catalog.dataset()))
