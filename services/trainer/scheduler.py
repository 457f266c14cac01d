"""Gives queued jobs to workers, first come first served, and notices when a worker is gone.

Truth is in the store: a job is run by whoever's token is in its row, until its lease is over. What is here in memory,
the processes of this replica, is found again after a restart.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from services.common.errors import Unavailable
from services.common.telemetry import Logger
from services.trainer import domain
from services.trainer.domain import Appended, Failure, Job, Stage
from services.trainer.registration import Registrar
from services.trainer.store import Store
from services.trainer.workers import Workers

FOLLOW_SECONDS = 0.2
"""How often a worker's output and its life are looked at."""
MAX_OUTPUT_LINES = 2000
"""Printed lines that become events; of what follows the last ones are kept, for a worker that is lost."""
TAIL_LINES = 50
SETTLE_SECONDS = 5.0
"""How long what a dead worker sent is still waited for."""


class Worker(Protocol):
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def read_output(self, offset: int, *, ended: bool) -> tuple[list[str], int]: ...


class Executor(Protocol):
    async def start(self, job_id: str, token: str) -> Worker: ...
    async def adopt(self, job_id: str, token: str) -> Worker | None: ...
    async def clean(self, job_id: str, token: str) -> None: ...


@dataclass(slots=True)
class _Attempt:
    """A worker of this replica."""

    job_id: str
    token: str
    worker: Worker
    offset: int = 0
    lines: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    last_line: str = ""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None


class Scheduler:
    """Runs at most `max_running` workers on `executor` for the replica named `owner`."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        workers: Workers,
        registrar: Registrar,
        *,
        publish: Callable[[Appended], None],
        owner: str,
        max_running: int,
        lease_seconds: float,
        poll_seconds: float,
        cancel_grace_seconds: float,
        log: Logger,
    ) -> None:
        self._store = store
        self._executor = executor
        self._workers = workers
        self._registrar = registrar
        self._publish = publish
        self._owner = owner
        self._max_running = max_running
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._cancel_grace_seconds = cancel_grace_seconds
        self._log = log
        self._attempts: dict[str, _Attempt] = {}
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        workers.before_last_word = self.flush

    def allow(self, max_running: int) -> None:
        """So many workers may run at once from now on."""
        self._max_running = max_running
        self.wake()

    @property
    def max_running(self) -> int:
        return self._max_running

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="scheduler")

    def wake(self) -> None:
        """Something has changed in this process: look at once and not at the next poll."""
        self._awake.set()

    async def flush(self, job_id: str) -> None:
        """Stores what the job's worker has printed so far: once the job has ended, nothing is added to its events."""
        if attempt := self._attempts.get(job_id):
            await self._stored(self._read(attempt, ended=False))

    async def stop(self, grace_seconds: float) -> None:
        """Stops the workers, within `grace_seconds`, and puts their jobs back into the queue."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.worker.terminate()
        deadline = time.monotonic() + grace_seconds
        # An adopted process can only be asked, so all are.
        while time.monotonic() < deadline and any(attempt.worker.poll() is None for attempt in attempts):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for attempt in attempts:
            attempt.worker.kill()
        await asyncio.gather(*(attempt.task for attempt in attempts if attempt.task))

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            try:
                await self._look()
            except Unavailable as error:
                self._log.warning("the queue is out of reach", error=error.message)
            except Exception as error:  # one bad job must not stop the queue
                self._log.error("the scheduler met an error; it goes on", exc_info=error)
            # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._awake.wait()

    async def _look(self) -> None:
        training = 0
        for job in await self._store.running(self._owner):
            if job.stage is Stage.REGISTERING:
                self._registrar.start(job)
                continue
            training += 1
            if job.id not in self._attempts:
                await self._adopt(job)
            if job.cancel_requested_at is None and job.pause_requested_at is not None:
                self._workers.pause(job.id)
            if job.cancel_requested_at is not None:
                await self._press(job, (datetime.now(UTC) - job.cancel_requested_at).total_seconds())
        for job in await self._store.expired():
            await self._take_over(job)
        # A worker that has had its last word holds its GPU until it has ended.
        while max(training, len(self._attempts)) < self._max_running:
            token = secrets.token_urlsafe(32)
            claimed = await self._store.claim(owner=self._owner, token=token, lease_seconds=self._lease_seconds)
            if claimed is None:
                break
            training += 1
            self._publish(claimed)
            await self._launch(claimed.job)
        for moved in await self._store.renumber_queue():
            self._publish(moved)

    async def _launch(self, job: Job) -> None:
        try:
            worker = await self._executor.start(job.id, job.token)
        except OSError as error:
            failure = Failure("WORKER_NOT_STARTED", f"the worker could not be started: {error}")
            self._tell(await self._store.end_attempt(job.id, job.token, failure))
            return
        self._follow(_Attempt(job.id, job.token, worker))

    async def _adopt(self, job: Job) -> None:
        """Finds the worker of a job that an earlier Trainer of this name started; without a trace its lease decides."""
        worker = await self._executor.adopt(job.id, job.token)
        if worker is not None:
            self._log.info("a worker is found again", job_id=job.id, alive=worker.poll() is None)
            self._follow(_Attempt(job.id, job.token, worker, offset=job.log_offset))

    async def _press(self, job: Job, waited_seconds: float) -> None:
        """Tells a worker to stop, and stops it when it does not."""
        self._workers.cancel(job.id)
        if waited_seconds < self._cancel_grace_seconds:
            return
        if attempt := self._attempts.get(job.id):
            attempt.worker.kill()
        else:
            failure = Failure("WORKER_LOST", "the worker did not stop in time")
            self._tell(await self._store.end_attempt(job.id, job.token, failure))

    async def _take_over(self, job: Job) -> None:
        """Ends the attempt of a worker that is silent, or goes on with a registration that is."""
        if job.stage is Stage.REGISTERING:
            taken = await self._store.take_registration(
                job.id, job.token, owner=self._owner, lease_seconds=self._lease_seconds
            )
            if taken:
                self._registrar.start(taken)
            return
        failure = Failure("WORKER_LOST", f"the worker has said nothing for {self._lease_seconds:g} s")
        ended = await self._store.end_attempt(job.id, job.token, failure, expired=True)
        self._tell(ended)
        if ended and (attempt := self._attempts.get(job.id)):
            attempt.worker.kill()

    def _follow(self, attempt: _Attempt) -> None:
        self._attempts[attempt.job_id] = attempt
        attempt.task = asyncio.create_task(self._attend(attempt), name=f"worker of {attempt.job_id}")

    async def _attend(self, attempt: _Attempt) -> None:
        """Stores what a worker prints while it lives, and ends its attempt if it dies without a last word."""
        while (code := attempt.worker.poll()) is None:
            await self._stored(self._read(attempt, ended=False))
            await asyncio.sleep(FOLLOW_SECONDS)
        await self._workers.settled(attempt.job_id, SETTLE_SECONDS)
        while not await self._stored(self._end(attempt, code)) and not self._stopping:  # noqa: ASYNC110  # the database
            await asyncio.sleep(self._poll_seconds)
        await self._executor.clean(attempt.job_id, attempt.token)
        if self._attempts.get(attempt.job_id) is attempt:
            del self._attempts[attempt.job_id]
        self.wake()

    async def _stored(self, work: Awaitable[None]) -> bool:
        """Awaits `work`; False when it could not be stored just now."""
        try:
            await work
        except Exception as error:
            self._log.error("a worker's end or output is not stored yet", exc_info=error)
            return False
        return True

    async def _read(self, attempt: _Attempt, *, ended: bool) -> None:
        async with attempt.reading:
            await self._read_on(attempt, ended=ended)

    async def _read_on(self, attempt: _Attempt, *, ended: bool) -> None:
        while True:
            lines, offset = await asyncio.to_thread(attempt.worker.read_output, attempt.offset, ended=ended)
            if offset == attempt.offset:
                return
            attempt.last_line = lines[-1] if lines else attempt.last_line
            room = max(0, MAX_OUTPUT_LINES - attempt.lines)
            if lines[:room]:
                logs = [domain.Log(domain.LogLevel.INFO, line) for line in lines[:room]]
                self._tell(await self._store.append_output(attempt.job_id, attempt.token, logs, offset))
            attempt.lines += len(lines)
            attempt.tail.extend(lines[room:])
            attempt.offset = offset

    async def _end(self, attempt: _Attempt, code: int) -> None:
        await self._read(attempt, ended=True)
        if self._stopping and (requeued := await self._store.requeue(attempt.job_id, attempt.token)):
            self._tell(requeued)
            return
        message = f"the worker {how_it_ended(code)} before the job was done"
        message += f": {attempt.last_line}" if attempt.last_line else ""
        tail = [domain.Log(domain.LogLevel.INFO, line) for line in attempt.tail]
        self._tell(await self._store.end_attempt(attempt.job_id, attempt.token, Failure("WORKER_LOST", message), tail))

    def _tell(self, appended: Appended | None) -> None:
        if appended is not None:
            self._publish(appended)


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code}" if code < -1 else "has ended"
