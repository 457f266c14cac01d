"""The worker's side of the stream to the Trainer: reports up, numbered and kept until acknowledged; commands down.

gRPC runs on threads of its own. Training hands reports over and goes on; it waits only when thousands are
unacknowledged.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from atelier.trainer.v1 import worker_service_pb2 as messages
from atelier.trainer.v1.worker_service_pb2_grpc import WorkerServiceStub

from services.common.clients import CHANNEL_OPTIONS
from services.common.errors import AtelierError, FailedPrecondition, Unavailable
from services.trainer.domain import Report
from services.trainer.worker.assignment import report_to_proto

FINAL = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION)
"""Statuses that say the job is no longer this worker's."""
CLOSING_SECONDS = 5.0
LOOK_SECONDS = 0.2


class Detached(FailedPrecondition):
    """The Trainer says that the job is not, or no longer, this worker's."""

    default_reason = "DETACHED"


class TrainerLost(Unavailable):
    """The Trainer has been out of reach for longer than the worker's patience."""

    default_reason = "TRAINER_LOST"


@dataclass(frozen=True, slots=True)
class Borrowed:
    """The device is asked for; each asking has another number."""

    number: int
    make_room: bool


@dataclass
class Attempt:
    """One stream. `sent` is the number of the last report written to it; None until the Trainer has assigned the
    job."""

    sent: int | None = None
    over: bool = False
    heard: bool = field(default=False)


class TrainerLink:
    """Attaches for one job, and attaches again when the stream is cut.

    A Trainer that restarts is tried again after `backoff_seconds`, doubling up to 5 s, for `patience_seconds`.
    """

    def __init__(
        self,
        address: str,
        *,
        job_id: str,
        token: str,
        patience_seconds: float = 600.0,
        heartbeat_seconds: float = 5.0,
        backoff_seconds: float = 0.2,
        capacity: int = 10_000,
    ) -> None:
        self._address = address
        self._hello = messages.AttachRequest(hello=messages.WorkerHello(job_id=job_id, token=token))
        self._patience = patience_seconds
        self._heartbeat = heartbeat_seconds
        self._backoff = backoff_seconds
        self._capacity = capacity
        self._changed = threading.Condition()
        self._unacknowledged: dict[int, messages.WorkerReport] = {}
        self._acknowledged = 0
        self._last_number: int | None = None  # of the last report made; None before the first assignment
        self._assignment: messages.JobAssignment | None = None
        self._failure: AtelierError | None = None
        self._closing = False
        self._cancelled = threading.Event()
        self._paused = threading.Event()
        self._borrowed: Borrowed | None = None
        self._askings = 0
        self._thread = threading.Thread(target=self._serve, name="trainer-link", daemon=True)

    def attach(self) -> messages.JobAssignment:
        """Says hello and waits for the assignment. Raises Detached or TrainerLost."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._assignment is not None or self._failure is not None)
            if self._assignment is None:
                assert self._failure is not None
                raise self._failure
            return self._assignment

    @property
    def cancelled(self) -> bool:
        """True once the Trainer has told the worker to stop."""
        return self._cancelled.is_set()

    @property
    def pausing(self) -> bool:
        """True once the worker shall stop behind a checkpoint: the Trainer said so, or `pause` was called."""
        return self._paused.is_set()

    def pause(self) -> None:
        """As if the Trainer had said it; safe in a signal handler."""
        self._paused.set()

    @property
    def borrowed(self) -> Borrowed | None:
        """Set while the worker shall keep off its device."""
        return self._borrowed

    def await_change(self, known: Borrowed) -> Borrowed | None:
        """Blocks while `known` is how things stand. Gives the next asking, or None once the worker shall go on with its
        work, to a pause or to its end."""

        def changed() -> bool:
            return self._borrowed != known or self.cancelled or self.pausing or self._failure is not None

        with self._changed:
            while not changed():
                self._changed.wait(LOOK_SECONDS)  # a signal handler that calls `pause` can wake nobody
            return None if self.cancelled or self.pausing or self._failure else self._borrowed

    def report(self, report: Report) -> None:
        """Hands a report over; blocks only while the buffer is full and the job goes on. Raises Detached or TrainerLost
        when nobody will ever hear it."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._unacknowledged) < self._capacity or self._failure is not None or self.cancelled
            )
            if self._failure is not None:
                raise self._failure
            assert self._last_number is not None, "attach first"
            self._last_number += 1
            self._unacknowledged[self._last_number] = report_to_proto(report, self._last_number)
            self._changed.notify_all()

    def close(self) -> None:
        """Waits until every report is acknowledged, then leaves. Raises Detached or TrainerLost when some never will
        be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unacknowledged or self._failure is not None)
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)
        if self._unacknowledged and self._failure is not None:
            raise self._failure

    # On the link's own threads from here.

    def _serve(self) -> None:
        last_heard, backoff = time.monotonic(), self._backoff
        while not self._closing:
            attempt = Attempt()
            try:
                self._attach_once(attempt)
                reason = "the stream ended"
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                reason = f"{code.name}: {error.details()}"
                if code in FINAL:
                    self._fail(Detached(f"the Trainer refuses this worker: {error.details()}"))
                    return
            finally:
                with self._changed:
                    attempt.over = True
                    if not attempt.heard:
                        self._borrowed = None  # nobody borrows through a Trainer that is away
                    self._changed.notify_all()
            if attempt.heard:
                last_heard, backoff = time.monotonic(), self._backoff
            elif time.monotonic() - last_heard > self._patience:
                self._fail(TrainerLost(f"the Trainer did not answer for {self._patience:.0f} s: {reason}"))
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=backoff)
            backoff = min(2 * backoff, 5.0)

    def _fail(self, failure: AtelierError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _attach_once(self, attempt: Attempt) -> None:
        # A channel of its own: a used one would wait out its own, longer back-off.
        options = [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            for response in WorkerServiceStub(channel).Attach(self._outgoing(attempt)):
                with self._changed:
                    self._take(response, attempt)
                    self._changed.notify_all()

    def _take(self, response: messages.AttachResponse, attempt: Attempt) -> None:
        match response.WhichOneof("command"):
            case "assignment":
                self._acknowledge(response.assignment.last_report)
                if self._last_number is None:
                    self._last_number = response.assignment.last_report
                    self._assignment = response.assignment
                attempt.sent = self._acknowledged
                attempt.heard = True
            case "ack":
                self._acknowledge(response.ack.number)
            case "cancel":
                self._cancelled.set()
            case "pause":
                self._paused.set()
            case "lend":
                self._askings += 1
                self._borrowed = Borrowed(self._askings, response.lend.make_room)
            case "take_back":
                self._borrowed = None

    def _acknowledge(self, number: int) -> None:
        """Forgets the reports up to `number`: they are stored."""
        while self._acknowledged < number:
            self._acknowledged += 1
            self._unacknowledged.pop(self._acknowledged, None)

    def _outgoing(self, attempt: Attempt) -> Iterator[messages.AttachRequest]:
        """What is written to one stream: hello, then after the assignment every report that is not acknowledged, in
        order, and a heartbeat whenever nothing else was said for a while."""
        yield self._hello
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: attempt.over or self._closing or self._next(attempt) is not None, timeout=self._heartbeat
                )
                report = self._next(attempt)
                if attempt.over or (self._closing and report is None):
                    return
                if report is not None:
                    attempt.sent = report.number
            if report is not None:
                yield messages.AttachRequest(report=report)
            elif attempt.sent is not None:
                yield messages.AttachRequest(heartbeat=messages.WorkerHeartbeat())

    def _next(self, attempt: Attempt) -> messages.WorkerReport | None:
        return None if attempt.sent is None else self._unacknowledged.get(attempt.sent + 1)
