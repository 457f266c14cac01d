"""Generations from their acceptance to their end: drawn once, kept, and watched by whoever asks."""

import asyncio
import uuid
from dataclasses import dataclass, field, replace
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
    ABANDONED,
    UNFINISHED,
    Drawing,
    Drawn,
    Failure,
    Folders,
    Generation,
    LoadedModel,
    Picture,
    Pictured,
    PictureFormat,
    Plan,
    Progress,
    Shot,
    Status,
    Wish,
)
from services.generator.engine.engine import Engine
from services.generator.images import encode, parameters_text
from services.generator.inputs import Inputs, put_back
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
    abandoned: bool = False
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
        self._inputs = Inputs(store, blobs)
        self._max_queue = max_queue
        self._log = log
        self._works: dict[str, _Work] = {}
        self._endings: set[asyncio.Task[Generation]] = set()
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

    async def submit(
        self, wish: Wish, *, request_id: str | None, preview_interval: int | None, principal: str = ""
    ) -> Run:
        """Accepts a request, or finds the generation that its `request_id` made before, finished or not.

        Raises what Catalog.plan raises, InvalidArgument, WeightsUnavailable, and ResourceExhausted when the queue is
        full.
        """
        if request_id is not None and (first := await self._store.by_request(request_id)) is not None:
            return await self._attach(first)
        self._check_queue(principal)
        wish = await self._inputs.resolve(wish)
        begun_with = await asyncio.to_thread(self._inputs.shape, wish.image_to_image) if wish.image_to_image else None
        plan = await self._catalog.plan(wish.model_id, wish.lora_weight, wish.loras)
        folders = await asyncio.to_thread(self._weights.find, plan)
        size = await asyncio.to_thread(read_size, folders.pipeline, family=plan.family) if folders else None
        generation = Generation(
            id=str(uuid.uuid4()),
            status=Status.QUEUED,
            settings=settle(wish, plan, size, begun_with),
            model_name=plan.model_name,
            created_at=datetime.now(UTC),
            request_id=request_id,
        )
        run = Run(generation, preview_interval, plan, principal=principal)
        self._check_queue(principal)  # again: others were accepted while the Catalog and the disk were asked
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
                await self._store.move(generation_id, Status.CANCELLED, failure=ABANDONED if work.abandoned else None)
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

    def left(self, run: Run) -> None:
        """A client has gone: where it was the last one, and nobody wants it kept, its place is free within a step."""
        work = self._works.get(run.id)
        if work is not None and run.is_left and not self._stopping:
            work.abandoned = True
            ending = asyncio.create_task(self.cancel(run.id), name=f"{run.id} is left")
            self._endings.add(ending)
            ending.add_done_callback(self._ended)

    def _ended(self, ending: "asyncio.Task[Generation]") -> None:
        self._endings.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            # It was done before it noticed, as a rule.
            self._log.info("a generation that was left has not been cancelled", error=str(error))

    async def load(self, model_id: int) -> LoadedModel:
        """Brings a model into memory. Raises what a request to draw with it raises."""
        plan = await self._catalog.plan(model_id, None, ())
        folders = await asyncio.to_thread(self._weights.fetch, plan)
        await self._engine.load(plan, folders)
        ids = {source.model_id for source in plan.pipeline[:1]}
        return next(each for each in self._engine.loaded() if each.model_id in ids)

    async def unload(self, model_id: int) -> None:
        """Raises FailedPrecondition while it draws."""
        await self._engine.unload(model_id)

    async def picture(self, generation_id: str, index: int) -> tuple[bytes, PictureFormat]:
        """The file. Raises NotFound, and DataLoss when the bytes are gone."""
        generation = await self._store.get(generation_id)
        found = next((picture for picture in generation.pictures if picture.index == index), None)
        if found is None:
            raise NotFound("picture", f"{index} of generation {generation_id}")
        return (await self._pictured(found)).data, generation.settings.format

    def _check_queue(self, principal: str) -> None:
        own = [work for work in self._works.values() if work.run.principal == principal]
        if sum(work.begun is None for work in own) >= self._max_queue:
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
            case Status.CANCELLED if generation.failure is not None:
                if await self._store.move(generation.id, Status.QUEUED):
                    run.generation = replace(generation, status=Status.QUEUED, failure=None, finished_at=None)
                    self._begin(run)
                    return run
                return await self._attach(await self._store.get(generation.id))
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
            await self._store.move(run.id, Status.CANCELLED, failure=ABANDONED if work.abandoned else None)
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
        shown = await asyncio.to_thread(self._inputs.shown, settings)
        shots = tuple(
            Shot(index, settings.seed + index, settings.prompt, settings.negative_prompt, plan, folders)
            for index in range(settings.count)
        )
        run.drawing = Drawing(run.id, run.principal, shots, settings, shown, run.preview_interval, tell, begun)
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
        pixels = drawn.pixels
        if settings.image_to_image is not None and settings.image_to_image.mask is not None:
            pixels = put_back(pixels, self._inputs.shown(settings), settings.image_to_image.mask_blur)
        data = encode(pixels, settings.format, settings.quality, text, request_text(settings))
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
