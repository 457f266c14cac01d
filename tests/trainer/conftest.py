"""A Trainer's store on both databases; a Catalog and a Trainer in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

import services.trainer
from services.catalog.__main__ import build
from services.catalog.config import CatalogSettings
from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.database import open_database
from services.trainer.config import TrainerSettings
from services.trainer.store import Store
from tests.trainer.house import ENVIRONMENT, Client, Known, fill, free_port, script, settings, trainer

MIGRATIONS = Path(services.trainer.__file__).parent / "migrations"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    engine = await open_database(database_url, schema="trainer", migrations=MIGRATIONS)
    yield Store(engine)
    await engine.dispose()


@dataclass
class RunningCatalog:
    """A Catalog in this process, and what it holds. It can be stopped and started again at its address."""

    address: str
    known: Known
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


@pytest.fixture
async def catalog(tmp_path: Path, blobs: BlobStore) -> AsyncIterator[RunningCatalog]:
    address = f"127.0.0.1:{free_port()}"
    running: list[AsyncExitStack] = []

    async def start() -> None:
        # Its settings name no Trainer: what these tests delete are jobs.
        catalog = CatalogSettings(data_dir=tmp_path / "catalog", blob_url=blobs.url, listen=address)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(await stack.enter_async_context(build(catalog)))
            running.append(stack.pop_all())

    async def stop() -> None:
        await running.pop().aclose()

    await start()
    async with open_channel(address) as channel:
        known = await fill(CatalogServiceStub(channel), blobs)
    yield RunningCatalog(address, known, start, stop)
    if running:
        await stop()


@pytest.fixture
def given(
    tmp_path: Path, catalog: RunningCatalog, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> TrainerSettings:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    script(monkeypatch)
    return settings(tmp_path, catalog.address, blobs)


@pytest.fixture
async def client(given: TrainerSettings, catalog: RunningCatalog) -> AsyncIterator[Client]:
    async with trainer(given, catalog.known) as found:
        yield found
