"""A generation that is under way: what its watchers see, and how it ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from services.common.errors import AtelierError
from services.generator.domain import Done, Drawing, Event, Generation, Heartbeat, Pictured, Previewed, Stepped

# A watcher that lags behind by so many events misses steps and previews; pictures and the end are never dropped.
LAG_LIMIT = 1000


@dataclass(eq=False)
class Run:
    """One generation's way from acceptance to its end. `deserted` is called when its last watcher has left."""

    generation: Generation
    preview_interval: int | None
    keeps_drawing: bool = False
    deserted: "Callable[[Run], None]" = lambda _: None
    drawing: Drawing | None = None
    cancelled: bool = False
    last: Event | None = None  # what a new watcher hears first
    pictures: list[Pictured] = field(default_factory=list)
    outcome: Generation | AtelierError | None = None
    _watchers: "set[Watcher]" = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.generation.id

    def tell(self, event: Event) -> None:
        """Hands an event to everybody who watches."""
        if self.outcome is not None:
            return
        if isinstance(event, Pictured):
            self.pictures.append(event)
        elif not isinstance(event, Previewed):
            self.last = event
        for watcher in self._watchers:
            watcher.hear(event)

    def finish(self, outcome: Generation | AtelierError) -> None:
        """Ends every watcher's stream, the first time it is called."""
        if self.outcome is None:
            self.outcome = outcome
            for watcher in self._watchers:
                watcher.hear(None)

    def join(self) -> "Watcher":
        """A watcher, who is there from now on."""
        watcher = Watcher(self)
        for event in (*([self.last] if self.last else []), *self.pictures):
            watcher.hear(event)
        if self.outcome is not None:
            watcher.hear(None)
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: "Watcher") -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)
            if not self._watchers and self.outcome is None:
                self.deserted(self)


class Watcher:
    """Somebody who watches a run, until `events` ends or is left, or `leave`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    @property
    def id(self) -> str:
        """The generation's."""
        return self._run.id

    def hear(self, event: Event | None) -> None:
        if self._events.qsize() < LAG_LIMIT or not isinstance(event, Stepped | Previewed):
            self._events.put_nowait(event)

    def leave(self) -> None:
        self._run.leave(self)

    async def events(self, heartbeat_seconds: float) -> AsyncGenerator[Event]:
        """Where the run stands, then what happens, ending with Done; raises what it failed of, or Cancelled."""
        try:
            while True:
                try:
                    # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with an event.
                    async with asyncio.timeout(heartbeat_seconds):
                        event = await self._events.get()
                except TimeoutError:
                    yield Heartbeat()
                    continue
                if event is None:
                    break
                yield event
        finally:
            self.leave()
        outcome = self._run.outcome
        if isinstance(outcome, Generation):
            yield Done(outcome)
        elif outcome is not None:
            raise outcome
