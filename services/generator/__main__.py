"""Runs the Generator: `python -m services.generator`, settings from ATELIER_GENERATOR_*."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from atelier.generator.v1.generator_service_pb2_grpc import add_GeneratorServiceServicer_to_server

from services.common.blobs import open_blobs
from services.common.clients import open_channel
from services.common.database import open_database
from services.common.server import Server, Service, run
from services.common.telemetry import configure_logging, get_logger
from services.diffusion.device import best_device, device_name, drawing_dtype, use_threads, without_bitsandbytes
from services.generator.borrowing import Borrower
from services.generator.catalog import Catalog
from services.generator.checking import Checker
from services.generator.config import GeneratorSettings
from services.generator.engine.engine import Engine
from services.generator.engine.pool import Pool, memory_budget
from services.generator.engine.reading import Reader
from services.generator.finishing import Finisher
from services.generator.gallery import Gallery, Retention
from services.generator.generations import Generations
from services.generator.inputs import Inputs
from services.generator.keeping import Keeper
from services.generator.planning import Planner
from services.generator.servicer import GeneratorServicer
from services.generator.store import Store
from services.generator.weights import WeightsFinder

NAME = "atelier.generator.v1.GeneratorService"
MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: GeneratorSettings) -> AsyncIterator[Server]:
    """A Generator on the database and blob store of `settings`, not yet serving, already at work on what is queued.

    Closes what it opened; what is unfinished then goes on at the next start.
    """
    log = get_logger("generator")
    async with AsyncExitStack() as stack:
        engine = await open_database(settings.sqlite_or("generator"), schema="generator", migrations=MIGRATIONS)
        stack.push_async_callback(engine.dispose)
        channel = await stack.enter_async_context(open_channel(settings.catalog_address))
        device = settings.device or best_device()
        if settings.threads:
            use_threads(settings.threads)
        blobs = open_blobs(settings.blob_store_url())
        pool = Pool(
            Reader(device, drawing_dtype(device), settings.compile, log),
            device=device,
            memory_bytes=settings.memory_bytes or memory_budget(device),
            max_loras=settings.max_loras,
        )
        address = settings.trainer_address
        trainer = await stack.enter_async_context(open_channel(address)) if address else None
        borrower = Borrower(trainer, device_name=device_name(device), log=log)
        drawing = Engine(
            pool,
            borrower,
            max_batch=settings.max_batch,
            max_active=settings.max_active or 4 * settings.max_batch,
            tile_above=settings.tile_above,
        )
        stack.push_async_callback(asyncio.to_thread, drawing.close)
        store = Store(engine)
        keeper = Keeper(store, blobs)
        gallery = Gallery(store, keeper, Retention(settings.max_age_days, settings.max_gallery_bytes), log=log)
        catalog = Catalog(channel)
        checker = await _open_checker(settings, device, stack)
        generations = Generations(
            store,
            Planner(catalog, WeightsFinder(blobs, settings.data_dir / "cache" / "models", settings.weights_dir)),
            Inputs(store, catalog, keeper),
            Finisher(store, keeper, checker),
            gallery,
            drawing,
            max_queue=settings.max_queue,
            max_queue_total=settings.max_queue_total,
            log=log,
        )
        await generations.start()
        stack.push_async_callback(generations.stop)
        tidying = asyncio.create_task(gallery.tidy(settings.tidy_seconds), name="tidying")
        stack.callback(tidying.cancel)
        servicer = GeneratorServicer(
            generations=generations, gallery=gallery, store=store, device=device, settings=settings
        )
        service = Service(add_GeneratorServiceServicer_to_server, servicer, NAME)
        yield Server([service], listen=settings.listen, log=log, before_stop=generations.hold)


async def _open_checker(settings: GeneratorSettings, device: str, stack: AsyncExitStack) -> Checker | None:
    if settings.safety_checker is None:
        return None
    checker = await Checker.open(
        settings.safety_checker, device=device, dtype=drawing_dtype(device), action=settings.safety_action
    )
    stack.push_async_callback(asyncio.to_thread, checker.close)
    return checker


async def main() -> None:
    settings = GeneratorSettings()
    configure_logging(level=settings.log_level, format=settings.log_format)
    async with build(settings) as server:
        log = get_logger("generator")
        await run(server, announce_file=settings.announce_file, grace=settings.stop_grace_seconds, log=log)


if __name__ == "__main__":
    without_bitsandbytes()
    asyncio.run(main())
