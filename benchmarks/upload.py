"""upload: 1,000 JPEGs of 300 KB streamed over gRPC to a Catalog in its own process, until their rows are committed.

What each is:
- atelier: UploadImages. Every file is hashed, decoded to its last pixel, written aside, fsynced, renamed, its folder
  fsynced; its row is committed (SQLite, WAL, synchronous=NORMAL). The clock stops at the answer.
- an ORM commit per image: a loop in one process, no network. The same check, digest and durable write, then
  `session.add` and `session.commit` for each image, on the same kind of database.
- raw socket + write: the same bytes over loopback TCP to another process that writes them with the same durability
  (fsync, rename, fsync of the folder) one file after another. No digest, no decoding, no rows.
- raw socket + write, unsynced: the same without any fsync; what the page cache takes, which is not durable.
- decoding alone: the same full decode of the same files, on one thread a core. No upload that checks is quicker.
- raw executemany: the 1,000 rows in one transaction of sqlite3, on the same tables. Since no upload of 300 MB compares
  with inserting 1,000 rows, the line is drawn for the rows' share: `rows through the store` is what an upload does with
  the database, in its groups, counts and duplicates included.

Ratios are speeds: 0.5 of a limit takes twice the limit's time.
"""

import argparse
import asyncio
import contextlib
import io
import multiprocessing
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import grpc
import sqlalchemy as sa
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from PIL import Image
from sqlalchemy.orm import DeclarativeBase, Session

from benchmarks.harness import Row, report, run_rounds, spread
from services.catalog.__main__ import MIGRATIONS
from services.catalog.domain import ImageFormat, NewImage
from services.catalog.images import prepare
from services.catalog.store import Store
from services.catalog.tables import image_to_row, images
from services.catalog.uploads import GROUP_BYTES, GROUP_FILES
from services.common.blobs import BlobStore
from services.common.clients import CHANNEL_OPTIONS
from services.common.database import open_database
from services.common.pictures import inspect
from services.common.rows import Transactions, now

FILES, ROUNDS, CHUNK_BYTES = 1000, 5, 1 << 20
SIDE, QUALITY = 640, 88  # noise: about 300 KB
ROW_TARGET, SOCKET_TARGET = 0.5, 0.4
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")


class Base(DeclarativeBase):
    pass


class ImageRow(Base):
    """The peer's mapped class, on the Catalog's own table."""

    __table__ = images


class Files:
    """A thousand new files whenever they are asked for: a few noise images, each copy with a comment of its own."""

    def __init__(self) -> None:
        self._originals, self._made = [noise() for _ in range(8)], 0

    def fresh(self) -> Iterator[tuple[str, bytes]]:
        """Names and bytes that no call before has given, so that no store has them."""
        for number in range(FILES):
            self._made += 1
            original = self._originals[number % len(self._originals)]
            comment = f"{os.getpid()} {self._made}".encode()
            segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
            yield f"{number:04}.jpg", original[:2] + segment + original[2:]


def noise() -> bytes:
    out = io.BytesIO()
    Image.merge("RGB", [Image.effect_noise((SIDE, SIDE), 80)] * 3).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


# --- Atelier ---


@contextlib.contextmanager
def catalog(folder: Path) -> Iterator[tuple[CatalogServiceStub, BlobStore]]:
    """A Catalog in a process of its own, and its blob store."""
    announced = folder / "address"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path if each),
        "ATELIER_DATA_DIR": str(folder),
        "ATELIER_BLOB_URL": (folder / "blobs").as_uri(),
        "ATELIER_CATALOG_ANNOUNCE_FILE": str(announced),
        "ATELIER_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.catalog"], env=environment)
    try:
        while not announced.exists():
            if process.poll() is not None:
                raise RuntimeError("the Catalog did not start")
            time.sleep(0.02)
        with grpc.insecure_channel(announced.read_text(), options=CHANNEL_OPTIONS) as channel:
            yield CatalogServiceStub(channel), BlobStore(folder / "blobs")
    finally:
        process.terminate()
        process.wait(30)


def parts(dataset_id: int, files: Iterator[tuple[str, bytes]]) -> Iterator[pb.UploadImagesRequest]:
    yield pb.UploadImagesRequest(start=pb.UploadStart(dataset_id=dataset_id))
    for name, data in files:
        yield pb.UploadImagesRequest(file=pb.UploadFile(filename=name, size_bytes=len(data)))
        for offset in range(0, len(data), CHUNK_BYTES):
            piece = data[offset : offset + CHUNK_BYTES]
            yield pb.UploadImagesRequest(chunk=pb.UploadChunk(offset=offset, data=piece))


def upload(stub: CatalogServiceStub, blobs: BlobStore, files: Files) -> float:
    """Seconds until the answer. What came is held against what was sent."""
    name = f"round {time.perf_counter_ns()}"
    dataset = stub.CreateDataset(pb.CreateDatasetRequest(name=name)).dataset
    began = time.perf_counter()
    answer = stub.UploadImages(parts(dataset.id, files.fresh()))
    seconds = time.perf_counter() - began
    if len(answer.accepted) != FILES or answer.dataset.num_items != FILES:
        raise RuntimeError(f"{len(answer.accepted)} of {FILES} were taken")
    if not blobs.verify(answer.accepted[-1].sha256):
        raise RuntimeError("the store has other bytes than were sent")
    for image in answer.accepted:
        blobs.delete(image.sha256)
    return seconds


# --- peers and limits ---


def new_dataset(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        moment = now().replace(tzinfo=None).isoformat(" ")
        made = connection.execute(
            "INSERT INTO datasets (name, type, description, num_items, size_bytes, created_at, updated_at)"
            " VALUES (?, 'image', '', 0, 0, ?, ?) RETURNING id",
            (f"round {time.perf_counter_ns()}", moment, moment),
        ).fetchone()
        connection.commit()
    return int(made[0])


def orm(database: Path, blobs: BlobStore, files: Files) -> float:
    """Seconds of the plain loop."""
    dataset_id = new_dataset(database)
    engine = sa.create_engine(f"sqlite:///{database}")
    sa.event.listen(engine, "connect", set_pragmas)
    made: list[str] = []
    began = time.perf_counter()
    with Session(engine) as session:
        for name, data in files.fresh():
            image = prepare(blobs, name, "", data, limits=None)
            if not isinstance(image, NewImage):
                raise RuntimeError(image.rule)
            session.add(ImageRow(**image_to_row(image), dataset_id=dataset_id, created_at=now()))
            session.commit()
            made.append(image.sha256)
    seconds = time.perf_counter() - began
    engine.dispose()
    for digest in made:
        blobs.delete(digest)
    return seconds


def set_pragmas(connection: sqlite3.Connection, _: object = None) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def receive(address: Connection, folder: Path, durable: bool) -> None:
    """The other end of the raw socket: a length and a name's number, then that many bytes, until a length of 0."""
    target = folder / "done"
    target.mkdir()
    handle = os.open(target, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address.send(server.getsockname())
        peer, _ = server.accept()
        with peer, peer.makefile("rb", buffering=1 << 20) as stream:
            number = 0
            while size := struct.unpack(">Q", stream.read(8))[0]:
                number += 1
                aside = folder / f"{number}"
                with aside.open("wb", buffering=0) as file:
                    file.write(stream.read(size))
                    if durable:
                        os.fsync(file.fileno())
                aside.rename(target / aside.name)
                if durable:
                    os.fsync(handle)
            peer.sendall(b"!")
    os.close(handle)


def raw_socket(root: Path, files: Files, *, durable: bool) -> float:
    """Seconds from the first byte to the receiver's word that the last file is written."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=receive, args=(there, Path(folder), durable))
        process.start()
        with socket.create_connection(here.recv()) as peer:
            began = time.perf_counter()
            for _, data in files.fresh():
                peer.sendall(struct.pack(">Q", len(data)))
                peer.sendall(data)
            peer.sendall(struct.pack(">Q", 0))
            if peer.recv(1) != b"!":
                raise RuntimeError("the receiver failed")
            seconds = time.perf_counter() - began
        process.join()
    os.sync()  # what was left unsynced is not the next one's to write
    return seconds


def decoding(files: Files) -> float:
    """Seconds of the decode that every upload owes, on a thread a core."""
    data = [data for _, data in files.fresh()]
    cores = len(os.sched_getaffinity(0))
    began = time.perf_counter()
    with ThreadPoolExecutor(cores) as threads:
        list(threads.map(inspect, data))
    return time.perf_counter() - began


def rows() -> list[NewImage]:
    stamp = time.perf_counter_ns()
    return [
        NewImage(f"{number:04}.jpg", "", f"{stamp:032x}{number:032x}", ImageFormat.JPEG, SIDE, SIDE, 300_000)
        for number in range(FILES)
    ]


def raw_rows(database: Path) -> float:
    """Seconds of one executemany and its commit."""
    dataset_id, moment = new_dataset(database), now().replace(tzinfo=None).isoformat(" ")
    values = [(*image_to_row(image).values(), dataset_id, moment) for image in rows()]
    columns = ", ".join([*image_to_row(rows()[0]), "dataset_id", "created_at"])
    statement = f"INSERT INTO images ({columns}) VALUES ({', '.join('?' * len(values[0]))})"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        set_pragmas(connection)
        began = time.perf_counter()
        connection.executemany(statement, values)
        connection.commit()
        return time.perf_counter() - began


def store_rows(loop: asyncio.AbstractEventLoop, store: Store, database: Path) -> float:
    """Seconds of the rows of an upload through the store, in an upload's groups."""
    dataset_id, new = new_dataset(database), rows()
    group = min(GROUP_FILES, GROUP_BYTES // new[0].size_bytes)

    async def add() -> float:
        began = time.perf_counter()
        for start in range(0, FILES, group):
            outcome = await store.add_images(dataset_id, new[start : start + group])
            if not all(added for _, added in outcome):
                raise RuntimeError("a row was taken for a repeated one")
        return time.perf_counter() - began

    return loop.run_until_complete(add())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    files = Files()
    sizes = [len(data) for _, data in files.fresh()]
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atelier-upload-")))
        loop = stack.enter_context(asyncio.Runner()).get_loop()
        url = f"sqlite+aiosqlite:///{root / 'peer.sqlite'}"
        engine = loop.run_until_complete(open_database(url, schema="catalog", migrations=MIGRATIONS))
        stack.callback(lambda: loop.run_until_complete(engine.dispose()))
        store = Store(Transactions(engine, "the Catalog"))
        database, plain = root / "peer.sqlite", BlobStore(root / "plain")
        (root / "catalog").mkdir()
        stub, blobs = stack.enter_context(catalog(root / "catalog"))
        figures = run_rounds(
            {
                "atelier": lambda: upload(stub, blobs, files),
                "socket": lambda: raw_socket(root, files, durable=True),
                "orm": lambda: orm(database, plain, files),
                "unsynced": lambda: raw_socket(root, files, durable=False),
                "decode": lambda: decoding(files),
                "store rows": lambda: store_rows(loop, store, database),
                "raw rows": lambda: raw_rows(database),
            },
            rounds=ROUNDS,
        )
    middle = {name: median(values) for name, values in figures.items()}
    ours, of_rows = middle["atelier"], middle["raw rows"] / middle["store rows"]

    def row(name: str, key: str, ratio: float | None = None, against: str = "", target: float = 0.0) -> Row:
        reached = ratio is not None and ratio >= target if target else None
        words = f"{target:g}" if target else ""
        return Row(name, middle[key], "s", spread(figures[key]), ratio, against, words, reached)

    report(
        "upload",
        [
            row(f"atelier, {FILES:,} files", "atelier", middle["socket"] / ours, "raw socket + write", SOCKET_TARGET),
            row("  the same", "atelier", middle["orm"] / ours, "an ORM commit per image"),
            row("  the same", "atelier", middle["decode"] / ours, "decoding alone"),
            row("  the same", "atelier", middle["unsynced"] / ours, "raw socket + write, unsynced"),
            row("  the same", "atelier", middle["raw rows"] / ours, "raw executemany"),
            row("rows through the store", "store rows", of_rows, "raw executemany", ROW_TARGET),
            row("an ORM commit per image", "orm"),
            row("raw socket + write", "socket"),
            row("raw socket + write, unsynced", "unsynced"),
            row("decoding alone", "decode"),
            row("raw executemany", "raw rows"),
        ],
        figures=figures,
        extra={
            "files": FILES,
            "mean_bytes": sum(sizes) / len(sizes),
            "durability": "fsync file and folder; rows WAL, NORMAL",
        },
    )


if __name__ == "__main__":
    main()
