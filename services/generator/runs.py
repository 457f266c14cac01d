"""A generation that is under way: what its watchers see, and how it ends."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.common.errors import AtelierError
from services.generator.domain import Done, Drawing, Event, Generation, Heartbeat, Pictured, Plan, Previewed, Stepped

# A watcher that lags behind by so many events misses steps and previews; pictures and the end are never dropped.
LAG_LIMIT = 1000


@dataclass(eq=False)
class Run:
    """One generation's way from acceptance to its end."""

    generation: Generation
    preview_interval: int | None
    plan: Plan | None = None  # None until the Catalog has been asked again after a restart
    drawing: Drawing | None = None
    cancelled: bool = False
    principal: str = ""
    keep_drawing: bool = False  # also when nobody watches any more
    last: Event | None = None  # what a new watcher hears first
    pictures: list[Pictured] = field(default_factory=list)
    outcome: Generation | AtelierError | None = None
    _watchers: "set[asyncio.Queue[Event | None]]" = field(default_factory=set)

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
            if watcher.qsize() < LAG_LIMIT or not isinstance(event, Stepped | Previewed):
                watcher.put_nowait(event)

    @property
    def is_left(self) -> bool:
        """Under way, and nobody watches or has asked that it goes on."""
        return self.outcome is None and not self._watchers and not self.keep_drawing

    def finish(self, outcome: Generation | AtelierError) -> None:
        """Ends every watcher's stream, the first time it is called."""
        if self.outcome is None:
            self.outcome = outcome
            for watcher in self._watchers:
                watcher.put_nowait(None)

    async def watch(self, heartbeat_seconds: float) -> AsyncGenerator[Event]:
        """Where it stands, then what happens, ending with Done; raises what it failed of, or Cancelled."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        for event in (*([self.last] if self.last else []), *self.pictures):
            queue.put_nowait(event)
        if self.outcome is not None:
            queue.put_nowait(None)
        self._watchers.add(queue)
        try:
            while True:
                try:
                    # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with an event.
                    async with asyncio.timeout(heartbeat_seconds):
                        event_or_end = await queue.get()
                except TimeoutError:
                    yield Heartbeat()
                    continue
                if event_or_end is None:
                    break
                yield event_or_end
        finally:
            self._watchers.discard(queue)
        if isinstance(self.outcome, Generation):
            yield Done(self.outcome)
        elif self.outcome is not None:
            raise self.outcome
