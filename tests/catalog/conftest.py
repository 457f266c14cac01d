"""A store on both databases, and a real Catalog in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.catalog.__main__ import MIGRATIONS
from services.catalog.model_store import ModelStore
from services.catalog.store import Store
from services.common.blobs import BlobStore
from services.common.database import open_database
from services.common.rows import Transactions
from tests.catalog.house import Catalog, catalog_at, starter_folder


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = await open_database(database_url, schema="catalog", migrations=MIGRATIONS)
    yield engine
    await engine.dispose()


@pytest.fixture
def transactions(engine: AsyncEngine) -> Transactions:
    return Transactions(engine, "the Catalog")


@pytest.fixture
def store(transactions: Transactions) -> Store:
    return Store(transactions)


@pytest.fixture
def models(transactions: Transactions) -> ModelStore:
    return ModelStore(transactions)


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    return starter_folder(tmp_path / "starter-model")


@pytest.fixture
async def catalog(tmp_path: Path, blobs: BlobStore, starter: Path) -> AsyncIterator[Catalog]:
    """A Catalog on SQLite, which asks no Trainer."""
    async with catalog_at(tmp_path / "catalog", blobs, starter_model_dir=starter) as running:
        yield running


@pytest.fixture
async def either(tmp_path: Path, database_url: str, blobs: BlobStore, starter: Path) -> AsyncIterator[Catalog]:
    """A Catalog, once on SQLite and once on Postgres."""
    settings = {"database_url": database_url, "starter_model_dir": starter}
    async with catalog_at(tmp_path / "catalog", blobs, **settings) as running:
        yield running
