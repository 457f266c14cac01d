"""Generations from their acceptance to their end: drawn once, kept, and watched by whoever asks."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.common.errors import AtelierError, Cancelled, FailedPrecondition, ResourceExhausted, Unavailable
from services.common.telemetry import Logger
from services.generator.domain import (
    ABANDONED,
    Drawing,
    Drawn,
    Failure,
    Folders,
    Generation,
    LoadedModel,
    Plan,
    Progress,
    Status,
    Wish,
)
from services.generator.engine.engine import Engine
from services.generator.finishing import Finisher, Finishing
from services.generator.gallery import Gallery
from services.generator.grids import shots_of
from services.generator.inputs import Inputs
from services.generator.planning import Planned, Planner
from services.generator.runs import Run, Watcher
from services.generator.store import Store
from services.generator.stored_errors import error_of

RETRY_SECONDS = (1, 2, 5, 10, 30, 60)
"""Waits between questions to a Catalog that is away when queued generations go on after a restart."""


@dataclass(frozen=True)
class Asking:
    """How a request is made, beside what it wants."""

    principal: str = ""
    request_id: str | None = None
    preview_interval: int | None = None
    keeps_drawing: bool = False


@dataclass
class _Work:
    """What this process does for a run."""

    run: Run
    planned: Sequence[Planned] | None = None  # None until the Catalog has been asked again after a restart
    task: asyncio.Task[None] | None = None
    begun: asyncio.Task[bool] | None = None  # the store is being told that it runs
    is_abandoned: bool = False  # it ends because nobody watches it
    drawn: "asyncio.Queue[Drawn | None]" = field(default_factory=asyncio.Queue)

    @property
    def abandonment(self) -> Failure | None:
        return ABANDONED if self.is_abandoned else None


class Generations:
    """What may be done with generations, on one store and one engine."""

    def __init__(
        self,
        store: Store,
        planner: Planner,
        inputs: Inputs,
        finisher: Finisher,
        gallery: Gallery,
        engine: Engine,
        *,
        max_queue: int,
        max_queue_total: int,
        log: Logger,
    ) -> None:
        self._store = store
        self._planner = planner
        self._inputs = inputs
        self._finisher = finisher
        self._gallery = gallery
        self._engine = engine
        self._max_queue = max_queue
        self._max_queue_total = max_queue_total
        self._log = log
        self._works: dict[str, _Work] = {}
        self._aside: set[asyncio.Task[object]] = set()  # tasks that nobody waits for
        self._reviving = asyncio.Lock()
        self._held = False
        self._stopping = False

    async def start(self) -> None:
        """Goes on with what an earlier process accepted: queued ones, and those it was drawing from their beginning."""
        for generation in await self._store.unfinished():
            if generation.status is Status.RUNNING:
                await self._store.move(generation.id, Status.QUEUED)
            self._begin(generation)

    def hold(self) -> None:
        """From now on clients that leave were sent away: what they asked for goes on at the next start."""
        self._held = True

    async def stop(self) -> None:
        """Leaves unfinished generations to the next process."""
        self._held = self._stopping = True
        for work in self._works.values():
            if work.run.drawing is not None:
                work.run.drawing.cancelled.set()
            if work.task is not None:
                work.task.cancel()
        tasks = [work.task for work in self._works.values() if work.task is not None]
        await asyncio.gather(*tasks, *self._aside, return_exceptions=True)

    async def submit(self, wish: Wish, asking: Asking) -> Watcher:
        """Accepts a request, or finds the generation that its `request_id` made before, finished or not; gives somebody
        who watches it. One that was abandoned is drawn anew.

        Raises what Planner.settle and Inputs.find raise, and ResourceExhausted when the queue is full.
        """
        # A client may leave meanwhile: what is half accepted is then accepted, and abandoned.
        task = asyncio.create_task(self._submit(wish, asking), name="submission")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._aside.add(task)
            task.add_done_callback(self._leave_early)
            raise

    async def cancel(self, generation_id: str) -> Generation:
        """Ends a generation within a denoising step. Raises NotFound, and FailedPrecondition when it has ended."""
        if (work := self._works.get(generation_id)) is not None:
            await self._end_early(work)
        generation = await self._store.get(generation_id)
        if generation.status is not Status.CANCELLED:
            message = f"generation {generation_id} has {generation.status.value} and cannot be cancelled"
            raise FailedPrecondition(message, reason="GENERATION_ENDED")
        return generation

    async def load(self, model_id: int) -> LoadedModel:
        """Brings a model into memory. Raises what Planner.plan and Engine.load raise."""
        plan, folders = await self._planner.plan(model_id)
        await self._engine.load(plan, folders)
        for model in self._engine.loaded():
            if model.model_id == plan.base.model_id:
                return model
        raise ResourceExhausted(f"model {model_id} had to leave again", reason="OUT_OF_MEMORY")

    async def unload(self, model_id: int) -> None:
        """Raises FailedPrecondition while it draws."""
        await self._engine.unload(model_id)

    def loaded(self) -> list[LoadedModel]:
        return self._engine.loaded()

    def _leave_early(self, task: "asyncio.Task[Watcher]") -> None:
        self._aside.discard(task)
        if not task.cancelled() and task.exception() is None:
            task.result().leave()

    async def _submit(self, wish: Wish, asking: Asking) -> Watcher:
        request_id = asking.request_id
        if request_id is not None and (first := await self._store.by_request(request_id)) is not None:
            return await self._attach(first, asking)
        self._check_queue(asking.principal)
        found = await self._inputs.find(wish)
        settings, planned = await self._planner.settle(found.wish, found.size)
        generation = Generation(
            id=str(uuid.uuid4()),
            status=Status.QUEUED,
            settings=settings,
            model_name=planned[0].plan.model_name,
            created_at=datetime.now(UTC),
            request_id=request_id,
            principal=asking.principal,
            keeps_drawing=asking.keeps_drawing,
        )
        self._check_queue(asking.principal)  # again: others were accepted while the Catalog and the disk were asked
        work = self._works[generation.id] = _Work(self._run(generation, asking), planned)
        try:
            async with self._finisher.keeper.keep(list(found.data.values())):
                sizes = {digest: len(data) for digest, data in found.data.items()}
                stored = await self._store.add(generation, sizes)
        except BaseException:
            del self._works[generation.id]
            raise
        if stored.id != generation.id:  # a twin of this request was quicker
            del self._works[generation.id]
            return await self._attach(stored, asking)
        watcher = work.run.join()
        self._start(work)
        return watcher

    def _check_queue(self, principal: str) -> None:
        waiting = [work.run.generation.principal for work in self._works.values() if work.begun is None]
        for count, most, whose in (
            (waiting.count(principal), self._max_queue, f" of {principal}"),
            (len(waiting), self._max_queue_total, ""),
        ):
            if count >= most:
                wait = self._engine.retry_after_seconds()
                message = f"{count} generations{whose} are waiting already"
                raise ResourceExhausted(message, reason="QUEUE_FULL", retry_after_seconds=wait)

    def _run(self, generation: Generation, asking: Asking) -> Run:
        keeps_drawing = generation.keeps_drawing or asking.keeps_drawing
        return Run(generation, asking.preview_interval, keeps_drawing, self._deserted)

    def _begin(self, generation: Generation, asking: Asking = Asking()) -> Run:
        work = self._works[generation.id] = _Work(self._run(generation, asking))
        self._start(work)
        return work.run

    def _start(self, work: _Work) -> None:
        work.task = asyncio.create_task(self._work(work), name=f"generation {work.run.id}")

    async def _attach(self, generation: Generation, asking: Asking) -> Watcher:
        """A watcher of a generation that was accepted before; of one that has ended, replayed."""
        async with self._reviving:
            work = self._works.get(generation.id)
            if work is not None and work.is_abandoned and work.task is not None:
                await asyncio.wait([work.task])
                work = None
            if work is not None:
                watcher = work.run.join()
            else:
                generation = await self._store.get(generation.id)
                watcher = (await self._again(generation, asking)).join()
        if asking.keeps_drawing and not generation.keeps_drawing:
            if work is not None:
                work.run.keeps_drawing = True
            await self._store.change(generation.id, keeps_drawing=True)
        return watcher

    async def _again(self, generation: Generation, asking: Asking) -> Run:
        """The run of a generation that nobody works at: replayed, or drawn anew where it was abandoned."""
        run = Run(generation, preview_interval=None)
        match generation.status:
            case Status.COMPLETED:
                run.pictures = [await self._gallery.pictured(picture) for picture in generation.pictures]
                run.finish(generation)
            case Status.FAILED:
                run.finish(error_of(generation.failure))
            case Status.CANCELLED if generation.is_abandoned:
                self._check_queue(generation.principal)
                if not await self._store.move(generation.id, Status.QUEUED):
                    raise Unavailable(f"generation {generation.id} has just been changed", reason="CHANGED")
                return self._begin(generation, asking)
            case Status.CANCELLED:
                run.finish(_cancelled(generation.id))
            case _:
                raise Unavailable(f"generation {generation.id} belongs to another Generator", reason="NOT_OURS")
        return run

    def _deserted(self, run: Run) -> None:
        """Nobody watches a run any more: unless somebody wanted its pictures all the same, it makes room for others."""
        work = self._works.get(run.id)
        if work is None or work.run is not run or self._held or run.keeps_drawing or run.cancelled:
            return
        work.is_abandoned = True
        task = asyncio.create_task(self._abandon(work), name=f"abandon {run.id}")
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _abandon(self, work: _Work) -> None:
        try:
            await self._end_early(work)
        except AtelierError as error:  # the database is away: the next start finds it unfinished, and goes on with it
            self._log.warning(
                "an abandoned generation's end is not stored", generation_id=work.run.id, error=str(error)
            )

    async def _end_early(self, work: _Work) -> None:
        """Ends within a denoising step; one that waits, at once."""
        run = work.run
        run.cancelled = True
        if work.begun is None:
            await self._store.move(run.id, Status.CANCELLED, failure=work.abandonment)
            run.finish(_cancelled(run.id))
        if run.drawing is not None:
            run.drawing.cancelled.set()
            self._engine.cancel(run.id)
        if work.begun is not None and work.task is not None:
            await asyncio.wait([work.task])

    async def _work(self, work: _Work) -> None:
        """Draws a run, and writes down how it ended."""
        run = work.run
        try:
            try:
                warnings = await self._draw(work)
                await self._store.move(run.id, Status.COMPLETED, warnings=warnings)
                run.finish(await self._store.get(run.id))
            except AtelierError as error:
                await self._end(work, error)
            except Exception as error:  # whatever goes wrong in drawing is this generation's failure alone
                self._log.error("a generation failed unexpectedly", generation_id=run.id, exc_info=error)
                message = f"internal error; the server's log has it under generation {run.id}"
                await self._end(work, AtelierError(message, reason="INTERNAL"))
        except Exception as error:  # the store is away: the row stays unfinished, and the next start goes on with it
            self._log.error("a generation's end is not stored", generation_id=run.id, exc_info=error)
            run.finish(Unavailable("the Generator's database does not answer", reason="DATABASE_UNAVAILABLE"))
        except asyncio.CancelledError:
            run.finish(Unavailable("the Generator stops; the generation goes on when it is back", reason="STOPPING"))
            raise
        finally:
            self._works.pop(run.id, None)

    async def _end(self, work: _Work, error: AtelierError) -> None:
        run = work.run
        if self._stopping:
            run.finish(Unavailable("the Generator stops; the generation goes on when it is back", reason="STOPPING"))
            return
        if work.begun is not None:
            await work.begun
        if isinstance(error, Cancelled):
            await self._store.move(run.id, Status.CANCELLED, failure=work.abandonment)
        else:
            failure = Failure(type(error).__name__, error.reason, error.message)
            await self._store.move(run.id, Status.FAILED, failure=failure)
        run.finish(error)

    async def _draw(self, work: _Work) -> list[str]:
        """Ends when all pictures are kept; gives warnings. Raises Cancelled, and whatever else went wrong."""
        run, generation = work.run, work.run.generation
        settings = generation.settings
        planned = work.planned if work.planned is not None else await self._plan_again(run)
        planned = await self._planner.fetch(settings, planned)
        columns: list[tuple[Plan, Folders]] = [
            (each.plan, each.folders) for each in planned if each.folders is not None
        ]
        shown = await self._inputs.show(settings)
        shots = await asyncio.to_thread(shots_of, settings, columns)
        if run.cancelled:
            raise _cancelled(run.id)

        def tell(progress: Progress) -> None:
            if isinstance(progress, Drawn):
                work.drawn.put_nowait(progress)
            else:
                run.tell(progress)

        def begun() -> None:
            work.begun = asyncio.create_task(self._store.move(run.id, Status.RUNNING))

        run.drawing = Drawing(run.id, generation.principal, shots, settings, shown, run.preview_interval, tell, begun)
        finishing = self._finisher.begin(generation, planned, shots, shown)
        keeping = asyncio.create_task(self._keep(work, finishing))
        try:
            warnings = await self._engine.draw(run.drawing)
            work.drawn.put_nowait(None)
            await keeping
        finally:
            keeping.cancel()
        if work.begun is not None:
            await work.begun
        return warnings

    async def _plan_again(self, run: Run) -> Sequence[Planned]:
        """After a restart: the Catalog may still be starting."""
        for wait in (*RETRY_SECONDS, None):
            try:
                return await self._planner.columns(run.generation.settings)
            except Unavailable:
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last try raises or returns")

    async def _keep(self, work: _Work, finishing: Finishing) -> None:
        """Stores pictures as they come, then shows them."""
        while (drawn := await work.drawn.get()) is not None:
            work.run.tell(await finishing.picture(drawn))
        if (sheet := await finishing.sheet()) is not None:
            work.run.tell(sheet)


def _cancelled(generation_id: str) -> Cancelled:
    return Cancelled(f"generation {generation_id} was cancelled")
