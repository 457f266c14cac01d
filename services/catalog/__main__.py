"""Runs the Catalog: `python -m services.catalog`, settings from ATELIER_CATALOG_*."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from atelier.catalog.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server

from services.catalog.config import CatalogSettings
from services.catalog.hub import Hub
from services.catalog.model_store import ModelStore
from services.catalog.servicer import CatalogServicer
from services.catalog.store import Store
from services.catalog.trainer import unfinished_jobs
from services.common import clips
from services.common.blobs import open_blobs
from services.common.clients import open_channel
from services.common.database import open_database
from services.common.rows import Transactions
from services.common.server import Server, Service, run
from services.common.telemetry import configure_logging, get_logger

NAME = "atelier.catalog.v1.CatalogService"
MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: CatalogSettings) -> AsyncIterator[Server]:
    """A Catalog on the database and blob store of `settings`, not yet serving. Closes what it opened."""
    async with AsyncExitStack() as stack:
        engine = await open_database(settings.sqlite_or("catalog"), schema="catalog", migrations=MIGRATIONS)
        stack.push_async_callback(engine.dispose)
        transactions = Transactions(engine, "the Catalog")
        threads = stack.enter_context(ThreadPoolExecutor(max(4, (os.cpu_count() or 1) + 2), "images"))
        jobs_of = None
        if settings.trainer_address:
            jobs_of = unfinished_jobs(await stack.enter_async_context(open_channel(settings.trainer_address)))
        servicer = CatalogServicer(
            store=Store(transactions),
            models=ModelStore(transactions),
            blobs=open_blobs(settings.blob_store_url()),
            threads=threads,
            starter_model_dir=settings.starter_model_dir,
            clip_limits=clips.Limits(settings.max_clip_bytes, settings.max_clip_frames),
            jobs_of=jobs_of,
            hub=Hub(settings.hub_endpoint, settings.hub_token.get_secret_value()),
        )
        service = Service(add_CatalogServiceServicer_to_server, servicer, NAME)
        yield Server([service], listen=settings.listen, log=get_logger("catalog"))


async def main() -> None:
    settings = CatalogSettings()
    configure_logging(level=settings.log_level, format=settings.log_format)
    async with build(settings) as server:
        log = get_logger("catalog")
        await run(server, announce_file=settings.announce_file, grace=settings.stop_grace_seconds, log=log)


if __name__ == "__main__":
    asyncio.run(main())
