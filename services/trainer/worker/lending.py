"""A device lent between two steps: training stands still and remembers for how long."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Protocol

from services.trainer.domain import LAST_WORDS, Lent, Progress, Report
from services.trainer.worker.attach import Borrowed


class Link(Protocol):
    """Who says that the device is asked for; see TrainerLink."""

    @property
    def borrowed(self) -> Borrowed | None: ...
    def await_change(self, known: Borrowed) -> Borrowed | None: ...


class TrainingClock:
    """Seconds that pass while training has its device. `lent_millis` counts the others, those of earlier attempts
    included."""

    def __init__(self, lent_before: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lent_before = lent_before
        self._lent = 0.0

    def __call__(self) -> float:
        return self._clock() - self._lent

    @property
    def lent_millis(self) -> int:
        return self._lent_before + round(self._lent * 1000)

    def stand_still(self, since: float) -> int:
        """Leaves out what has passed since the clock showed `since`; gives it in milliseconds."""
        seconds = self() - since
        self._lent += seconds
        return round(seconds * 1000)


def lending(
    reports: Iterator[Report | None],
    link: Link,
    clock: TrainingClock,
    *,
    settle: Callable[[], None] = lambda: None,
    room: Callable[[], AbstractContextManager[None]] | None = None,
) -> Iterator[Report | None]:
    """The reports of a job, which is not asked for its next one while its device is borrowed: nothing happens then.

    `settle` waits for what the device still has to do. Inside `room()` the device's memory is free of training; None
    where there is nothing to be gained. A worker that shall pause or end is held no longer.
    """
    for report in reports:
        yield replace(report, lent_millis=clock.lent_millis) if isinstance(report, Progress) else report
        if not isinstance(report, LAST_WORDS) and (borrowed := link.borrowed) is not None:
            yield from _lend(borrowed, link, clock, settle, room)


def _lend(
    first: Borrowed,
    link: Link,
    clock: TrainingClock,
    settle: Callable[[], None],
    room: Callable[[], AbstractContextManager[None]] | None,
) -> Iterator[Report]:
    since, made_room = clock(), False
    borrowed: Borrowed | None = first
    settle()
    with ExitStack() as stack:
        while borrowed is not None:
            if borrowed.make_room and room is not None and not made_room:
                stack.enter_context(room())
                made_room = True
            yield Lent(made_room=made_room)  # for every asking: who asks again may know nothing of the last answer
            borrowed = link.await_change(borrowed)
    yield Lent(clock.stand_still(since), made_room)
