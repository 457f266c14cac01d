"""Bytes of the gallery: kept once however many generations have them, and removed with the last of these.

They lie in a folder of the Generator's own inside the blob store that all services share, so that it alone says when
they go. What earlier versions drew lies in the shared part; it is read from there, and never removed.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager

from services.common.blobs import BlobMissing, BlobStore
from services.generator.store import Store

FOLDER = "gallery"
YOUNG_SECONDS = 3600.0
"""Bytes that no row names yet may belong to a request that is being taken."""


class Keeper:
    """Of one store of bytes and the rows that name them. What blocks runs in threads."""

    def __init__(self, store: Store, shared: BlobStore) -> None:
        self._store = store
        self._shared = shared
        self._own = BlobStore(shared.root / FOLDER)
        self._pins: Counter[str] = Counter()
        self._removing = asyncio.Lock()

    @asynccontextmanager
    async def keep(self, several: Collection[bytes]) -> AsyncIterator[list[str]]:
        """Stores each, and gives their digests. Until the context is left nothing removes them: by then rows name
        them."""
        digests = await asyncio.to_thread(lambda: [hashlib.sha256(data).hexdigest() for data in several])
        async with self._removing:  # what is on its way out is gone before it is looked for
            self._pins.update(digests)
        try:
            for digest, data in zip(digests, several, strict=True):
                await asyncio.to_thread(self._own.put, data, digest=digest)
            yield digests
        finally:
            self._unpin(digests)

    async def get(self, digest: str) -> bytes:
        """Raises BlobMissing."""
        return await asyncio.to_thread(self._get, digest)

    async def get_own(self, digest: str) -> bytes | None:
        """What a client may name by its digest: nothing that other services have stored."""
        try:
            return await asyncio.to_thread(self._own.get, digest)
        except BlobMissing:
            return None

    async def get_shared(self, digest: str) -> bytes:
        """What another service has stored. Raises BlobMissing."""
        return await asyncio.to_thread(self._shared.get, digest)

    async def forget(self, digests: Collection[str]) -> set[str]:
        """Removes the bytes of those that no generation names any more, and says which these are."""
        async with self._removing:
            gone = {each for each in await self._store.unnamed(digests) if not self._pins[each]}
            await asyncio.to_thread(self._remove, gone)
        return gone

    async def sweep(self, prefix: str) -> None:
        """Removes what begins with `prefix` (two hex digits) and was left by a crash: no row names it, and it is not
        young."""
        found = await asyncio.to_thread(self._older, prefix)
        if found:
            await self.forget(found)

    def _get(self, digest: str) -> bytes:
        try:
            return self._own.get(digest)
        except BlobMissing:
            return self._shared.get(digest)

    def _remove(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._own.delete(digest)

    def _older(self, prefix: str) -> list[str]:
        folder, now = self._own.root / prefix, time.time()
        if not folder.is_dir():
            return []
        return [prefix + file.name for file in folder.iterdir() if now - file.stat().st_mtime > YOUNG_SECONDS]

    def _unpin(self, digests: Iterable[str]) -> None:
        self._pins.subtract(digests)
        for digest in digests:
            if self._pins[digest] <= 0:
                del self._pins[digest]
