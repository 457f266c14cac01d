"""Devices lent to who draws: jobs that share theirs stand still for it, and go on when the last borrower has left.

What is known here is of this replica and of the workers that are attached to it; it need not outlive the Trainer, since
the borrowers' streams do not either.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from services.common.errors import Unavailable
from services.trainer.domain import Device, Job, Lent, Loading, LoadingStage, Progress, Report
from services.trainer.workers import Lend, TakeBack, Workers

UNHEARING = (LoadingStage.STARTING_WORKER, LoadingStage.LOADING_MODEL, LoadingStage.SAVING)
"""Stages in which a worker cannot stand still, and has little to do on its device; it does when they are over."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that are still at a step."""

    num_jobs: int


@dataclass(frozen=True, slots=True)
class Granted:
    num_jobs: int
    """That stand still."""
    num_unwilling: int
    """That train on the device and do not share it."""
    waited_millis: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    pass


Answer: TypeAlias = Waiting | Granted | Heartbeat


@dataclass(eq=False, slots=True)
class _Loan:
    device: str
    make_room: bool


@dataclass(slots=True)
class _Attached:
    """A job's worker."""

    job: Job
    told: Lend | TakeBack | None = None
    lent: Lent | None = None
    """What it has answered; None while it works."""
    hears: bool = True

    def holds_up(self, loan: _Loan) -> bool:
        if not self.job.config.share_device or not self.hears:
            return False
        return self.lent is None or (loan.make_room and not self.lent.made_room)


class Lending:
    """Lends the devices of `machine`. `gpu_of` knows the GPU that a worker was given, by its token (empty: none), and
    `gpus` the drivers' names of all, by what CUDA_VISIBLE_DEVICES calls them."""

    def __init__(
        self,
        workers: Workers,
        *,
        machine: str,
        gpu_of: Callable[[str], str],
        gpus: Callable[[], Awaitable[Mapping[str, str]]],
        heartbeat_seconds: float,
    ) -> None:
        self._workers = workers
        self._machine = machine
        self._gpu_of = gpu_of
        self._gpus = gpus
        self._heartbeat_seconds = heartbeat_seconds
        self._names: Mapping[str, str] = {}
        self._attached: dict[str, _Attached] = {}
        self._loans: list[_Loan] = []
        self._changed = asyncio.Event()
        self._stopping = False
        workers.listener = self

    async def borrow(self, device: str, machine: str, *, make_room: bool) -> AsyncGenerator[Answer, None]:
        """How it stands with a device, until the caller leaves: the device is back then. Room is made in GPUs alone.

        Raises Unavailable when the Trainer stops.
        """
        began = time.monotonic()
        is_gpu = device not in (Device.CPU.value, Device.MPS.value)
        if is_gpu and not self._names:
            self._names = await self._gpus()
        loan = _Loan(device if machine == self._machine else "", make_room and is_gpu)
        self._loans.append(loan)
        try:
            self._instruct_all()
            while waiting := sum(each.holds_up(loan) for each in self._on(loan.device)):
                yield Waiting(waiting)
                await self._change()
            there = self._on(loan.device)
            willing = sum(each.job.config.share_device for each in there)
            yield Granted(willing, len(there) - willing, round((time.monotonic() - began) * 1000))
            while True:
                beat = time.monotonic() + self._heartbeat_seconds
                while time.monotonic() < beat:
                    await self._change()
                yield Heartbeat()
        finally:
            self._loans.remove(loan)
            self._instruct_all()

    def stop(self) -> None:
        """Ends every loan."""
        self._stopping = True
        self._wake()

    # What Workers tells of its streams.

    def attached(self, job: Job) -> None:
        """A worker that has attached, also again, is told how things stand."""
        self._attached[job.id] = _Attached(job, hears=job.last_report > 0)
        self._instruct(self._attached[job.id])

    def heard(self, job_id: str, reports: list[Report]) -> None:
        """What a worker has said, stored by now."""
        if (attached := self._attached.get(job_id)) is None:
            return
        for report in reports:
            match report:
                case Loading(stage=stage):
                    attached.hears = stage not in UNHEARING
                case Lent():
                    attached.lent, attached.hears = (report if report.lent_millis is None else None), True
                case Progress():
                    attached.hears = True
        self._wake()

    def left(self, job_id: str) -> None:
        """A worker whose stream has ended holds nobody up."""
        self._attached.pop(job_id, None)
        self._wake()

    def device_of(self, job: Job) -> str:
        """The name of the device that a running job has, as its borrowers call it."""
        if job.config.device in (Device.CPU, Device.MPS):
            return str(job.config.device.value)
        if gpu := self._gpu_of(job.token):
            return self._names.get(gpu, gpu)
        names = list(self._names.values())
        return names[0] if names else Device.CPU.value

    def _on(self, device: str) -> list[_Attached]:
        return [each for each in self._attached.values() if self.device_of(each.job) == device]

    def _instruct_all(self) -> None:
        for each in self._attached.values():
            self._instruct(each)
        self._wake()

    def _instruct(self, attached: _Attached) -> None:
        job = attached.job
        loans = [loan for loan in self._loans if loan.device == self.device_of(job)]
        wanted = Lend(make_room=any(loan.make_room for loan in loans)) if loans else TakeBack()
        is_more = attached.told == Lend(make_room=True) and wanted == Lend(make_room=False)
        if not job.config.share_device or attached.told == wanted or is_more:
            return
        attached.told = wanted
        if isinstance(wanted, TakeBack):
            attached.lent = None
        self._workers.say(job.id, wanted)

    async def _change(self) -> None:
        """Returns when something has changed, or it is time for a heartbeat."""
        changed = self._changed
        # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with the event.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._heartbeat_seconds):
                await changed.wait()
        if self._stopping:
            raise Unavailable("the Trainer is stopping", reason="STOPPING", retry_after_seconds=1)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
