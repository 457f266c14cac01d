"""The device, borrowed from the Trainer whose jobs may be training on it.

Nobody is kept from drawing by a Trainer that is away, too old or slow: it is asked, waited for a while, and then the
device is used as it is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from atelier.trainer.v1 import device_service_pb2 as pb
from atelier.trainer.v1.device_service_pb2_grpc import DeviceServiceStub

from services.common.machine import machine_name
from services.common.telemetry import Logger

ANSWER_SECONDS = 2.0
"""For the Trainer's first word."""
PATIENCE_SECONDS = 30.0
"""For jobs to end their step."""


@dataclass(eq=False)
class _Loan:
    """A stream to the Trainer; the device is lent for as long as it lasts."""

    wants_room: bool
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It is granted, or it never will be."""
    num_jobs: int = 0
    """That stand still for it."""
    task: asyncio.Task[None] | None = None


class Borrower:
    """Borrows `device_name` over `channel`; without one, always draws at once. Used by one drawing at a time."""

    def __init__(
        self,
        channel: grpc.aio.Channel | None,
        *,
        device_name: str,
        log: Logger,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._stub = DeviceServiceStub(channel) if channel is not None else None
        self._device_name = device_name
        self._log = log
        self._answer_seconds = answer_seconds
        self._patience_seconds = patience_seconds
        self._loans: list[_Loan] = []

    @property
    def has_room(self) -> bool:
        """True while training is out of the device's memory, so that it must find its room again afterwards."""
        return any(loan.wants_room and loan.num_jobs for loan in self._loans)

    async def borrow(self, *, memory_bytes: int, waiting: Callable[[int], None]) -> None:
        """Returns when the device is free, or when that has been waited for long enough. `memory_bytes`: what will be
        allocated over what is free. `waiting` is told how many jobs are still at a step."""
        suffices = [loan for loan in self._loans if loan.wants_room or not memory_bytes]
        if self._stub is None or any(loan.task and not loan.task.done() for loan in suffices):
            return
        request = pb.BorrowDeviceRequest(
            device_name=self._device_name, host=machine_name(), memory_bytes=max(0, memory_bytes)
        )
        loan = _Loan(wants_room=memory_bytes > 0)
        loan.task = asyncio.create_task(self._listen(loan, self._stub.BorrowDevice(request), waiting), name="loan")
        self._loans.append(loan)
        for event, seconds in ((loan.answered, self._answer_seconds), (loan.settled, self._patience_seconds)):
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                self._log.warning("training has not stepped aside in time: drawing beside it", seconds=seconds)
                return

    async def give_back(self) -> None:
        """Training goes on."""
        loans, self._loans = self._loans, []
        tasks = [loan.task for loan in loans if loan.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(
        self,
        loan: _Loan,
        call: grpc.aio.UnaryStreamCall[pb.BorrowDeviceRequest, pb.BorrowDeviceResponse],
        waiting: Callable[[int], None],
    ) -> None:
        try:
            async for answer in call:
                loan.answered.set()
                match answer.WhichOneof("answer"):
                    case "waiting":
                        waiting(answer.waiting.num_jobs)
                    case "granted":
                        granted = answer.granted
                        loan.num_jobs = granted.num_jobs
                        if granted.num_jobs or granted.num_unwilling:
                            self._log.info(
                                "the device is borrowed",
                                num_jobs=granted.num_jobs,
                                num_unwilling=granted.num_unwilling,
                                waited_millis=granted.waited_millis,
                            )
                        loan.settled.set()
        except grpc.aio.AioRpcError as error:
            self._log.warning("no device is borrowed: drawing beside what trains", code=error.code().name)
        finally:
            call.cancel()
            loan.answered.set()
            loan.settled.set()
