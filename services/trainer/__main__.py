"""Runs the Trainer: `python -m services.trainer`."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from atelier.trainer.v1.device_service_pb2_grpc import add_DeviceServiceServicer_to_server
from atelier.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from atelier.trainer.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server

from services.common.blobs import open_blobs
from services.common.clients import open_channel
from services.common.database import open_database
from services.common.machine import machine_name
from services.common.server import Server, Service, announce
from services.common.telemetry import configure_logging, get_logger
from services.trainer.captioning import Captioning
from services.trainer.catalog import Catalog
from services.trainer.config import TrainerSettings
from services.trainer.devices import Devices
from services.trainer.events import Events
from services.trainer.executors.local import LocalExecutor
from services.trainer.jobs import Jobs
from services.trainer.lending import Lending
from services.trainer.preflight import Preflight
from services.trainer.registration import Registrar
from services.trainer.retention import Retention
from services.trainer.scheduler import Scheduler
from services.trainer.servicer import Capabilities, DeviceServicer, TrainerServicer, WorkerServicer, watch_response
from services.trainer.store import Store
from services.trainer.workers import Workers

WORKER = (sys.executable, "-m", "services.trainer.worker")
MIGRATIONS = Path(__file__).parent / "migrations"


def reachable(address: str) -> str:
    """An address to call, for one that listens on every interface."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "") else address


@asynccontextmanager
async def serving(
    settings: TrainerSettings, *, worker_command: Sequence[str] = WORKER, store_type: type[Store] = Store
) -> AsyncIterator[Server]:
    """The Trainer, wired and serving. On leaving, its workers are stopped and their jobs queued again."""
    log = get_logger("trainer")
    async with AsyncExitStack() as stack:
        engine = await open_database(settings.sqlite_or("trainer"), schema="trainer", migrations=MIGRATIONS)
        stack.push_async_callback(engine.dispose)
        channel = await stack.enter_async_context(open_channel(settings.catalog_address))
        store, catalog, devices = store_type(engine), Catalog(channel), Devices(log)
        stack.push_async_callback(devices.stop)
        blobs = open_blobs(settings.blob_store_url())
        retention = Retention(store.journal, blobs, log)
        events = Events(
            store.journal,
            watch_response,
            poll_seconds=settings.poll_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            log=log,
        )
        registrar = Registrar(
            store,
            catalog,
            retention,
            publish=events.publish,
            lease_seconds=settings.lease_seconds,
            give_up_seconds=settings.registration_seconds,
            log=log,
        )
        workers = Workers(
            store,
            retention,
            publish=events.publish,
            on_trained=registrar.start,
            lease_seconds=settings.lease_seconds,
        )
        executor = LocalExecutor(
            worker_command,
            root=settings.data_dir / "jobs",
            tensorboard=settings.data_dir / "tensorboard" if settings.tensorboard else None,
        )
        lending = Lending(
            workers,
            machine=machine_name(),
            gpu_of=executor.gpu_of,
            gpus=devices.gpu_names,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        scheduler = Scheduler(
            store,
            executor,
            workers,
            registrar,
            publish=events.publish,
            owner=settings.replica,
            max_running=settings.max_running_jobs or 1,
            lease_seconds=settings.lease_seconds,
            poll_seconds=settings.poll_seconds,
            cancel_grace_seconds=settings.cancel_grace_seconds,
            log=log,
        )
        preflight = Preflight(
            root=settings.data_dir / "jobs",
            data_dir=settings.data_dir,
            timeout_seconds=settings.estimate_seconds,
        )
        captioning = Captioning(
            catalog,
            root=settings.data_dir / "jobs",
            model=settings.caption_model,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        use = Jobs(store, catalog, retention, preflight, publish=events.publish, wake=scheduler.wake)
        capabilities = Capabilities(lambda: scheduler.max_running, settings.heartbeat_seconds)
        servicer = TrainerServicer(use, events, blobs, devices, capabilities, captioning)
        attached = WorkerServicer(workers, catalog)
        server = Server(
            [
                Service(add_TrainerServiceServicer_to_server, servicer, "atelier.trainer.v1.TrainerService"),
                Service(
                    add_DeviceServiceServicer_to_server, DeviceServicer(lending), "atelier.trainer.v1.DeviceService"
                ),
                Service(add_WorkerServiceServicer_to_server, attached, "atelier.trainer.v1.WorkerService"),
            ],
            listen=settings.listen,
            log=log,
        )
        await server.start()
        # Taken down in the order: workers (who still report), watchers, the server, registrations, the database.
        stack.push_async_callback(registrar.stop)
        stack.push_async_callback(server.stop, settings.stop_grace_seconds)
        stack.push_async_callback(events.stop)
        stack.callback(lending.stop)
        stack.push_async_callback(scheduler.stop, settings.stop_grace_seconds)
        environment = {
            "ATELIER_WORKER_TRAINER_ADDRESS": settings.advertise_address or reachable(server.address),
            "ATELIER_WORKER_CATALOG_ADDRESS": settings.catalog_address,
            "ATELIER_WORKER_BLOB_URL": settings.blob_store_url(),
            # The folder of the Generator: a base model is fetched and unfolded once for all.
            "ATELIER_WORKER_CACHE_DIR": str((settings.data_dir / "cache" / "models").resolve()),
        }
        executor.tell(environment)
        preflight.tell(environment)
        captioning.tell(environment)
        events.start()
        if settings.gpus is not None:  # known at once: no job begins without one
            _spread(settings.gpus, settings, executor, scheduler)
        else:
            spread = asyncio.create_task(_look_for_gpus(settings, devices, executor, scheduler), name="GPUs")
            stack.callback(spread.cancel)
        scheduler.start()
        yield server


async def _look_for_gpus(
    settings: TrainerSettings, devices: Devices, executor: LocalExecutor, scheduler: Scheduler
) -> None:
    """Asks torch, which takes seconds; until then one worker at all runs."""
    _spread(await devices.gpus(), settings, executor, scheduler)


def _spread(gpus: Sequence[str], settings: TrainerSettings, executor: LocalExecutor, scheduler: Scheduler) -> None:
    """One worker a GPU."""
    executor.use(gpus)
    scheduler.allow(settings.max_running_jobs or max(1, len(gpus)))


async def main() -> None:
    settings = TrainerSettings()
    configure_logging(level=settings.log_level, format=settings.log_format)
    log = get_logger("trainer")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with serving(settings) as server:
        if settings.announce_file is not None:
            announce(settings.announce_file, server.address)
        log.info("serving", address=server.address)
        await stopping.wait()
        log.info("stopping")


if __name__ == "__main__":
    asyncio.run(main())
