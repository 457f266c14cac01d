"""The worker's whole program in this process: a real Catalog gives the manifest, a real Trainer stores what is said."""

import asyncio
from pathlib import Path

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.errors import NotFound
from services.trainer import domain
from services.trainer.domain import JobStatus
from services.trainer.worker.__main__ import FAILED, NOT_WANTED, main, work
from services.trainer.worker.attach import TrainerLink
from services.trainer.worker.config import WorkerSettings
from services.trainer.worker.manifest import read_manifest
from tests.trainer.conftest import RunningCatalog
from tests.trainer.worker.test_link import TOKEN, Desk, desk

__all__ = ["desk"]  # a fixture


async def snapshot_of(catalog: RunningCatalog) -> str:
    async with open_channel(catalog.address) as channel:
        request = catalog_pb2.CreateSnapshotRequest(dataset_id=catalog.known.dataset_id)
        return (await CatalogServiceStub(channel).CreateSnapshot(request)).snapshot.digest


async def test_the_manifest_is_read_whole_and_in_its_order(catalog: RunningCatalog, blobs: BlobStore) -> None:
    digest = await snapshot_of(catalog)
    items = await asyncio.to_thread(read_manifest, catalog.address, digest)
    assert [item.filename for item in items] == ["0.png", "1.png", "2.png"]
    assert all(blobs.exists(item.sha256) and (item.width, item.height) == (64, 64) for item in items)
    with pytest.raises(NotFound):
        await asyncio.to_thread(read_manifest, catalog.address, "0" * 64)


async def test_a_failed_job_keeps_its_reason_and_its_traceback(
    desk: Desk, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    # The base model of this Catalog is a file and no weights; the snapshot of this job was never made.
    settings = WorkerSettings(
        trainer_address=desk.address,
        catalog_address=catalog.address,
        blob_url=blobs.url,
        job_id=desk.job_id,
        token=TOKEN,
        dir=tmp_path / "scratch",
    )
    link = TrainerLink(desk.address, job_id=desk.job_id, token=TOKEN)
    assert await asyncio.to_thread(work, link, settings) == FAILED
    await asyncio.to_thread(link.close)
    job = await desk.store.get(desk.job_id)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.reason == "NOT_FOUND"
    lines = [body.message for body in await desk.said() if isinstance(body, domain.Log)]
    assert any("Traceback" in line for line in lines)
    assert any("read_manifest" in line for line in lines)


async def test_a_worker_that_is_not_wanted_ends_with_a_code_of_its_own(
    desk: Desk, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "TRAINER_ADDRESS": desk.address,
        "CATALOG_ADDRESS": catalog.address,
        "BLOB_URL": blobs.url,
        "JOB_ID": desk.job_id,
        "TOKEN": "another",
        "DIR": str(tmp_path),
    }
    for name, value in told.items():
        monkeypatch.setenv(f"ATELIER_WORKER_{name}", value)
    assert await asyncio.to_thread(main) == NOT_WANTED
    assert (await desk.store.get(desk.job_id)).status is JobStatus.RUNNING
