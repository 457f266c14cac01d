"""A Catalog and a Trainer, really served, and a client of both."""

import asyncio
import io
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from google.api.httpbody_pb2 import HttpBody
from PIL import Image

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from services.trainer.store import Store

if TYPE_CHECKING:  # these are in the stubs of the generated code alone
    from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceAsyncStub

FAKE_WORKER = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))
ENDS = {tr.JOB_STATUS_COMPLETED, tr.JOB_STATUS_FAILED, tr.JOB_STATUS_CANCELLED}
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def picture(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 90, 30)).save(data, "PNG")
    return data.getvalue()


def script(monkeypatch: Any, **told: object) -> None:
    """What the next workers do; see fake_worker.py."""
    monkeypatch.setenv("FAKE_WORKER", json.dumps(told))


@dataclass
class Known:
    """What the Catalog holds when a test begins."""

    dataset_id: int
    empty_dataset_id: int
    base_id: int
    other_family_id: int
    lora_id: int


async def fill(catalog: "CatalogServiceAsyncStub", blobs: BlobStore) -> Known:
    ids = []
    for name, pictures in (("icons", 3), ("nothing", 0)):
        made = await catalog.CreateDataset(catalog_pb2.CreateDatasetRequest(name=name))
        for number in range(pictures):
            upload = catalog_pb2.UploadImageRequest(dataset_id=made.dataset.id, filename=f"{number}.png")
            upload.content.CopyFrom(HttpBody(content_type="image/png", data=picture(number * 60)))
            await catalog.UploadImage(upload)
        ids.append(made.dataset.id)
    files = [model_pb2.ModelFile(path="model_index.json", sha256=blobs.put(b"{}"), size_bytes=2)]

    async def model(name: str, **more: Any) -> int:
        request = catalog_pb2.RegisterModelRequest(
            name=name,
            category=model_pb2.MODEL_CATEGORY_IMAGE,
            stored=model_pb2.StoredWeights(files=files),
            license="Apache-2.0",
            native_resolution=64,
            **more,
        )
        return (await catalog.RegisterModel(request)).model.id

    base: dict[str, Any] = {"type": model_pb2.MODEL_TYPE_BASE_MODEL, "layout": model_pb2.WEIGHTS_LAYOUT_PIPELINE}
    base_id = await model("starter", family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION, **base)
    other = await model("big", family=model_pb2.MODEL_FAMILY_STABLE_VIDEO_DIFFUSION, **base)
    lora = await model(
        "adapter",
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        type=model_pb2.MODEL_TYPE_LORA,
        layout=model_pb2.WEIGHTS_LAYOUT_LORA,
        base_model_id=base_id,
    )
    return Known(ids[0], ids[1], base_id, other, lora)


@dataclass
class Client:
    """Calls a Trainer."""

    stub: "TrainerServiceAsyncStub"
    known: Known
    channel: grpc.aio.Channel = field(repr=False)
    address: str = ""

    async def create(self, **more: Any) -> tr.TrainingJob:
        values = {"dataset_id": self.known.dataset_id, "base_model_id": self.known.base_id, "start": True, **more}
        return (await self.stub.CreateTrainingJob(pb.CreateTrainingJobRequest(**values))).job

    async def get(self, job_id: str) -> tr.TrainingJob:
        return (await self.stub.GetTrainingJob(pb.GetTrainingJobRequest(job_id=job_id))).job

    def watch(
        self, job_id: str, after: int = 0
    ) -> grpc.aio.UnaryStreamCall[pb.WatchTrainingJobRequest, pb.WatchTrainingJobResponse]:
        return self.stub.WatchTrainingJob(pb.WatchTrainingJobRequest(job_id=job_id, after_sequence=after))

    async def events(self, job_id: str, after: int = 0) -> list[tr.TrainingEvent]:
        """All events until the job ends, heartbeats left out."""
        seen = [response.event async for response in self.watch(job_id, after)]
        return [event for event in seen if event.WhichOneof("event") != "heartbeat"]

    async def until(self, job_id: str, kind: str) -> tr.TrainingEvent:
        """The first event of a kind."""
        async for response in self.watch(job_id):
            if response.event.WhichOneof("event") == kind:
                return response.event
        raise AssertionError(f"job {job_id} ended without an event {kind}: {await self.get(job_id)}")

    async def reaches(self, job_id: str, status: tr.JobStatus.ValueType) -> tr.TrainingJob:
        """The job once it has this status."""
        async with asyncio.timeout(30):
            while (job := await self.get(job_id)).status != status:  # noqa: ASYNC110  # no watch here
                await asyncio.sleep(0.05)
        return job

    async def ended(self, job_id: str, seconds: float = 90) -> tr.TrainingJob:
        """The job once it has ended, asked for again and again: a watch of its own might hide what is tested."""
        async with asyncio.timeout(seconds):
            while (job := await self.get(job_id)).status not in ENDS:  # noqa: ASYNC110  # no watch here
                await asyncio.sleep(0.05)
        return job


def workers_of(job_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.environ().get("ATELIER_WORKER_JOB_ID") == job_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@asynccontextmanager
async def client_of(address: str, known: Known) -> AsyncIterator[Client]:
    async with open_channel(address) as channel:
        yield Client(TrainerServiceStub(channel), known, channel, address)


def settings(folder: Path, catalog_address: str, blobs: BlobStore, **more: Any) -> TrainerSettings:
    """Quick ones, for tests."""
    values = {
        "data_dir": folder / "trainer",
        "blob_url": blobs.url,
        "catalog_address": catalog_address,
        "poll_seconds": 0.2,
        "cancel_grace_seconds": 1.0,
        "stop_grace_seconds": 2.0,
        "replica": "one",
        **more,
    }
    return TrainerSettings(**values)


@asynccontextmanager
async def trainer(given: TrainerSettings, known: Known, *, store_type: type[Store] = Store) -> AsyncIterator[Client]:
    """A Trainer in this process, with fake workers, and its client."""
    async with (
        serving(given, worker_command=FAKE_WORKER, store_type=store_type) as server,
        client_of(server.address, known) as client,
    ):
        yield client


class Process:
    """A Trainer process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    async def kill(self) -> None:
        """No goodbye, no clean-up: as when the power goes."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def trainer_process(
    given: TrainerSettings, folder: Path, *, crash_at: str = "", real: bool = False
) -> AsyncIterator[Process]:
    """A Trainer in a process of its own; see run_trainer.py for `crash_at`. `real`: with real workers."""
    note = folder / f"address-{time.monotonic_ns()}"
    environment = {
        **os.environ,
        "CRASH_AT": crash_at,
        "REAL_WORKER": "1" if real else "",
        "ATELIER_TRAINER_ANNOUNCE_FILE": str(note),
    }
    for name in ("data_dir", "blob_url"):
        environment[f"ATELIER_{name.upper()}"] = str(getattr(given, name))
    for name in ("listen", "catalog_address", "poll_seconds", "lease_seconds", "stop_grace_seconds", "replica"):
        environment[f"ATELIER_TRAINER_{name.upper()}"] = str(getattr(given, name))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.trainer.run_trainer", env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while not note.exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.02)
        yield Process(process, note.read_text())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
