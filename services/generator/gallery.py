"""What has been drawn: shown, kept, removed, and held within the deployment's bounds."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle

from services.common.blobs import BlobMissing
from services.common.errors import AtelierError, DataLoss, FailedPrecondition, NotFound
from services.common.rows import now
from services.common.telemetry import Logger
from services.generator.domain import UNFINISHED, Generation, Picture, Pictured
from services.generator.keeping import Keeper
from services.generator.store import Store

A_ROUND = 100
"""Generations that one round of tidying removes at most for each reason."""


@dataclass(frozen=True)
class Retention:
    """What the gallery may hold of generations that nobody keeps; 0 sets no bound."""

    max_age_days: int = 0
    max_bytes: int = 0


class Gallery:
    """Of one store."""

    def __init__(self, store: Store, keeper: Keeper, retention: Retention, *, log: Logger) -> None:
        self._store = store
        self._keeper = keeper
        self._retention = retention
        self._log = log

    async def picture(self, generation_id: str, index: int) -> Pictured:
        """Raises NotFound, and DataLoss when the bytes are gone."""
        found = (await self._store.get(generation_id)).picture(index)
        if found is None:
            raise NotFound("picture", f"{index} of generation {generation_id}")
        return await self.pictured(found)

    async def pictured(self, picture: Picture) -> Pictured:
        """Raises DataLoss when the bytes are gone."""
        try:
            return Pictured(picture, await self._keeper.get(picture.sha256))
        except BlobMissing as error:
            raise DataLoss(f"the bytes of picture {picture.index} are gone", reason="PICTURE_LOST") from error

    async def keep(self, generation_id: str, is_kept: bool | None) -> Generation:
        """Has retention leave it alone, or not any more. Raises NotFound."""
        return await self._store.change(generation_id, is_kept=is_kept)

    async def delete(self, generation_id: str) -> None:
        """Removes it, with the bytes that no other has. Raises NotFound, and FailedPrecondition while it is queued or
        running."""
        generation = await self._store.get(generation_id)
        if await self._remove(generation_id) is None and generation.status in UNFINISHED:
            message = f"generation {generation_id} is {generation.status.value}; cancel it first"
            raise FailedPrecondition(message, reason="GENERATION_UNFINISHED")

    async def tidy(self, seconds: float) -> None:
        """A round of tidying every so often, until it is cancelled."""
        for place in cycle(range(256)):
            await asyncio.sleep(seconds)
            try:
                await self.tidy_once()
                await self._keeper.sweep(f"{place:02x}")
            except AtelierError as error:
                self._log.warning("the gallery is not tidied", reason=error.reason, message=error.message)
            except Exception as error:  # a round that fails must not be the last
                self._log.error("the gallery is not tidied", exc_info=error)

    async def tidy_once(self) -> int:
        """Removes the oldest of what retention does not keep, as far as one round goes; gives how many."""
        removed = 0
        days, most = self._retention.max_age_days, self._retention.max_bytes
        if days:
            before = now() - timedelta(days=days)
            for id in await self._store.removable(A_ROUND, finished_before=before):
                removed += await self._remove(id, unless_kept=True) is not None
        excess = await self._store.gallery_bytes() - most if most else 0
        if excess > 0:
            for id in await self._store.removable(A_ROUND):
                if excess <= 0:
                    break
                if (freed := await self._remove(id, unless_kept=True)) is not None:
                    removed, excess = removed + 1, excess - freed
        if removed:
            self._log.info("generations have left the gallery", count=removed)
        return removed

    async def _remove(self, generation_id: str, *, unless_kept: bool = False) -> int | None:
        """The bytes that nobody has any more; None where nothing was removed."""
        sizes = await self._store.delete(generation_id, unless_kept=unless_kept)
        return sum(sizes[digest] for digest in await self._keeper.forget(sizes)) if sizes is not None else None
