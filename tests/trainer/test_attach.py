"""The worker's stream: who may attach, and how reports are numbered, stored and acknowledged."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable
from services.common.telemetry import get_logger
from services.trainer import domain
from services.trainer.domain import JobStatus
from services.trainer.retention import Retention
from services.trainer.store import Store
from services.trainer.workers import Ack, Assignment, Cancel, Command, Heartbeat, Message, Numbered, Workers
from tests.trainer.made import log, new_job, progress, trained

TOKEN = "secret"


@dataclass
class Desk:
    """The Trainer's side, and what it made known."""

    workers: Workers
    published: list[domain.Appended] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)


def desk_of(store: Store, *, lease_seconds: float = 60) -> Desk:
    published: list[domain.Appended] = []
    ready: list[str] = []
    workers = Workers(
        store,
        Retention(store.journal, BlobStore(Path(tempfile.gettempdir())), get_logger("test")),
        publish=published.append,
        on_trained=lambda job: ready.append(job.id),
        lease_seconds=lease_seconds,
    )
    return Desk(workers, published, ready)


async def running(store: Store) -> str:
    job = await store.create(new_job())
    await store.queue(job.id)
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    return job.id


async def said(*messages: Message, then_wait: bool = False) -> AsyncIterator[Message]:
    for message in messages:
        yield message
    if then_wait:
        await asyncio.Event().wait()


async def answers(stream: AsyncGenerator[Command, None]) -> list[Command]:
    return [command async for command in stream]


async def numbered(store: Store, job_id: str) -> list[object]:
    return [event.body for event in (await store.journal.read(job_id))[2:]]


async def test_reports_are_stored_then_acknowledged_and_published(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    reports: list[Message] = [Numbered(1, log()), Numbered(2, progress(1)), Heartbeat(), Numbered(3, progress(2))]
    heard = await answers(desk.workers.attach(id, TOKEN, said(*reports)))
    assert isinstance(heard[0], Assignment)
    assert heard[-1] == Ack(3)
    assert await numbered(store, id) == [log(), progress(1), progress(2)]
    assert [event.body for appended in desk.published for event in appended.events] == [log(), progress(1), progress(2)]


async def test_what_was_stored_already_is_acknowledged_and_not_stored_again(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    await answers(desk.workers.attach(id, TOKEN, said(Numbered(1, progress(1)), Numbered(2, progress(2)))))
    again = said(Numbered(1, progress(1)), Numbered(2, progress(2)), Numbered(3, progress(3)))
    heard = await answers(desk.workers.attach(id, TOKEN, again))
    assert isinstance(heard[0], Assignment)
    assert heard[0].job.last_report == 2
    assert heard[-1] == Ack(3)
    assert await numbered(store, id) == [progress(1), progress(2), progress(3)]


async def test_a_missing_number_ends_the_stream(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    with pytest.raises(InvalidArgument, match="must be 2"):
        await answers(desk.workers.attach(id, TOKEN, said(Numbered(1, log()), Numbered(3, log()))))


@pytest.mark.parametrize("token", ["", "another"])
async def test_only_the_token_of_the_attempt_attaches(store: Store, token: str) -> None:
    desk, id = desk_of(store), await running(store)
    with pytest.raises(PermissionDenied):
        await answers(desk.workers.attach(id, token, said()))


async def test_a_job_that_does_not_run_has_no_worker(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    with pytest.raises(NotFound):
        await answers(desk.workers.attach("f0000000-0000-4000-8000-000000000000", TOKEN, said()))
    failure = domain.Failure("OUT_OF_MEMORY", "no")
    await store.append_reports(id, TOKEN, first=1, reports=[failure], lease_seconds=60)
    with pytest.raises(FailedPrecondition, match="failed"):
        await answers(desk.workers.attach(id, TOKEN, said()))
    lost = await running(store)
    await store.end_attempt(lost, TOKEN, domain.Failure("WORKER_LOST", "gone"))
    with pytest.raises(PermissionDenied):  # the job is queued again, and will have another token
        await answers(desk.workers.attach(lost, TOKEN, said()))


async def test_a_worker_whose_job_was_ended_meanwhile_is_told(store: Store) -> None:
    desk, id = desk_of(store), await running(store)

    async def slowly() -> AsyncIterator[Message]:
        yield Numbered(1, progress(1))
        await asyncio.sleep(0.3)
        await store.end_attempt(id, TOKEN, domain.Failure("WORKER_LOST", "gone"))
        yield Numbered(2, progress(2))

    with pytest.raises(FailedPrecondition):
        await answers(desk.workers.attach(id, TOKEN, slowly()))


async def test_the_last_word_ends_the_stream_and_what_follows_is_not_heard(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    words = said(Numbered(1, progress(1)), Numbered(2, trained()), Numbered(3, log("late")), then_wait=True)
    async with asyncio.timeout(20):
        heard = await answers(desk.workers.attach(id, TOKEN, words))
    assert heard[-1] == Ack(2)
    assert desk.trained == [id]
    assert (await store.get(id)).trained == trained()


async def test_reports_that_come_together_share_a_transaction(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    await answers(desk.workers.attach(id, TOKEN, said(*(Numbered(n, progress(n)) for n in range(1, 201)))))
    assert await numbered(store, id) == [progress(n) for n in range(1, 201)]
    assert len(desk.published) < 20


async def test_cancelling_reaches_an_attached_worker_and_one_that_attaches_later(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    stream = desk.workers.attach(id, TOKEN, said(then_wait=True))
    assert isinstance(await anext(stream), Assignment)
    desk.workers.cancel(id)
    desk.workers.cancel(id)
    assert await anext(stream) == Cancel()
    await stream.aclose()
    await store.request_cancel(id)
    heard = await answers(desk.workers.attach(id, TOKEN, said(Numbered(1, domain.Cancelled()))))
    assert heard[1] == Cancel()
    assert (await store.get(id)).status is JobStatus.CANCELLED


async def test_the_newer_stream_of_a_worker_replaces_the_older(store: Store) -> None:
    desk, id = desk_of(store), await running(store)
    older = desk.workers.attach(id, TOKEN, said(then_wait=True))
    await anext(older)
    newer = desk.workers.attach(id, TOKEN, said(Numbered(1, trained())))
    await anext(newer)
    with pytest.raises(Unavailable):
        await anext(older)
    assert [command async for command in newer] == [Ack(1)]


async def test_heartbeats_keep_a_lease(store: Store) -> None:
    desk, id = desk_of(store, lease_seconds=0.6), await running(store)

    async def beating() -> AsyncIterator[Message]:
        yield Numbered(1, log())
        for _ in range(12):
            await asyncio.sleep(0.1)
            yield Heartbeat()
        assert await store.expired() == []

    await answers(desk.workers.attach(id, TOKEN, beating()))
    await asyncio.sleep(0.7)
    assert [job.id for job in await store.expired()] == [id]
