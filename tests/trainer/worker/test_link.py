"""The worker's end of the stream, against the Trainer's real one over a real store."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from atelier.trainer.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.database import open_database
from services.common.server import Server, Service
from services.common.telemetry import get_logger
from services.trainer import domain
from services.trainer.catalog import Catalog
from services.trainer.convert import report_from_proto
from services.trainer.domain import Appended, JobStatus
from services.trainer.retention import Retention
from services.trainer.servicer import WorkerServicer
from services.trainer.store import Store
from services.trainer.worker.assignment import assignment_from_proto, report_to_proto
from services.trainer.worker.attach import Detached, TrainerLink, TrainerLost
from services.trainer.workers import Lend, TakeBack, Workers
from tests.trainer.conftest import MIGRATIONS, RunningCatalog
from tests.trainer.house import free_port
from tests.trainer.made import log, new_job, progress, trained

TOKEN = "secret"


@dataclass
class Desk:
    """A Trainer that serves its workers alone, can be stopped and started again, and remembers what it stored."""

    address: str
    store: Store
    job_id: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    workers: list[Workers]

    def link(self, *, token: str = TOKEN, job_id: str = "", **more: float | int) -> TrainerLink:
        return TrainerLink(
            self.address,
            job_id=job_id or self.job_id,
            token=token,
            backoff_seconds=0.05,
            **more,  # type: ignore[arg-type]  # patience, heartbeat and capacity
        )

    async def said(self) -> list[object]:
        """What the worker's reports were stored as."""
        events = await self.store.journal.read(self.job_id)
        return [event.body for event in events if not isinstance(event.body, domain.Queued | domain.Loading)]


@pytest.fixture
async def desk(tmp_path: Path, catalog: RunningCatalog) -> AsyncIterator[Desk]:
    engine = await open_database(f"sqlite+aiosqlite:///{tmp_path}/t.sqlite", schema="trainer", migrations=MIGRATIONS)
    store = Store(engine)
    job = await store.create(new_job(base_model_id=catalog.known.base_id))
    await store.queue(job.id)
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    address = f"127.0.0.1:{free_port()}"
    running: list[Server] = []
    made: list[Workers] = []
    async with open_channel(catalog.address) as channel:

        async def start() -> None:
            published: list[Appended] = []
            retention = Retention(store.journal, BlobStore(tmp_path / "blobs"), get_logger("test"))
            workers = Workers(store, retention, publish=published.append, on_trained=lambda job: None, lease_seconds=60)
            servicer = WorkerServicer(workers, Catalog(channel))
            name = "atelier.trainer.v1.WorkerService"
            server = Server([Service(add_WorkerServiceServicer_to_server, servicer, name)], listen=address)
            await server.start()
            running.append(server)
            made.append(workers)

        async def stop() -> None:
            await running.pop().stop(0)

        await start()
        yield Desk(address, store, job.id, start, stop, made)
        if running:
            await stop()
    await engine.dispose()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what is waited for happens on a thread
            await asyncio.sleep(0.02)


async def test_the_assignment_holds_all_that_the_worker_needs(desk: Desk) -> None:
    link = desk.link()
    assignment = assignment_from_proto(await asyncio.to_thread(link.attach))
    job = await desk.store.get(desk.job_id)
    assert (assignment.job_id, assignment.method, assignment.config) == (job.id, job.method, job.config)
    assert assignment.snapshot_digest == job.snapshot_digest
    (base,) = assignment.bases
    assert (base.id, base.name, base.family) == (job.base_model_id, "starter", "stable_diffusion")
    assert [path for path, _ in base.files] == ["model_index.json"]
    await asyncio.to_thread(link.close)


async def test_reports_arrive_once_and_in_order_and_close_waits_for_the_last(desk: Desk) -> None:
    link = desk.link()
    await asyncio.to_thread(link.attach)
    for step in range(1, 301):
        link.report(progress(step, total=300))
    link.report(trained(300))
    await asyncio.to_thread(link.close)
    assert await desk.said() == [progress(step, total=300) for step in range(1, 301)]
    job = await desk.store.get(desk.job_id)
    assert job.trained == trained(300)


async def test_a_trainer_that_restarts_gets_every_report_once(desk: Desk) -> None:
    link = desk.link(patience_seconds=30)
    await asyncio.to_thread(link.attach)
    for step in range(1, 51):
        link.report(progress(step, total=150))
    await desk.stop()
    for step in range(51, 101):
        link.report(progress(step, total=150))  # does not block though nobody listens
    await asyncio.sleep(0.3)
    await desk.start()
    for step in range(101, 151):
        link.report(progress(step, total=150))
    await asyncio.to_thread(link.close)
    assert await desk.said() == [progress(step, total=150) for step in range(1, 151)]


async def test_a_full_buffer_holds_the_worker_back_until_the_trainer_is_there_again(desk: Desk) -> None:
    link = desk.link(capacity=5)
    await asyncio.to_thread(link.attach)
    await desk.stop()

    def talk() -> float:
        started = time.monotonic()
        for step in range(1, 21):
            link.report(progress(step, total=20))
        return time.monotonic() - started

    talking = asyncio.create_task(asyncio.to_thread(talk))
    await asyncio.sleep(0.5)
    assert not talking.done()
    await desk.start()
    assert await talking >= 0.5
    await asyncio.to_thread(link.close)
    assert len(await desk.said()) == 20


async def test_the_command_to_stop_reaches_the_worker_and_its_last_word_the_trainer(desk: Desk) -> None:
    link = desk.link()
    await asyncio.to_thread(link.attach)
    link.report(log("working"))
    assert not link.cancelled

    await desk.store.request_cancel(desk.job_id)

    async def told() -> bool:
        desk.workers[-1].cancel(desk.job_id)
        return link.cancelled

    await until(told)
    link.report(domain.Cancelled())
    await asyncio.to_thread(link.close)
    assert (await desk.store.get(desk.job_id)).status is JobStatus.CANCELLED


async def test_heartbeats_keep_the_lease_while_there_is_nothing_to_say(desk: Desk) -> None:
    renewed: list[float] = []
    renew = desk.store.renew

    async def noted(job_id: str, token: str, *, lease_seconds: float) -> bool:
        renewed.append(time.monotonic())
        return await renew(job_id, token, lease_seconds=lease_seconds)

    desk.store.renew = noted  # type: ignore[method-assign]  # a listener on the real one
    desk.workers[-1]._lease_seconds = 0.6
    link = desk.link(heartbeat_seconds=0.05)
    await asyncio.to_thread(link.attach)

    async def twice() -> bool:
        return len(renewed) >= 2

    await until(twice)
    await asyncio.to_thread(link.close)


@pytest.mark.parametrize("wrong", ["token", "job", "ended"])
async def test_a_worker_that_is_not_wanted_is_told_so(desk: Desk, wrong: str) -> None:
    if wrong == "ended":
        await desk.store.append_reports(
            desk.job_id, TOKEN, first=1, reports=[domain.Failure("INTERNAL", "no")], lease_seconds=60
        )
    link = desk.link(
        token="another" if wrong == "token" else TOKEN,
        job_id="0f0e0d0c-1111-4222-8333-444455556666" if wrong == "job" else "",
    )
    with pytest.raises(Detached):
        await asyncio.to_thread(link.attach)


async def test_a_job_taken_away_while_the_trainer_was_down_ends_its_worker(desk: Desk) -> None:
    link = desk.link()
    await asyncio.to_thread(link.attach)
    await desk.stop()
    await desk.store.append_reports(
        desk.job_id, TOKEN, first=1, reports=[domain.Failure("WORKER_LOST", "no")], lease_seconds=60
    )
    link.report(progress(1))
    await desk.start()
    with pytest.raises(Detached):
        await asyncio.to_thread(link.close)


async def test_a_trainer_that_stays_away_is_given_up_after_the_workers_patience(desk: Desk) -> None:
    link = desk.link(patience_seconds=0.5)
    await asyncio.to_thread(link.attach)
    await desk.stop()
    link.report(progress(1))
    started = time.monotonic()
    with pytest.raises(TrainerLost, match="did not answer"):
        await asyncio.to_thread(link.close)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "report",
    [
        domain.Loading(domain.LoadingStage.CACHING_LATENTS, 3, 9),
        progress(4),
        domain.Sample(3, 1, "a cat", "ab" * 32, 64, 32),
        domain.Checkpoint(
            5, 77, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 0.25, (domain.ModelFile("a.safetensors", "cd" * 32, 77),)
        ),
        log("a line"),
        trained(),
        domain.Failure("BAD_IMAGE", "no picture"),
        domain.Cancelled(),
    ],
    ids=lambda report: type(report).__name__,
)
def test_reports_survive_the_wire(report: domain.Report) -> None:
    message = report_to_proto(report, 12)
    assert message.number == 12
    assert report_from_proto(type(message).FromString(message.SerializeToString())) == report


async def test_a_device_is_asked_for_and_given_back_over_the_stream(desk: Desk) -> None:
    link = desk.link()
    await asyncio.to_thread(link.attach)
    assert link.borrowed is None
    desk.workers[-1].say(desk.job_id, Lend(make_room=True))
    await until(lambda: truth(link.borrowed is not None))
    first = link.borrowed
    assert first is not None
    assert first.make_room
    desk.workers[-1].say(desk.job_id, Lend(make_room=True))
    second = await asyncio.to_thread(link.await_change, first)
    assert second is not None
    assert second != first, "who asks again is answered again"
    waiting = asyncio.create_task(asyncio.to_thread(link.await_change, second))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    desk.workers[-1].say(desk.job_id, TakeBack())
    assert await waiting is None
    assert link.borrowed is None
    await asyncio.to_thread(link.close)


@pytest.mark.parametrize("how", ["pause", "cancel", "signal", "lost"])
async def test_a_worker_that_stands_still_hears_what_ends_it(desk: Desk, how: str) -> None:
    link = desk.link()
    await asyncio.to_thread(link.attach)
    desk.workers[-1].say(desk.job_id, Lend(make_room=False))
    await until(lambda: truth(link.borrowed is not None))
    assert link.borrowed is not None
    waiting = asyncio.create_task(asyncio.to_thread(link.await_change, link.borrowed))
    match how:
        case "pause":
            desk.workers[-1].pause(desk.job_id)
        case "cancel":
            desk.workers[-1].cancel(desk.job_id)
        case "signal":
            link.pause()
        case "lost":  # nobody borrows through a Trainer that is away
            await desk.stop()
    async with asyncio.timeout(10):
        assert await waiting is None
    if how == "lost":
        await desk.start()
    await asyncio.to_thread(link.close)


async def truth(value: bool) -> bool:
    return value
