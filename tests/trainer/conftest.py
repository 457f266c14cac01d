"""A Trainer's store on both databases."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import services.trainer
from services.common.database import open_database
from services.trainer.store import Store

MIGRATIONS = Path(services.trainer.__file__).parent / "migrations"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    engine = await open_database(database_url, schema="trainer", migrations=MIGRATIONS)
    yield Store(engine)
    await engine.dispose()
