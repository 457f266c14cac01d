"""The Trainer's side of its workers' streams: reports come up and are stored, then acknowledged; commands go down."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from services.common.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from services.trainer import domain
from services.trainer.domain import Appended, Job, JobStatus, Stage
from services.trainer.retention import Retention
from services.trainer.store import Store

BATCH_SECONDS = 0.03
"""Reports that come within this time share a transaction."""
MAX_BATCH = 256
MAX_WAITING = 1000
"""Reports received and not yet stored, after which the worker is no longer read: gRPC then holds it back."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A worker's report and its number: 1, 2, 3, ... within an attempt."""

    number: int
    report: domain.Report


@dataclass(frozen=True, slots=True)
class Heartbeat:
    pass


@dataclass(frozen=True, slots=True)
class Assignment:
    """`checkpoints` of earlier attempts that can be gone on from, newest first."""

    job: Job
    checkpoints: tuple[domain.Checkpoint, ...] = ()
    device: str = ""
    """The name of the worker's device."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Every report up to `number` is stored."""

    number: int


@dataclass(frozen=True, slots=True)
class Cancel:
    pass


@dataclass(frozen=True, slots=True)
class Pause:
    pass


@dataclass(frozen=True, slots=True)
class Lend:
    """Stand still after the next step; with `make_room` out of the device's memory."""

    make_room: bool


@dataclass(frozen=True, slots=True)
class TakeBack:
    pass


Message: TypeAlias = Numbered | Heartbeat
Command: TypeAlias = Assignment | Ack | Cancel | Pause | Lend | TakeBack


class Listener(Protocol):
    """Hears of the attached workers; see Lending."""

    def attached(self, job: Job) -> None: ...
    def heard(self, job_id: str, reports: list[domain.Report]) -> None: ...
    def left(self, job_id: str) -> None: ...
    def device_of(self, job: Job) -> str: ...


class _Session:
    """One attached stream."""

    def __init__(self, job: Job) -> None:
        self.job_id, self.token, self.last = job.id, job.token, job.last_report
        self.received: asyncio.Queue[Numbered | None] = asyncio.Queue(MAX_WAITING)
        self.sending: asyncio.Queue[Command | BaseException | None] = asyncio.Queue()
        self.renewed = time.monotonic()
        self.told: set[Command] = set()
        self.closed = asyncio.Event()

    def tell(self, command: Command) -> None:
        """Once, however often it is said."""
        if command not in self.told:
            self.told.add(command)
            self.sending.put_nowait(command)


class Workers:
    """The attached workers. `publish` hears what was stored, `on_trained` of each job whose model can be registered."""

    def __init__(
        self,
        store: Store,
        retention: Retention,
        *,
        publish: Callable[[Appended], None],
        on_trained: Callable[[Job], None],
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._retention = retention
        self._publish = publish
        self._on_trained = on_trained
        self._lease_seconds = lease_seconds
        self._sessions: dict[str, _Session] = {}
        self.before_last_word: Callable[[str], Awaitable[None]] | None = None
        """Called with a job's id before its worker's last word is stored."""
        self.listener: Listener | None = None

    def cancel(self, job_id: str) -> None:
        """Tells the job's worker to stop, if it is attached here; again is no harm."""
        if session := self._sessions.get(job_id):
            session.tell(Cancel())

    def pause(self, job_id: str) -> None:
        """Tells the job's worker to make a checkpoint and stop, if it is attached here; again is no harm."""
        if session := self._sessions.get(job_id):
            session.tell(Pause())

    def say(self, job_id: str, command: Lend | TakeBack) -> None:
        """Tells the job's worker, if it is attached here."""
        if session := self._sessions.get(job_id):
            session.sending.put_nowait(command)

    async def settled(self, job_id: str, timeout_seconds: float) -> None:
        """Returns once the job has no attached worker, so that all it said is stored, or after the timeout."""
        if session := self._sessions.get(job_id):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await session.closed.wait()

    async def attach(self, job_id: str, token: str, messages: AsyncIterator[Message]) -> AsyncGenerator[Command, None]:
        """Serves a stream: the assignment, acknowledgements and commands, until the worker's last word is stored.

        Raises NotFound: no such job; PermissionDenied: not this job's token; FailedPrecondition: it no longer runs, so
        the worker shall end; InvalidArgument: a report number is missing; Unavailable: attach again.
        """
        job = await self._store.get(job_id)
        if not token or job.token != token:
            raise PermissionDenied(f"this is not the token of training job {job_id}", reason="WRONG_TOKEN")
        _require_training(job)
        checkpoints = tuple(reversed(await self._retention.kept(job)))
        session = _Session(job)
        if before := self._sessions.get(job_id):
            # The worker's earlier stream has broken without our noticing: the newer one is the living one.
            before.sending.put_nowait(Unavailable("the worker has attached again", reason="ATTACHED_AGAIN"))
        self._sessions[job_id] = session
        tasks = [asyncio.create_task(each) for each in (self._receive(session, messages), self._commit(session))]
        try:
            yield Assignment(job, checkpoints, self.listener.device_of(job) if self.listener else "")
            if self.listener:
                self.listener.attached(job)
            if job.cancel_requested_at is not None:
                session.tell(Cancel())
            elif job.pause_requested_at is not None:
                session.tell(Pause())
            while (item := await session.sending.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            session.closed.set()
            if self._sessions.get(job_id) is session:
                del self._sessions[job_id]
                if self.listener:
                    self.listener.left(job_id)

    async def _receive(self, session: _Session, messages: AsyncIterator[Message]) -> None:
        expected = session.last + 1
        try:
            async for message in messages:
                if isinstance(message, Heartbeat):
                    await self._renew(session)
                    continue
                if message.number > expected:
                    rule = f"must be {expected}, the next one, not {message.number}"
                    raise InvalidArgument(rule, field="report.number")
                if message.number < expected:
                    session.sending.put_nowait(Ack(session.last))
                    continue
                expected += 1
                await session.received.put(message)
            await session.received.put(None)
        except Exception as error:
            session.sending.put_nowait(error)

    async def _commit(self, session: _Session) -> None:
        last_commit = 0.0
        try:
            while (first := await session.received.get()) is not None:
                batch, ended = [first], False
                if not isinstance(first.report, domain.LAST_WORDS):
                    await asyncio.sleep(last_commit + BATCH_SECONDS - time.monotonic())
                while not session.received.empty() and len(batch) < MAX_BATCH and not ended:
                    following = session.received.get_nowait()
                    ended = following is None
                    batch += [following] if following else []
                last_commit = time.monotonic()
                if await self._store_batch(session, batch) or ended:
                    break
            session.sending.put_nowait(None)
        except Exception as error:
            session.sending.put_nowait(error)

    async def _store_batch(self, session: _Session, batch: list[Numbered]) -> bool:
        """True when the worker has had its last word."""
        reports = [each.report for each in batch]
        words = [index for index, report in enumerate(reports) if isinstance(report, domain.LAST_WORDS)]
        if words:
            reports = reports[: words[0] + 1]
            if self.before_last_word:
                await self.before_last_word(session.job_id)
        stored = await self._store.append_reports(
            session.job_id, session.token, first=batch[0].number, reports=reports, lease_seconds=self._lease_seconds
        )
        if stored is None:
            _require_training(await self._store.get(session.job_id), session.token)
            raise Unavailable("another stream of this worker has gone on; attach again", reason="ATTACHED_AGAIN")
        session.last, session.renewed = stored.job.last_report, time.monotonic()
        session.sending.put_nowait(Ack(session.last))
        self._publish(stored)
        if self.listener:
            self.listener.heard(session.job_id, reports)
        if stored.job.stage is Stage.REGISTERING:
            self._on_trained(stored.job)
        if any(isinstance(report, domain.Checkpoint) for report in reports):
            await self._retention.sweep(stored.job)
        return bool(words)

    async def _renew(self, session: _Session) -> None:
        if time.monotonic() - session.renewed < self._lease_seconds / 6:
            return
        if not await self._store.renew(session.job_id, session.token, lease_seconds=self._lease_seconds):
            _require_training(await self._store.get(session.job_id), session.token)
        session.renewed = time.monotonic()


def _require_training(job: Job, token: str | None = None) -> None:
    """Raises FailedPrecondition unless the job is in training, by this attempt."""
    if job.status is not JobStatus.RUNNING or job.stage is not Stage.TRAINING or token not in (None, job.token):
        message = f"training job {job.id} no longer runs here: it is {job.stage.value or job.status.value}"
        raise FailedPrecondition(message, reason="JOB_NOT_RUNNING")
