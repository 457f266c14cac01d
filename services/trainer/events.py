"""Who watches a job, and how each watcher hears every event once, in order, whatever happens to its stream.

The store is the truth. Beside it each watched job has a feed in memory: the latest events, converted once for all
watchers, and one signal that wakes them all. A watcher who is further behind than the feed reaches, because it came
late, is slow or missed something, reads from the store until it has caught up; it holds up nobody.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from services.common.errors import AtelierError, NotFound, Unavailable
from services.common.telemetry import Logger
from services.trainer.domain import ENDED, Appended, Event, JobStatus
from services.trainer.journal import Head, Journal

Message = TypeVar("Message")

RING = 256
"""Events a feed keeps: some seconds of the quickest training."""
PAGE = 500
"""Events read from the store at once."""


class Seen(NamedTuple, Generic[Message]):
    """What a watcher gets. `event` is None for a heartbeat."""

    event: Event | None
    message: Message


class _Feed(Generic[Message]):
    """The latest events of one watched job."""

    def __init__(self) -> None:
        self.last = 0
        self.status = JobStatus.PENDING
        self.ring: deque[Seen[Message]] = deque(maxlen=RING)
        self.watchers = 0
        self.beats = 0
        self.woken = time.monotonic()
        self.changed = asyncio.Event()
        self.error: AtelierError | None = None
        self.early: list[tuple[list[Seen[Message]], Head]] | None = []
        """What was published before the feed knew where the job stands; None from then on."""

    def open(self, start: int, recent: list[Seen[Message]], head: Head) -> None:
        """Begins with the events after `start` as the store had them, then what has been published since."""
        early, self.early, self.last = self.early or [], None, start
        for seen, at in [(recent, head), *early]:
            self.push(seen, at)

    def after(self, position: int) -> list[Seen[Message]] | None:
        """The events after `position`; None where they reach further back than the ring."""
        if position >= self.last:
            return []
        first = self.ring[0].event if self.ring else None
        if first is None or first.sequence > position + 1:
            return None
        return list(islice(self.ring, position + 1 - first.sequence, None))

    def push(self, seen: list[Seen[Message]], head: Head) -> None:
        """Adds events in order. Those that came before are left out; after a gap the ring starts anew."""
        if self.early is not None:
            self.early.append((seen, head))
            return
        if head.last_sequence < self.last:
            return
        for each in seen:
            assert each.event is not None
            if each.event.sequence > self.last:
                if each.event.sequence != self.last + 1:
                    self.ring.clear()
                self.ring.append(each)
                self.last = each.event.sequence
        if self.last < head.last_sequence:
            self.ring.clear()
            self.last = head.last_sequence
        self.status = head.status
        self.wake()

    def wake(self) -> None:
        self.woken = time.monotonic()
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Events(Generic[Message]):
    """The feeds of all watched jobs. `convert` makes what is sent of an event (None: a heartbeat after a sequence)."""

    def __init__(
        self,
        journal: Journal,
        convert: Callable[[Event | None, int, JobStatus], Message],
        *,
        poll_seconds: float,
        heartbeat_seconds: float,
        log: Logger,
    ) -> None:
        self._journal = journal
        self._convert = convert
        self._poll_seconds = poll_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._log = log
        self._feeds: dict[str, _Feed[Message]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._poll(), name="events")

    async def stop(self) -> None:
        """Ends every watch with Unavailable, so that its client goes on at another replica or the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for feed in self._feeds.values():
            feed.error = Unavailable("the Trainer is stopping", reason="STOPPING", retry_after_seconds=1)
            feed.wake()

    def publish(self, appended: Appended | None) -> None:
        """Wakes the job's watchers with events that the store has."""
        if appended is None or (feed := self._feeds.get(appended.job.id)) is None:
            return
        job = appended.job
        feed.push(self._converted(list(appended.events), job.status), Head(job.last_sequence, job.status))

    async def watch(self, job_id: str, after: int) -> AsyncGenerator[Seen[Message], None]:
        """Every event after `after`, then each new one, then nothing once the job has ended. Heartbeats while idle.

        Raises NotFound when there is no such job or it is deleted meanwhile, Unavailable when the Trainer stops.
        """
        feed = self._feeds.get(job_id)
        fresh = feed is None
        if feed is None:
            # In its place before the store is asked, so that nothing published meanwhile passes it by.
            feed = self._feeds[job_id] = _Feed()
        feed.watchers += 1
        position, beats = after, feed.beats
        try:
            if fresh:
                await self._fill(job_id, feed)
            while True:
                changed, batch = feed.changed, feed.after(position)
                if batch is None:
                    events = await self._journal.read(job_id, after=position, limit=PAGE)
                    batch = self._converted(events, feed.status)
                for seen in batch:
                    yield seen
                    position = seen.event.sequence if seen.event else position
                if feed.error is not None:
                    raise feed.error
                if batch:
                    continue
                if feed.status in ENDED and position >= feed.last:
                    return
                await changed.wait()
                if feed.beats != beats and position >= feed.last and feed.error is None:
                    yield Seen(None, self._convert(None, feed.last, feed.status))
                beats = feed.beats
        finally:
            feed.watchers -= 1
            if not feed.watchers and self._feeds.get(job_id) is feed:
                del self._feeds[job_id]

    def _converted(self, events: list[Event], status: JobStatus) -> list[Seen[Message]]:
        return [Seen(event, self._convert(event, event.sequence, status)) for event in events]

    async def _fill(self, job_id: str, feed: _Feed[Message]) -> None:
        """Tells a new feed, and those who joined it meanwhile, where the job stands."""
        try:
            head = (await self._journal.heads([job_id])).get(job_id)
            if head is None:
                feed.error = NotFound("training job", job_id)
            else:
                # One read for all who come together, late or not.
                start = max(0, head.last_sequence - RING)
                recent = _known_to(head, await self._journal.read(job_id, after=start, limit=RING))
                feed.open(start, self._converted(recent, head.status), head)
        except Unavailable as error:
            feed.error = error
        feed.wake()

    async def _poll(self) -> None:
        """Sees what other replicas wrote, with one query for all feeds, and beats the heart of idle ones."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._catch_up()
            except Unavailable as error:
                self._log.warning("events are not polled", error=error.message)

    async def _catch_up(self) -> None:
        watched = dict(self._feeds)
        heads = await self._journal.heads(watched) if watched else {}
        for job_id, feed in watched.items():
            head = heads.get(job_id)
            if head is None:
                feed.error = NotFound("training job", job_id)
                feed.wake()
            elif head.last_sequence > feed.last:
                events = _known_to(head, await self._journal.read(job_id, after=feed.last, limit=RING))
                feed.push(self._converted(events, head.status), head)
            elif time.monotonic() - feed.woken >= self._heartbeat_seconds:
                feed.beats += 1
                feed.wake()


def _known_to(head: Head, events: list[Event]) -> list[Event]:
    """Without what was written after the head was read: with it the head's status would be older than its events, and
    a feed that has the last event but not the job's end would never be looked at again."""
    return [event for event in events if event.sequence <= head.last_sequence]
