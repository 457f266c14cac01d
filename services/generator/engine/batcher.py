"""The one thread that torch runs on, and the queue before it.

Requests are drawn one after another, each in batches of its own pictures. `Drawing` is the seam: what a later engine
needs to mix the steps of several requests is all in it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.common.errors import Cancelled, ResourceExhausted
from services.generator.borrowing import Borrower
from services.generator.domain import Drawn, Folders, Loading, Plan, Previewed, Queued, Settings, Stepped, Waiting
from services.generator.engine.draw import draw
from services.generator.engine.pool import Pool

Progress = Queued | Waiting | Loading | Stepped | Previewed | Drawn


@dataclass
class Drawing:
    """One request on its way through the engine. `tell` is called on the event loop, in order."""

    id: str
    plan: Plan
    folders: Folders
    settings: Settings
    preview_interval: int | None
    tell: Callable[[Progress], None]
    begun: Callable[[], None] = lambda: None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Batcher:
    """Draws in the order of arrival, on a device that is borrowed for as long as there is something to draw."""

    def __init__(self, pool: Pool, borrower: Borrower, *, batch_size: int) -> None:
        self._pool = pool
        self._borrower = borrower
        self._turn = asyncio.Lock()
        self._waits_for = 0  # jobs that are still at a step
        self._batch_size = batch_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._waiting: OrderedDict[str, Drawing] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    async def draw(self, drawing: Drawing) -> list[str]:
        """Ends when the last picture has been told, and gives warnings.

        Raises Cancelled within a denoising step of `drawing.cancelled` being set; what loading raises;
        ResourceExhausted when the device's memory does not suffice.
        """
        self._waiting[drawing.id] = drawing
        drawing.tell(Queued(len(self._waiting)))
        if self._waits_for:
            drawing.tell(Waiting(self._waits_for))
        try:
            async with self._turn:  # whoever came first is first
                try:
                    if not drawing.cancelled.is_set():
                        await self._borrow(drawing)
                    return await self._loop.run_in_executor(self._thread, self._work, drawing)
                finally:
                    self._leave(drawing.id)
                    if not self._waiting:
                        await self._give_back()
        finally:
            self._leave(drawing.id)

    def cancel(self, id: str) -> None:
        """Takes a waiting drawing out of the others' way; the thread skips it when its turn comes."""
        if id in self._waiting:
            self._waiting[id].cancelled.set()
            self._leave(id)

    def close(self) -> None:
        """Ends the thread once what it draws has noticed its cancellation."""
        for drawing in self._waiting.values():
            drawing.cancelled.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _borrow(self, drawing: Drawing) -> None:
        wanted = drawing.settings.width * drawing.settings.height * min(drawing.settings.count, self._batch_size)
        short = await asyncio.to_thread(self._pool.shortage, drawing.plan, drawing.folders, pixels=wanted)

        def waiting(num_jobs: int) -> None:
            self._waits_for = num_jobs
            for each in self._waiting.values():
                each.tell(Waiting(num_jobs))

        try:
            await self._borrower.borrow(memory_bytes=short, waiting=waiting)
        finally:
            self._waits_for = 0

    async def _give_back(self) -> None:
        if self._borrower.has_room:
            # What training has left is full of models now, and it needs its room again.
            await self._loop.run_in_executor(self._thread, self._pool.clear)
        await self._borrower.give_back()

    def _leave(self, id: str) -> None:
        if self._waiting.pop(id, None) is not None:
            for position, drawing in enumerate(self._waiting.values(), start=1):
                drawing.tell(Queued(position))

    def _begin(self, drawing: Drawing) -> None:
        self._leave(drawing.id)
        drawing.begun()

    def _work(self, drawing: Drawing) -> list[str]:
        """On the torch thread."""
        import torch

        if drawing.cancelled.is_set():
            raise Cancelled(f"generation {drawing.id} was cancelled")
        post = self._loop.call_soon_threadsafe
        post(self._begin, drawing)

        def loading(model_id: int) -> None:
            post(drawing.tell, Loading(model_id))

        try:
            components = self._pool.components(drawing.plan, drawing.folders, on_load=loading)
            warnings: list[str] = []
            for progress in draw(
                components,
                drawing.settings,
                batch_size=self._batch_size,
                preview_interval=drawing.preview_interval,
                warnings=warnings,
            ):
                if drawing.cancelled.is_set():
                    raise Cancelled(f"generation {drawing.id} was cancelled")
                post(drawing.tell, progress)
            return warnings
        except torch.OutOfMemoryError as error:
            self._pool.clear()
            message = f"the device has no memory for {drawing.settings.width}x{drawing.settings.height} pictures"
            raise ResourceExhausted(message, reason="OUT_OF_MEMORY") from error
