"""Generations from their acceptance to their end: drawn once, kept, and watched by whoever asks."""

import asyncio
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from services.common import errors
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import (
    AtelierError,
    Cancelled,
    DataLoss,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.common.telemetry import Logger
from services.diffusion.load import read_size
from services.generator.catalog import Catalog
from services.generator.convert import request_text
from services.generator.domain import (
    UNFINISHED,
    Drawing,
    Drawn,
    Failure,
    Folders,
    Generation,
    Picture,
    Pictured,
    Plan,
    Progress,
    Shot,
    Shown,
    Status,
    Wish,
)
from services.generator.engine.engine import Engine
from services.generator.images import encode_png, parameters_text
from services.generator.runs import Run
from services.generator.store import Store
from services.generator.weights import WeightsFinder
from services.generator.wishes import settle

RETRY_SECONDS = (1, 2, 5, 10, 30, 60)
"""Waits between questions to a Catalog that is away when queued generations go on after a restart."""


@dataclass
class _Work:
    """What this process does for a run."""

    run: Run
    task: asyncio.Task[None] | None = None
    begun: asyncio.Task[bool] | None = None  # the store is being told that it runs
    drawn: "asyncio.Queue[Drawn | None]" = field(default_factory=asyncio.Queue)


class Generations:
    """What may be done with generations, on one store and one engine."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        weights: WeightsFinder,
        engine: Engine,
        blobs: BlobStore,
        *,
        max_queue: int,
        log: Logger,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._weights = weights
        self._engine = engine
        self._blobs = blobs
        self._max_queue = max_queue
        self._log = log
        self._works: dict[str, _Work] = {}
        self._stopping = False

    async def start(self) -> None:
        """Goes on with what an earlier process accepted: queued ones, and those it was drawing from their beginning."""
        for generation in await self._store.unfinished():
            if generation.status is Status.RUNNING:
                await self._store.move(generation.id, Status.QUEUED)
            self._begin(Run(generation, preview_interval=None))

    async def stop(self) -> None:
        """Leaves unfinished generations to the next process."""
        self._stopping = True
        for work in self._works.values():
            if work.run.drawing is not None:
                work.run.drawing.cancelled.set()
            if work.task is not None:
                work.task.cancel()
        tasks = [work.task for work in self._works.values() if work.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, wish: Wish, *, request_id: str | None, preview_interval: int | None) -> Run:
        """Accepts a request, or finds the generation that its `request_id` made before, finished or not.

        Raises what Catalog.plan raises, InvalidArgument, WeightsUnavailable, and ResourceExhausted when the queue is
        full.
        """
        if request_id is not None and (first := await self._store.by_request(request_id)) is not None:
            return await self._attach(first)
        self._check_queue()
        plan = await self._catalog.plan(wish.model_id, wish.lora_weight, wish.loras)
        folders = await asyncio.to_thread(self._weights.find, plan)
        size = await asyncio.to_thread(read_size, folders.pipeline, family=plan.family) if folders else None
        generation = Generation(
            id=str(uuid.uuid4()),
            status=Status.QUEUED,
            settings=settle(wish, plan, size),
            model_name=plan.model_name,
            created_at=datetime.now(UTC),
            request_id=request_id,
        )
        run = Run(generation, preview_interval, plan)
        self._check_queue()  # again: others were accepted while the Catalog and the disk were asked
        work = self._works[run.id] = _Work(run)
        try:
            stored = await self._store.add(generation)
        except BaseException:
            del self._works[run.id]
            raise
        if stored.id != run.id:  # a twin of this request was quicker
            del self._works[run.id]
            return await self._attach(stored)
        work.task = asyncio.create_task(self._work(work, folders), name=f"generation {run.id}")
        return run

    async def cancel(self, generation_id: str) -> Generation:
        """Ends a generation within a denoising step. Raises NotFound, and FailedPrecondition when it has ended."""
        work = self._works.get(generation_id)
        if work is not None and work.task is not None:
            work.run.cancelled = True
            if work.begun is None:
                await self._store.move(generation_id, Status.CANCELLED)
                work.run.finish(_cancelled(generation_id))
            if work.run.drawing is not None:
                work.run.drawing.cancelled.set()
                self._engine.cancel(generation_id)
            if work.begun is not None:
                await asyncio.wait([work.task])
        generation = await self._store.get(generation_id)
        if generation.status is not Status.CANCELLED:
            message = f"generation {generation_id} has {generation.status.value} and cannot be cancelled"
            raise FailedPrecondition(message, reason="GENERATION_ENDED")
        return generation

    async def delete(self, generation_id: str) -> None:
        """Raises NotFound, and FailedPrecondition while it is queued or running."""
        generation = await self._store.get(generation_id)
        if not await self._store.delete(generation_id) and generation.status in UNFINISHED:
            message = f"generation {generation_id} is {generation.status.value}; cancel it first"
            raise FailedPrecondition(message, reason="GENERATION_UNFINISHED")

    async def picture(self, generation_id: str, index: int) -> bytes:
        """PNG. Raises NotFound, and DataLoss when the bytes are gone."""
        generation = await self._store.get(generation_id)
        found = next((picture for picture in generation.pictures if picture.index == index), None)
        if found is None:
            raise NotFound("picture", f"{index} of generation {generation_id}")
        return (await self._pictured(found)).data

    def _check_queue(self) -> None:
        if sum(work.begun is None for work in self._works.values()) >= self._max_queue:
            message = f"{self._max_queue} generations are waiting already"
            raise ResourceExhausted(
                message, reason="QUEUE_FULL", retry_after_seconds=self._engine.retry_after_seconds()
            )

    def _begin(self, run: Run) -> None:
        work = self._works[run.id] = _Work(run)
        work.task = asyncio.create_task(self._work(work, None), name=f"generation {run.id}")

    async def _attach(self, generation: Generation) -> Run:
        """The run of a generation that was accepted before; of one that has ended, replayed."""
        if (work := self._works.get(generation.id)) is not None:
            return work.run
        run = Run(generation, preview_interval=None)
        match generation.status:
            case Status.COMPLETED:
                run.pictures = [await self._pictured(picture) for picture in generation.pictures]
                run.finish(generation)
            case Status.FAILED:
                run.finish(_error_of(generation.failure))
            case Status.CANCELLED:
                run.finish(_cancelled(generation.id))
            case _:
                raise Unavailable(f"generation {generation.id} belongs to another Generator", reason="NOT_OURS")
        return run

    async def _pictured(self, picture: Picture) -> Pictured:
        try:
            return Pictured(picture, await asyncio.to_thread(self._blobs.get, picture.sha256))
        except BlobMissing as error:
            raise DataLoss(f"the bytes of picture {picture.index} are gone", reason="PICTURE_LOST") from error

    async def _work(self, work: _Work, folders: Folders | None) -> None:
        """Draws a run, and writes down how it ended."""
        run = work.run
        try:
            try:
                warnings = await self._draw(work, folders)
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
            await self._store.move(run.id, Status.CANCELLED)
        else:
            failure = Failure(type(error).__name__, error.reason, error.message)
            await self._store.move(run.id, Status.FAILED, failure=failure)
        run.finish(error)

    async def _draw(self, work: _Work, folders: Folders | None) -> list[str]:
        """Ends when all pictures are kept; gives warnings. Raises Cancelled, and whatever else went wrong."""
        run = work.run
        if run.plan is None:
            run.plan = await self._plan_again(run)
        plan = run.plan
        if folders is None:
            folders = await asyncio.to_thread(self._weights.fetch, plan)
        if run.cancelled:
            raise _cancelled(run.id)

        def tell(progress: Progress) -> None:
            if isinstance(progress, Drawn):
                work.drawn.put_nowait(progress)
            else:
                run.tell(progress)

        def begun() -> None:
            work.begun = asyncio.create_task(self._store.move(run.id, Status.RUNNING))

        settings = run.generation.settings
        shots = tuple(
            Shot(index, settings.seed + index, settings.prompt, settings.negative_prompt, plan, folders)
            for index in range(settings.count)
        )
        run.drawing = Drawing(run.id, "", shots, settings, Shown(), run.preview_interval, tell, begun)
        keeping = asyncio.create_task(self._keep(work, plan))
        try:
            warnings = await self._engine.draw(run.drawing)
            work.drawn.put_nowait(None)
            await keeping
        finally:
            keeping.cancel()
        if work.begun is not None:
            await work.begun
        return warnings

    async def _plan_again(self, run: Run) -> Plan:
        """After a restart: the Catalog may still be starting."""
        settings = run.generation.settings
        for wait in (*RETRY_SECONDS, None):
            try:
                return await self._catalog.plan(settings.model_id, settings.lora_weight, settings.loras)
            except Unavailable:
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last try raises or returns")

    async def _keep(self, work: _Work, plan: Plan) -> None:
        """Stores pictures as they come, then shows them."""
        while (drawn := await work.drawn.get()) is not None:
            pictured = await asyncio.to_thread(self._store_bytes, drawn, work.run, plan)
            await self._store.add_pictures(work.run.id, [pictured.picture])
            work.run.tell(pictured)

    def _store_bytes(self, drawn: Drawn, run: Run, plan: Plan) -> Pictured:
        settings = run.generation.settings
        text = parameters_text(settings, plan, seed=drawn.seed, sampler=drawn.sampler)
        data = encode_png(drawn.pixels, [("parameters", text), ("atelier", request_text(settings))])
        height, width = drawn.pixels.shape[:2]
        digest = self._blobs.put(data)
        return Pictured(Picture(drawn.index, drawn.seed, digest, width, height, len(data)), data)


def _cancelled(generation_id: str) -> Cancelled:
    return Cancelled(f"generation {generation_id} was cancelled")


def _error_of(failure: Failure | None) -> AtelierError:
    """The error that a stored failure was, for a client that asks again."""
    if failure is None:
        return AtelierError("the generation failed", reason="INTERNAL")
    kind: Any = getattr(errors, failure.kind, None)
    if kind is errors.InvalidArgument:
        field, _, rule = failure.message.partition(": ")
        return errors.InvalidArgument(rule or field, field=field if rule else "settings", reason=failure.reason)
    if kind in (errors.FailedPrecondition, errors.ResourceExhausted, errors.DataLoss, errors.Unavailable):
        again: AtelierError = kind(failure.message, reason=failure.reason)
        return again
    if failure.kind == "WeightsUnavailable":
        return errors.FailedPrecondition(failure.message, reason=failure.reason)
    return AtelierError(failure.message, reason=failure.reason)
