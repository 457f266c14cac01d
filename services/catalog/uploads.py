"""Many files on one stream: decoded on threads, stored as they come, put into the dataset in groups."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from services.catalog.domain import Image, NewImage
from services.catalog.images import Refused, clip_limits, prepare
from services.catalog.store import Store
from services.common.blobs import BlobStore
from services.common.clips import LIMITS, Limits
from services.common.pictures import MAX_BYTES

GROUP_FILES = 256
GROUP_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file opens; `size_bytes` and `sha256` are what the client announced, if it did."""

    filename: str
    caption: str = ""
    size_bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    offset: int
    data: bytes


@dataclass(slots=True)
class Summary:
    accepted: list[Image] = field(default_factory=list)
    duplicates: list[tuple[str, Image]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


@dataclass(slots=True)
class _Incoming:
    start: FileStart
    limits: Limits | None
    """Of clips; None where pictures are taken."""
    data: bytearray = field(default_factory=bytearray)
    refused: Refused | None = None

    def take(self, chunk: Chunk) -> None:
        """Appends a chunk; a file that is refused already is read past."""
        if self.refused is not None:
            return
        name = self.start.filename
        if chunk.offset != len(self.data):
            rule = f"a chunk at offset {chunk.offset} came where {len(self.data)} was due"
            self.refused = Refused(name, "BAD_OFFSET", rule)
        elif len(self.data) + len(chunk.data) > (most := self.limits.max_bytes if self.limits else MAX_BYTES):
            self.refused = Refused(name, "TOO_MANY_BYTES", f"exceeds the limit of {most} bytes")
        else:
            self.data += chunk.data
        if self.refused is not None:
            self.data = bytearray()

    def is_whole(self) -> bool:
        """Whether all that was announced has come; False where no size was announced."""
        return self.refused is None and self.start.size_bytes == len(self.data)

    def finish(self, blobs: BlobStore) -> NewImage | Refused:
        """Blocks: checks what was announced, decodes, stores."""
        if self.refused is not None:
            return self.refused
        start, data = self.start, bytes(self.data)
        self.data = bytearray()
        if start.size_bytes is not None and start.size_bytes != len(data):
            rule = f"{len(data)} bytes came where {start.size_bytes} were announced"
            return Refused(start.filename, "DIGEST_MISMATCH", rule)
        return prepare(blobs, start.filename, start.caption, data, limits=self.limits, sha256=start.sha256)


class _Upload:
    """The state of one stream: files that are being prepared, and the group before them that is being committed."""

    def __init__(self, store: Store, blobs: BlobStore, threads: Executor, dataset_id: int) -> None:
        self._store, self._blobs, self._threads, self._dataset_id = store, blobs, threads, dataset_id
        self._group: list[asyncio.Future[NewImage | Refused]] = []
        self._bytes = 0
        self._committing: asyncio.Task[None] | None = None
        self.summary = Summary()

    async def add(self, incoming: _Incoming) -> None:
        """Hands a whole file to the threads. Waits when two groups are under way, so that memory stays bounded."""
        self.hand_over(incoming)
        if len(self._group) >= GROUP_FILES or self._bytes >= GROUP_BYTES:
            await self._flush()

    def hand_over(self, incoming: _Incoming) -> None:
        self._bytes += len(incoming.data)
        loop = asyncio.get_running_loop()
        self._group.append(loop.run_in_executor(self._threads, incoming.finish, self._blobs))

    async def finish(self) -> None:
        """Waits until every file that was handed over is in the dataset."""
        await self._flush()
        await self._settled()

    async def _flush(self) -> None:
        """Waits for the group before, then begins to commit this one."""
        await self._settled()
        group, self._group, self._bytes = self._group, [], 0
        if group:
            self._committing = asyncio.create_task(self._commit(group))

    async def _settled(self) -> None:
        if self._committing is not None:
            await asyncio.shield(self._committing)  # a cut stream cancels who waits, and not what is being kept
            self._committing = None

    async def _commit(self, group: "list[asyncio.Future[NewImage | Refused]]") -> None:
        prepared = await asyncio.gather(*group, return_exceptions=True)
        new = [each for each in prepared if isinstance(each, NewImage)]
        self.summary.refused += [each for each in prepared if isinstance(each, Refused)]
        outcomes = await self._store.add_images(self._dataset_id, new)
        for file, (image, added) in zip(new, outcomes, strict=True):
            if added:
                self.summary.accepted.append(image)
            else:
                self.summary.duplicates.append((file.filename, image))
        for each in prepared:
            if isinstance(each, BaseException):
                raise each  # a full disk, say; what could be stored is kept all the same


async def upload_images(
    store: Store,
    blobs: BlobStore,
    threads: Executor,
    dataset_id: int,
    parts: AsyncIterator[FileStart | Chunk],
    *,
    limits: Limits = LIMITS,
) -> Summary:
    """Takes files until `parts` ends. A file that is refused does not sink the rest, and a stream that is cut keeps
    every file that came whole. Raises NotFound.
    """
    limits_of_it = clip_limits(await store.get_dataset(dataset_id), limits)
    upload = _Upload(store, blobs, threads, dataset_id)
    incoming: _Incoming | None = None
    try:
        async for part in parts:
            if isinstance(part, Chunk):
                if incoming is not None:
                    incoming.take(part)
                continue
            if incoming is not None:
                whole, incoming = incoming, None
                await upload.add(whole)
            incoming = _Incoming(part, limits_of_it)
        if incoming is not None:
            upload.hand_over(incoming)
    except BaseException:
        if incoming is not None and incoming.is_whole():
            upload.hand_over(incoming)
        await asyncio.shield(upload.finish())
        raise
    await upload.finish()
    return upload.summary
