"""Draws for everyone together, on the one thread that torch runs on.

Each picture is a sample with its own scheduler, timestep, guidance, words, LoRAs and noise. Samples of one base, latent
size and shape of conditioning share passes of the denoiser, whatever their age: one joins at the next pass, and leaves
when its own steps are done. Files are read by other threads meanwhile.
"""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from services.common.errors import Cancelled, ResourceExhausted
from services.diffusion.device import num_threads, use_threads
from services.diffusion.encode import decode_latents
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import display_name
from services.generator.borrowing import Borrower
from services.generator.domain import (
    Drawing,
    Drawn,
    Folders,
    LoadedModel,
    Loading,
    Plan,
    Previewed,
    Progress,
    Queued,
    Shot,
    Stepped,
    Waiting,
)
from services.generator.engine.base import Base, Lora
from services.generator.engine.nets import Net
from services.generator.engine.pace import Pace
from services.generator.engine.pool import Pool, lora_names
from services.generator.engine.recipe import Recipe
from services.generator.engine.turns import choose

FRAMES_AT_ONCE = 8
"""Of a clip that are decoded together."""
IDLE_SECONDS = 1.0
"""How often a thread that waits for files looks by itself."""
ROOM_SECONDS = 5.0
"""For so long others may keep in use the memory that a request's models want; then nobody else begins."""


@dataclass(eq=False)
class _Ticket:
    """A drawing in the engine."""

    drawing: Drawing
    ended: "asyncio.Future[list[str]]"
    shots: deque[Shot]
    left: int  # pictures that are not told yet
    begun: bool = False
    over: bool = False
    started: float = field(default_factory=time.perf_counter)
    warnings: list[str] = field(default_factory=list)
    told_loading: set[int] = field(default_factory=set)
    wants_room_since: float = 0.0


@dataclass(eq=False)
class _Running:
    """A picture under way."""

    ticket: _Ticket
    recipe: Recipe
    sample: Sample
    loras: tuple[str, ...]
    number: int
    behind: int = 0  # passes of its first sample, once that is drawn
    later: int = 0  # passes of its second, until that is begun
    passed_over: int = 0

    @property
    def shot(self) -> Shot:
        return self.recipe.shot

    @property
    def base(self) -> Base:
        return self.recipe.base

    @cached_property
    def lane(self) -> Hashable:
        sample, recipe = self.sample, self.recipe
        alone = self.number if recipe.settings.deterministic else 0
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(sample.said.items()))
        return (id(recipe.base), tuple(sample.latents.shape), shapes, tuple(sorted(recipe.acting.items())), alone)

    @property
    def step(self) -> int:
        return self.behind + self.sample.index

    @property
    def total(self) -> int:
        return self.behind + self.sample.total + self.later

    @property
    def remaining(self) -> int:
        return self.total - self.step

    @property
    def is_new(self) -> bool:
        return not self.step

    def go_on(self, sample: Sample) -> None:
        """With the second sample."""
        self.behind, self.later = self.sample.total, 0
        self.sample = sample
        del self.lane

    @property
    def rows(self) -> int:
        return self.sample.rows

    @property
    def principal(self) -> str:
        return self.ticket.drawing.principal


class Engine:
    """Passes hold at most `max_batch` samples, and `max_active` are under way; the rest wait in fair turns of those who
    asked. The device is borrowed for as long as there is something to draw. Pictures of more than `tile_above` pixels
    are decoded in tiles; 0: none."""

    def __init__(self, pool: Pool, borrower: Borrower, *, max_batch: int, max_active: int, tile_above: int = 0) -> None:
        self._pool = pool
        self._borrower = borrower
        self._borrowing = asyncio.Lock()
        self._waits_for = 0  # jobs that are still at a step
        self._max_batch = max_batch
        self._max_active = max_active
        self._tile_above = tile_above
        self._loop = asyncio.get_running_loop()
        self._tickets: OrderedDict[str, _Ticket] = OrderedDict()  # on the event loop

        self._changed = threading.Condition()
        self._arrived: deque[_Ticket] = deque()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = self._woken = False
        # What follows is the thread's alone.
        self._queue: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        self._running: list[_Running] = []
        self._paces: dict[Hashable, Pace] = {}
        self._limits: dict[Hashable, int] = {}
        self._number = 0
        self._thread = threading.Thread(target=self._run, args=(num_threads(),), name="torch", daemon=True)
        self._thread.start()

    async def draw(self, drawing: Drawing) -> list[str]:
        """Ends when the last picture has been told, and gives warnings.

        Raises Cancelled within a denoising step of `drawing.cancelled` being set; what loading raises; InvalidArgument
        where a sampler cannot draw this; ResourceExhausted when the device's memory does not suffice.
        """
        ended: asyncio.Future[list[str]] = self._loop.create_future()
        ticket = _Ticket(drawing, ended, deque(drawing.shots), len(drawing.shots))
        self._tickets[drawing.id] = ticket
        self._tell_positions(ticket)
        if self._waits_for:
            drawing.tell(Waiting(self._waits_for))
        try:
            if not drawing.cancelled.is_set():
                await self._borrow(ticket)
            with self._changed:
                self._arrived.append(ticket)
                self._changed.notify()
            return await ended
        finally:
            drawing.cancelled.set()  # whoever waits no more wants no more
            self._wake()
            self._leave(drawing.id)
            if not self._tickets:
                await self._give_back()

    def cancel(self, id: str) -> None:
        """Takes a drawing out of the others' way: one that waits at once, one that is drawn within a step."""
        if (ticket := self._tickets.get(id)) is not None:
            ticket.drawing.cancelled.set()
            if not ticket.begun:
                self._leave(id)
            self._wake()

    def retry_after_seconds(self) -> float:
        """When somebody whose queue is full may try again: when about one request of these has been drawn."""
        paces = [pace.seconds(2) for pace in self._paces.copy().values()]
        steps = [ticket.drawing.settings.steps for ticket in self._tickets.values()] or [1]
        return min(max(1.0, (max(paces) if paces else 1.0) * sum(steps) / len(steps)), 60.0)

    async def load(self, plan: Plan, folders: Folders) -> None:
        """Brings a plan's models into memory. Raises what loading raises."""
        for _ in range(3600):
            if await self._ask(lambda: self._pool.ready(plan, folders, on_load=lambda _: None, wake=self._wake)):
                return
            await asyncio.sleep(0.1)
        raise ResourceExhausted("models in use leave no room for this one", reason="OUT_OF_MEMORY")

    async def unload(self, model_id: int) -> None:
        """Raises FailedPrecondition while it draws."""
        await self._ask(lambda: self._pool.unload(model_id))

    def loaded(self) -> list[LoadedModel]:
        """What is in memory, latest used first."""
        return self._pool.loaded()

    def close(self) -> None:
        """Ends the thread once it has noticed that all is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._pool.close()

    # On the event loop.

    async def _ask(self, question: Callable[[], Any]) -> Any:
        """What the thread answers."""
        answer: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise Cancelled("the Generator stops")
            self._asked.append((question, answer))
            self._changed.notify()
        return await asyncio.wrap_future(answer)

    async def _borrow(self, ticket: _Ticket) -> None:
        drawing = ticket.drawing
        settings, shot = drawing.settings, drawing.shots[0]
        wanted = settings.num_pixels * min(len(drawing.shots), self._max_batch)
        short = await asyncio.to_thread(self._pool.shortage, shot.plan, shot.folders, pixels=wanted)

        def waiting(num_jobs: int) -> None:
            self._waits_for = num_jobs
            for each in self._tickets.values():
                if not each.begun:
                    each.drawing.tell(Waiting(num_jobs))

        async with self._borrowing:
            try:
                await self._borrower.borrow(memory_bytes=short, waiting=waiting)
            finally:
                self._waits_for = 0

    async def _give_back(self) -> None:
        async with self._borrowing:
            if self._tickets:
                return  # somebody came meanwhile
            if self._borrower.has_room:
                # What training has left is full of models now, and it needs its room again.
                await self._ask(self._pool.clear)
            await self._borrower.give_back()

    def _leave(self, id: str) -> None:
        if self._tickets.pop(id, None) is not None:
            self._tell_positions()

    def _begin(self, ticket: _Ticket) -> None:
        ticket.drawing.begun()
        self._tell_positions()

    def _tell_positions(self, newest: _Ticket | None = None) -> None:
        """To everybody who waits, or to the newest alone: the others have not moved."""
        waiting: dict[str, list[_Ticket]] = {}
        for ticket in self._tickets.values():
            if not ticket.begun:
                waiting.setdefault(ticket.drawing.principal, []).append(ticket)
        # In turns of those who asked, each one's in the order of arrival.
        order = sorted((place, turn) for turn, own in enumerate(waiting.values()) for place in range(len(own)))
        owners = list(waiting.values())
        for position, (place, turn) in enumerate(order, start=1):
            ticket = owners[turn][place]
            if newest is None or ticket is newest:
                ticket.drawing.tell(Queued(position))

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    # On the thread.

    def _run(self, count: int) -> None:
        use_threads(count)  # its own, whatever readers use
        while True:
            with self._changed:
                # While files are read there is nothing to do but wait for them.
                idle = not (self._running or self._arrived or self._asked or self._woken or self._closed)
                if idle:
                    self._changed.wait(IDLE_SECONDS if self._queue else None)
                self._woken = False
                arrived, asked = list(self._arrived), list(self._asked)
                self._arrived.clear()
                self._asked.clear()
                closed = self._closed
            for question, answer in asked:
                try:
                    answer.set_result(question())
                except Exception as error:
                    answer.set_exception(error)
            for ticket in arrived:
                self._queue.setdefault(ticket.drawing.principal, deque()).append(ticket)
            self._drop_cancelled(all_of_them=closed)
            if closed:
                return
            try:
                self._admit()
                self._pass()
            except Exception as error:  # nobody may wait for a thread that is gone
                for ticket in [*self._waiting(), *(each.ticket for each in self._running)]:
                    self._end(ticket, error)

    def _waiting(self) -> list[_Ticket]:
        return [ticket for tickets in self._queue.values() for ticket in tickets]

    def _drop_cancelled(self, *, all_of_them: bool) -> None:
        everyone = [*self._waiting(), *(each.ticket for each in self._running)]
        for ticket in {id(each): each for each in everyone}.values():
            if all_of_them or ticket.drawing.cancelled.is_set():
                self._end(ticket, Cancelled(f"generation {ticket.drawing.id} was cancelled"))

    def _admit(self) -> None:
        """New samples, in turns of those who asked, as far as there is room; no more at once than a pass holds, so that
        reading their words keeps nobody waiting for long."""
        for _ in range(self._max_batch):
            if len(self._running) >= self._max_active or not self._admit_one():
                return

    def _admit_one(self) -> bool:
        waiting = [(principal, ticket) for principal, tickets in self._queue.items() for ticket in tickets]
        long_ago = time.perf_counter() - ROOM_SECONDS
        stuck = [each for each in waiting if 0 < each[1].wants_room_since < long_ago]
        if stuck:
            first = min(stuck, key=lambda each: each[1].wants_room_since)
            # Where nothing is drawn any more, it is others' reading that it waits for.
            waiting = [first] if self._running else [first, *(each for each in waiting if each is not first)]
        return any(self._admit_ticket(principal, ticket) for principal, ticket in waiting)

    def _admit_ticket(self, principal: str, ticket: _Ticket) -> bool:
        try:
            running = self._start(ticket)
        except Exception as error:
            self._end(ticket, error)
            return False
        if running is None:
            return False  # its models are being read
        self._running.append(running)
        tickets = self._queue.get(principal)
        if tickets is None:
            return True
        if not ticket.shots:
            tickets.remove(ticket)
        self._queue.move_to_end(principal)
        if not tickets:
            del self._queue[principal]
        return True

    def _start(self, ticket: _Ticket) -> _Running | None:
        """The ticket's next sample; None while its models are read."""
        shot = ticket.shots[0]

        def loading(model_id: int) -> None:
            if model_id not in ticket.told_loading:
                ticket.told_loading.add(model_id)
                self._post(ticket, Loading(model_id))

        ready = self._pool.ready(shot.plan, shot.folders, on_load=loading, wake=self._wake)
        if ready is None:
            if self._pool.lacks_room and not ticket.wants_room_since:
                ticket.wants_room_since = time.perf_counter()
            return None
        ticket.wants_room_since = 0.0
        base, names = ready.base, tuple(lora_names(shot.plan))
        weights = {name: each.weight for name, each in zip(names, shot.plan.loras, strict=True) if each.weight}
        recipe = Recipe(ticket.drawing, shot, base, ready.nets, *base.split(weights))
        sample = recipe.first()
        ticket.warnings += [warning for warning in recipe.warnings if warning not in ticket.warnings]
        ticket.shots.popleft()
        if not ticket.begun:
            ticket.begun = True
            self._loop.call_soon_threadsafe(self._begin, ticket)
        self._number += 1
        running = _Running(ticket, recipe, sample, names, self._number, later=recipe.later_passes)
        for each in self._held_by(running):
            each.users += 1
        return running

    def _held_by(self, running: _Running) -> "list[Base | Lora | Net]":
        """What stays in memory for it."""
        base = running.base
        return [base, *(base.loras[name] for name in running.loras), *running.recipe.nets]

    def _pass(self) -> None:
        """One pass of the denoiser, and what comes of it."""
        chosen = choose(self._running, limit=self._limit, seconds=self._seconds)
        if not chosen:
            return
        picked = {id(each) for each in chosen}
        for each in self._running:
            each.passed_over = 0 if id(each) in picked else each.passed_over + 1
        stepped = self._step(chosen)
        events: list[tuple[_Ticket, Progress]] = self._steps_of(stepped)
        events += self._previews_of(stepped)
        self._post_all(events)
        self._finish([each for each in stepped if each.sample.is_done])

    def _limit(self, lane: Hashable) -> int:
        """Samples of a pass; a clip takes as much memory as its frames."""
        limit = self._limits.get(lane, self._max_batch)
        frames = lane[1][1] if isinstance(lane, tuple) and len(lane[1]) == 5 else 1
        return max(1, limit // frames)

    def _seconds(self, lane: Hashable, rows: int) -> float:
        return self._pace(lane).seconds(rows)

    def _pace(self, lane: Hashable) -> Pace:
        place = lane[:3] if isinstance(lane, tuple) else lane
        if len(self._paces) > 1000:
            self._paces.clear()
        return self._paces.setdefault(place, Pace())

    def _step(self, chosen: Sequence[_Running]) -> list[_Running]:
        """Those that are a step further; of the others, those that cannot go on have ended."""
        import torch

        base, lane = chosen[0].base, chosen[0].lane
        before = [each.sample.index for each in chosen]
        began = time.perf_counter() - base.denoiser_rows.laying_seconds  # which is of who has come, not of the pass
        try:
            base.act(chosen[0].recipe.acting)
            adapted = any(each.recipe.adapters or each.recipe.acting for each in chosen)
            with base.passes(adapted=adapted):
                step_together([each.sample for each in chosen], base.denoiser_rows)
            self._synchronise(base)
        except torch.OutOfMemoryError:
            self._pool.clear()
            if len(chosen) > 1:
                self._limits[lane] = len(chosen) // 2
                return []
            sample = chosen[0].sample
            message = f"the device has no memory for {sample.width}x{sample.height} pictures"
            self._end(chosen[0].ticket, ResourceExhausted(message, reason="OUT_OF_MEMORY"))
            return []
        except Exception as error:
            if len(chosen) == 1:
                self._end(chosen[0].ticket, error)
                return []
            # One of them must not sink the others.
            alone: list[_Running] = []
            for each, index in zip(chosen, before, strict=True):
                alone += [each] if each.sample.index > index else self._step([each])
            return [each for each in alone if not each.ticket.over]
        seconds = time.perf_counter() - base.denoiser_rows.laying_seconds - began
        self._pace(lane).note(sum(each.rows for each in chosen), seconds)
        return list(chosen)

    def _synchronise(self, base: Base) -> None:
        """So that a pass's time is known, and no more than one is under way when somebody cancels."""
        if base.components.device.type == "cuda":
            import torch

            torch.cuda.synchronize(base.components.device)

    def _steps_of(self, stepped: Sequence[_Running]) -> "list[tuple[_Ticket, Progress]]":
        """Neighbours of one request that are at the same step are told together."""
        events: list[tuple[_Ticket, Progress]] = []
        order = sorted(stepped, key=lambda each: (id(each.ticket), each.shot.index))
        for each in order:
            ticket, index = each.ticket, each.shot.index
            last = events[-1] if events else None
            if (
                last is not None
                and last[0] is ticket
                and isinstance(last[1], Stepped)
                and last[1].step == each.step
                and last[1].first_index + last[1].count == index
            ):
                told = last[1]
                one_more = Stepped(told.step, told.total, told.first_index, told.count + 1, told.elapsed_millis)
                events[-1] = (ticket, one_more)
                continue
            millis = int((time.perf_counter() - ticket.started) * 1000)
            events.append((ticket, Stepped(each.step, each.total, index, 1, millis)))
        return events

    def _previews_of(self, stepped: Sequence[_Running]) -> "list[tuple[_Ticket, Progress]]":
        events: list[tuple[_Ticket, Progress]] = []
        for each in stepped:
            interval, step = each.ticket.drawing.preview_interval, each.step
            if interval and step % interval == 0 and step < each.total:
                pixels = each.base.previews(each.sample.original()).numpy()[0]
                still = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels  # the frame in a clip's middle
                events.append((each.ticket, Previewed(each.shot.index, step, still)))
        return events

    def _finish(self, done: Sequence[_Running]) -> None:
        """Decodes pictures together, and tells them; those with a second pass go on with it."""
        going = [each for each in done if not each.ticket.over]
        shapes: dict[object, list[_Running]] = {}
        for each in going:
            shapes.setdefault((id(each.base), each.sample.latents.shape), []).append(each)
        for alike in shapes.values():
            most = self._limit(alike[0].lane)
            for place in range(0, len(alike), most):
                self._finish_alike(alike[place : place + most])

    def _finish_alike(self, some: Sequence[_Running]) -> None:
        import torch

        try:
            pictures = self._decode(some)
        except torch.OutOfMemoryError:
            self._pool.clear()
            if len(some) > 1:
                for each in some:
                    self._finish_alike([each])
                return
            message = "the device has no memory to decode a picture of this size"
            self._end(some[0].ticket, ResourceExhausted(message, reason="OUT_OF_MEMORY"))
            return
        except Exception as error:
            for each in some:
                self._end(each.ticket, error)
            return
        for each, pixels in zip(some, pictures, strict=True):
            if each.ticket.over:
                continue
            if each.later:
                self._go_on(each, pixels)
            else:
                self._tell_picture(each, pixels)

    def _decode(self, some: Sequence[_Running]) -> "list[Any]":
        import torch

        base = some[0].base
        latents = torch.cat([each.sample.latents for each in some])
        decoded = decode_latents(base.components, latents, tile_above=self._tile_above, frames_at_once=FRAMES_AT_ONCE)
        if any(each.ticket.drawing.preview_interval for each in some):
            base.previews.learn(latents, decoded)
        return list(decoded.numpy())

    def _go_on(self, running: _Running, pixels: Any) -> None:
        try:
            running.go_on(running.recipe.second(pixels))
        except Exception as error:
            self._end(running.ticket, error)

    def _tell_picture(self, done: _Running, pixels: Any) -> None:
        self._release(done)
        ticket = done.ticket
        sampler = display_name(done.base.components, ticket.drawing.settings.scheduler)
        self._post(ticket, Drawn(done.shot.index, done.shot.seed, pixels, sampler))
        ticket.left -= 1
        if not ticket.left:
            ticket.over = True
            self._post_end(ticket, None)

    def _end(self, ticket: _Ticket, error: Exception) -> None:
        """Whatever of it waits or runs is gone."""
        if ticket.over:
            return
        ticket.over = True
        for each in [each for each in self._running if each.ticket is ticket]:
            self._release(each)
        principal = ticket.drawing.principal
        if (tickets := self._queue.get(principal)) is not None and ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._queue[principal]
        self._post_end(ticket, error)

    def _release(self, running: _Running) -> None:
        self._running.remove(running)
        for each in self._held_by(running):
            each.users -= 1
            each.used = time.monotonic()

    def _post(self, ticket: _Ticket, progress: Progress) -> None:
        self._post_all([(ticket, progress)])

    def _post_all(self, events: "Sequence[tuple[_Ticket, Progress]]") -> None:
        def tell() -> None:
            for ticket, progress in events:
                ticket.drawing.tell(progress)

        if events:
            self._loop.call_soon_threadsafe(tell)

    def _post_end(self, ticket: _Ticket, error: Exception | None) -> None:
        def end() -> None:
            if ticket.ended.done():
                return
            if error is None:
                ticket.ended.set_result(ticket.warnings)
            else:
                ticket.ended.set_exception(error)

        self._loop.call_soon_threadsafe(end)
