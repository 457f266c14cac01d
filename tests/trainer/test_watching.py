"""Watching a job: every event to everybody, once and in order, whatever happens to a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr

from services.common.database import open_database
from services.common.errors import NotFound, Unavailable
from services.common.rows import Transactions
from services.common.telemetry import get_logger
from services.trainer import domain, events
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from services.trainer.events import Events, Seen
from services.trainer.journal import Head, Journal
from services.trainer.store import Store
from tests.trainer.conftest import MIGRATIONS, RunningCatalog
from tests.trainer.house import FAKE_WORKER, Client, client_of, script, trainer
from tests.trainer.made import new_job, progress, trained

TOKEN = "secret"
Sequences = Events[int]


def feeds(store: Store, *, heartbeat_seconds: float = 60, poll_seconds: float = 0.1) -> Sequences:
    """Events whose messages are their numbers; a heartbeat is the negative number."""

    def convert(event: domain.Event | None, sequence: int, status: domain.JobStatus) -> int:
        return -sequence if event is None else sequence

    log = get_logger("test")
    return Events(store.journal, convert, poll_seconds=poll_seconds, heartbeat_seconds=heartbeat_seconds, log=log)


@asynccontextmanager
async def running_job(store: Store, *listening: Sequences) -> AsyncIterator[str]:
    job = await store.create(new_job())
    await store.queue(job.id)
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    for each in listening:
        each.start()
    yield job.id
    for each in listening:
        await each.stop()


async def tell(store: Store, job_id: str, number: int, report: domain.Report, *listening: Sequences) -> None:
    """A report comes in and is published to `listening`."""
    stored = await store.append_reports(job_id, TOKEN, first=number, reports=[report], lease_seconds=60)
    for each in listening:
        each.publish(stored)


async def finish(store: Store, job_id: str, number: int, *listening: Sequences) -> None:
    await tell(store, job_id, number, trained(), *listening)
    stored = await store.complete(job_id, domain.Done(101, "Trained"))
    for each in listening:
        each.publish(stored)


async def all_of(watched: AsyncIterator[Seen[int]]) -> list[int]:
    return [seen.message async for seen in watched]


async def test_a_watcher_who_comes_late_hears_everything(store: Store) -> None:
    watching = feeds(store)
    async with running_job(store, watching) as id:
        await tell(store, id, 1, progress(1), watching)
        await finish(store, id, 2, watching)
        assert await all_of(watching.watch(id, 0)) == [1, 2, 3, 4, 5]
        assert await all_of(watching.watch(id, 3)) == [4, 5]
        assert await all_of(watching.watch(id, 5)) == []
        assert await all_of(watching.watch(id, 99)) == []


async def test_a_stream_cut_and_resumed_at_every_event_loses_and_doubles_nothing(store: Store) -> None:
    watching = feeds(store)
    async with running_job(store, watching) as id:

        async def train() -> None:
            for step in range(1, 31):
                await tell(store, id, step, progress(step), watching)
            await finish(store, id, 31, watching)

        async def cut_at_every_event() -> list[int]:
            heard: list[int] = []
            while not heard or heard[-1] < 34:
                async for seen in watching.watch(id, heard[-1] if heard else 0):
                    heard.append(seen.message)
                    break
            return heard

        *heard, _ = await asyncio.gather(*(cut_at_every_event() for _ in range(5)), train())
        assert heard == [list(range(1, 35))] * 5


async def test_a_slow_watcher_holds_up_nobody_and_hears_everything(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RING", 4)
    watching = feeds(store)
    async with running_job(store, watching) as id:
        slow = watching.watch(id, 0)
        heard = [(await anext(slow)).message]
        quick = asyncio.create_task(all_of(watching.watch(id, 0)))
        for step in range(1, 41):
            await tell(store, id, step, progress(step), watching)
        await finish(store, id, 41, watching)
        async with asyncio.timeout(20):
            assert await quick == list(range(1, 45)), "while the slow one reads nothing"
        heard += await all_of(slow)
        assert heard == list(range(1, 45))


async def test_events_of_another_replica_are_seen(store: Store) -> None:
    here, there = feeds(store), feeds(store)
    async with running_job(store, here, there) as id:
        heard = asyncio.create_task(all_of(there.watch(id, 0)))
        for step in range(1, 6):
            await tell(store, id, step, progress(step), here)
            await asyncio.sleep(0.03)
        await finish(store, id, 6, here)
        async with asyncio.timeout(20):
            assert await heard == list(range(1, 10))


async def test_events_published_out_of_turn_are_heard_in_turn(store: Store) -> None:
    watching = feeds(store, poll_seconds=60)
    async with running_job(store, watching) as id:
        stream = watching.watch(id, 0)
        heard = [(await anext(stream)).message for _ in range(2)]
        first = await store.append_reports(id, TOKEN, first=1, reports=[progress(1)], lease_seconds=60)
        second = await store.append_reports(id, TOKEN, first=2, reports=[progress(2)], lease_seconds=60)
        watching.publish(second)
        watching.publish(first)
        await finish(store, id, 3, watching)
        assert heard + await all_of(stream) == [1, 2, 3, 4, 5, 6]


async def test_an_event_published_while_a_watch_opens_is_heard(store: Store) -> None:
    watching = feeds(store, poll_seconds=60)
    async with running_job(store, watching) as id:
        heard = [asyncio.create_task(all_of(watching.watch(id, 0))) for _ in range(3)]
        await asyncio.sleep(0)
        await tell(store, id, 1, progress(1), watching)
        await finish(store, id, 2, watching)
        async with asyncio.timeout(20):
            assert [await each for each in heard] == [[1, 2, 3, 4, 5]] * 3


@pytest.mark.parametrize("look", [0, 1], ids=["as the watch opens", "as it is polled"])
async def test_a_job_that_another_replica_ends_between_two_reads_ends_its_watch(
    store: Store, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """The head is read, the job ends, its events are read: the last of them must not pass for the head's status."""
    watching = feeds(store)
    heads, looks = store.journal.heads, iter(range(1000))

    async with running_job(store, watching) as id:
        await tell(store, id, 1, progress(1))

        async def heads_then_the_end(job_ids: Iterable[str]) -> dict[str, Head]:
            if next(looks) != look:
                return await heads(job_ids)
            await tell(store, id, 2, progress(2))
            found = await heads(job_ids)
            await finish(store, id, 3)
            return found

        monkeypatch.setattr(store.journal, "heads", heads_then_the_end)
        assert await asyncio.wait_for(all_of(watching.watch(id, 0)), 10) == [1, 2, 3, 4, 5, 6]


async def test_an_idle_watcher_hears_a_heart_beat(store: Store) -> None:
    watching = feeds(store, heartbeat_seconds=0.3)
    async with running_job(store, watching) as id:
        stream = watching.watch(id, 0)
        async with asyncio.timeout(20):
            heard = [(await anext(stream)).message for _ in range(4)]
            assert heard == [1, 2, -2, -2]
            await finish(store, id, 1, watching)
            assert [number for number in await all_of(stream) if number > 0] == [3, 4]


async def test_watching_ends_when_the_job_is_deleted_or_the_trainer_stops(store: Store) -> None:
    watching = feeds(store)
    pending = await store.create(new_job())
    async with running_job(store, watching) as id:
        deleted = asyncio.create_task(all_of(watching.watch(pending.id, 0)))
        stopped = asyncio.create_task(all_of(watching.watch(id, 0)))
        await asyncio.sleep(0.3)
        assert await store.delete(pending.id)
        async with asyncio.timeout(20):
            with pytest.raises(NotFound):
                await deleted
    with pytest.raises(Unavailable):
        await stopped


class CountingJournal(Journal):
    """The real journal, and how often events were read from it."""

    reads = 0

    async def read(self, job_id: str, **more: Any) -> list[domain.Event]:
        self.reads += 1
        return await super().read(job_id, **more)


async def test_a_thousand_watchers_hear_everything_for_a_few_reads(tmp_path: Path) -> None:
    """What it takes in time is measured over the network, by benchmarks/progress.py."""
    engine = await open_database(f"sqlite:///{tmp_path}/a.sqlite", schema="trainer", migrations=MIGRATIONS)
    store = Store(engine)
    store.journal = counting = CountingJournal(Transactions(engine, "the Trainer"))
    watching = feeds(store)
    async with running_job(store, watching) as id:
        heard = [asyncio.create_task(all_of(watching.watch(id, 0))) for _ in range(1000)]
        for step in range(1, 21):
            await tell(store, id, step, progress(step), watching)
        await finish(store, id, 21, watching)
        assert [await each for each in heard] == [list(range(1, 25))] * 1000
    assert counting.reads <= 5
    await engine.dispose()


async def test_watchers_over_the_network_hear_the_same(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=10, step_seconds=0.05)
    job = await client.create()
    heard = await asyncio.gather(*(client.events(job.id) for _ in range(20)))
    assert all(each == heard[0] for each in heard)
    assert [event.sequence for event in heard[0]] == list(range(1, len(heard[0]) + 1))
    assert await client.events(job.id) == heard[0], "and replayed later"
    middle = len(heard[0]) // 2
    assert await client.events(job.id, after=middle) == heard[0][middle:]


async def test_the_status_comes_with_each_event(client: Client) -> None:
    job = await client.create()
    seen = [response async for response in client.watch(job.id)]
    assert seen[-1].status == tr.JOB_STATUS_COMPLETED
    assert seen[-1].event.HasField("done")


async def test_a_watcher_that_leaves_does_not_stop_the_job(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=5, step_seconds=0.1)
    job = await client.create()
    stream = client.watch(job.id)
    async for _ in stream:
        break
    stream.cancel()
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED


async def test_a_watcher_who_reads_nothing_over_the_network_slows_nobody(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=3000)
    job = await client.create()
    stalled = client.watch(job.id)
    started = time.monotonic()
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    assert time.monotonic() - started < 30
    numbers = [response.event.sequence async for response in stalled]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 3000


async def test_watchers_are_told_when_the_trainer_stops_and_go_on_at_the_next(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=8, step_seconds=0.1)
    heard: list[int] = []
    server = AsyncExitStack()
    address = (await server.enter_async_context(serving(given, worker_command=FAKE_WORKER))).address

    async def listen(client: Client, job_id: str) -> None:
        async for response in client.watch(job_id):
            heard.append(response.event.sequence)

    async with client_of(address, catalog.known) as client:
        job = await client.create()
        listening = asyncio.create_task(listen(client, job.id))
        await client.until(job.id, "step")
        await server.aclose()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listening
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with trainer(given, catalog.known) as client:
        heard += [event.sequence for event in await client.events(job.id, after=heard[-1])]
        assert heard == list(range(1, len(heard) + 1))
        assert (await client.get(job.id)).status == tr.JOB_STATUS_COMPLETED
        points = (await client.stub.ListMetrics(pb.ListMetricsRequest(job_id=job.id))).points
        assert [point.step for point in points] == list(range(1, 9)), "of the attempt that counts"
