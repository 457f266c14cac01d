"""Bytes by their SHA-256: written once, never changed, shared by all services and workers.

A blob is written to a temporary name in the same file system, fsynced and renamed, so that a reader sees all of it or
nothing, whatever crashes. Calls block: on an event loop they go through `asyncio.to_thread`.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from services.common.errors import DataLoss

DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20


class BlobMissing(DataLoss):
    """A digest that should be in the store is not."""

    default_reason = "BLOB_MISSING"

    def __init__(self, digest: str) -> None:
        super().__init__(f"blob {digest} is not in the store")
        self.digest = digest


class BlobWriter:
    """Takes a blob in pieces. `commit` stores it; leaving the context without it discards what was written."""

    def __init__(self, store: "BlobStore", *, digest: str | None = None) -> None:
        self._store = store
        self._digest = digest  # known: what is written is not hashed again
        self._hash = hashlib.sha256()
        self._size = 0
        handle, name = tempfile.mkstemp(dir=store.incoming)
        self._file = os.fdopen(handle, "wb", buffering=0)
        self._aside = Path(name)

    @property
    def path(self) -> Path:
        """What has been written so far: to look at before it is committed."""
        return self._aside

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`. Raises OSError when the disk is full."""
        if self._digest is None:
            self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)

    def commit(self) -> tuple[str, int]:
        """Stores what was written. Returns its digest and its size in bytes."""
        digest = self._digest or self._hash.hexdigest()
        target = self._store.location(digest)
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._store.adopt(self._aside, target)
        finally:
            self.abort()
        return digest, self._size

    def abort(self) -> None:
        """Discards what was written and not committed. Harmless after `commit`."""
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class BlobStore:
    """A folder of blobs, `ab/cdef...` by digest. Several processes, on several machines, may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return self.root.resolve().as_uri()

    def location(self, digest: str) -> Path:
        """Where `digest` lies, or would. Raises ValueError for what is not a digest."""
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a hex SHA-256")
        return self.root / digest[:2] / digest[2:]

    def adopt(self, aside: Path, target: Path) -> None:
        """Gives a written and fsynced file its name, and makes the name last."""
        folder = target.parent
        fresh = not folder.exists()
        folder.mkdir(exist_ok=True)
        aside.replace(target)
        _fsync_folder(folder)
        if fresh:
            _fsync_folder(self.root)

    def put(self, data: bytes, *, digest: str | None = None) -> str:
        """Stores `data`, unless it is there whole. Returns its digest; a caller who has computed it may hand it in."""
        digest = digest or hashlib.sha256(data).hexdigest()
        if not (self.exists(digest) and self.verify(digest)):  # a damaged blob is repaired
            with BlobWriter(self, digest=digest) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def put_file(self, path: Path) -> tuple[str, int]:
        """Stores the file's bytes. Returns digest and size in bytes; raises OSError when it cannot be read."""
        with path.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
            if self.exists(digest) and self.verify(digest):  # a damaged blob is repaired
                return digest, size
            file.seek(0)
            with self.writer() as writer:
                while chunk := file.read(CHUNK_BYTES):
                    writer.write(chunk)
                return writer.commit()

    def writer(self) -> BlobWriter:
        return BlobWriter(self)

    def get(self, digest: str) -> bytes:
        """The bytes. Raises BlobMissing."""
        return self.path(digest).read_bytes()

    def path(self, digest: str) -> Path:
        """A local file with the bytes, to read or map and never to write. Raises BlobMissing."""
        location = self.location(digest)
        if not location.is_file():
            raise BlobMissing(digest)
        return location

    def exists(self, digest: str) -> bool:
        return self.location(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes. Raises BlobMissing."""
        return self.path(digest).stat().st_size

    def verify(self, digest: str) -> bool:
        """Reads the whole blob: True when its bytes still have its digest. Raises BlobMissing."""
        with self.path(digest).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest

    def delete(self, digest: str) -> None:
        """Removes the blob; removing what is not there is no error."""
        self.location(digest).unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_blobs(url: str) -> BlobStore:
    """The store at `url` (file:///folder). Raises ValueError for other kinds of URL."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ValueError(f"blob store {url!r}: only file:///folder is supported")
    return BlobStore(Path(unquote(parts.path)))
