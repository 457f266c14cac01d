"""Registers what a job has trained with the Catalog, once, whatever crashes in between.

The trained weights are in the job's row before this begins, the Catalog makes one model a job, and the job completes in
one UPDATE: so each step can be done again, by this Trainer or the next.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from services.common.errors import AtelierError, Unavailable
from services.common.telemetry import Logger
from services.trainer import domain
from services.trainer.domain import Appended, Job
from services.trainer.metrics import samples_of
from services.trainer.retention import Retention
from services.trainer.store import Store

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0


class ModelRegistry(Protocol):
    """Where models are registered: the Catalog."""

    async def register(self, job: Job, trained: domain.Trained, samples: Sequence[domain.Sample]) -> domain.Done: ...


class Registrar:
    """The registrations under way in this process."""

    def __init__(
        self,
        store: Store,
        registry: ModelRegistry,
        retention: Retention,
        *,
        publish: Callable[[Appended], None],
        lease_seconds: float,
        give_up_seconds: float,
        log: Logger,
    ) -> None:
        self._store = store
        self._registry = registry
        self._retention = retention
        self._publish = publish
        self._lease_seconds = lease_seconds
        self._give_up_seconds = give_up_seconds
        self._log = log
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, job: Job) -> None:
        """Begins, unless it is under way already."""
        if job.id not in self._tasks:
            task = asyncio.create_task(self._run(job), name=f"register {job.id}")
            self._tasks[job.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    async def stop(self) -> None:
        """Leaves what is under way to the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        try:
            await self._register(job)
        except Exception as error:
            self._log.error("registration broke off; it is tried again", job_id=job.id, exc_info=error)

    async def _register(self, job: Job) -> None:
        assert job.trained is not None, "a job is registered once it has trained"
        deadline, wait = time.monotonic() + self._give_up_seconds, FIRST_WAIT_SECONDS
        while True:
            try:
                if not await self._store.renew(job.id, job.token, lease_seconds=self._lease_seconds):
                    return  # another replica has taken it over, or it is done
                drawn = samples_of(await self._store.journal.samples(job.id), job.trained.step)
                done = await self._registry.register(job, job.trained, drawn)
                if completed := await self._store.complete(job.id, done):
                    self._publish(completed)
                    await self._retention.let_go(job)
                return
            except Unavailable as error:
                if time.monotonic() + wait > deadline:
                    await self._fail(job, error)
                    return
                self._log.warning("the model is not registered yet", job_id=job.id, error=error.message)
            except AtelierError as error:
                await self._fail(job, error)
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _fail(self, job: Job, error: AtelierError) -> None:
        message = f"the model was trained but could not be registered: {error.message} (its weights are kept)"
        failed = await self._store.fail_registration(job.id, domain.Failure("REGISTRATION_FAILED", message))
        if failed:
            self._publish(failed)
