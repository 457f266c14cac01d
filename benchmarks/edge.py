"""edge: what the way through Envoy costs, against calling the service directly by gRPC.

One Catalog, one Trainer and one Envoy, each in a process of its own on loopback; one client, one call at a time.
- unary: GetDataset.
- stream: the 5,000 stored events of a job that has ended, replayed by WatchTrainingJob; messages a second.
- image: DownloadImage of about 1 MB; bytes a second, and the time of one.

Each direct by gRPC, by gRPC through the edge, and by gRPC-Web (HTTP/1.1, one connection that is kept) through the
edge. The gRPC-Web client is plain Python on http.client, the gRPC client is grpcio's C core, so the two clients' own
costs differ; gRPC through the edge is the same client with Envoy between.

Ratios of times are ours to direct gRPC; ratios of throughput too.
"""

import argparse
import asyncio
import contextlib
import http.client
import io
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TypeVar

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from atelier_client.addresses import GATEWAY
from atelier_client.stack import Stack
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from PIL import Image

from benchmarks.harness import Row, percentile, report, run_rounds, spread
from services.common.clients import CHANNEL_OPTIONS
from services.common.database import open_database
from services.trainer import domain
from services.trainer.__main__ import MIGRATIONS
from services.trainer.store import Store

CALLS, IMAGES, EVENTS, ROUNDS = 300, 40, 5000, 5
P50_TARGET, THROUGHPUT_TARGET = 1.6, 0.6
CATALOG, TRAINER = "/atelier.catalog.v1.CatalogService", "/atelier.trainer.v1.TrainerService"
Answer = TypeVar("Answer", bound=Message)


class GrpcWeb:
    """A gRPC-Web client on one connection that is kept open."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def call(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        data = request.SerializeToString()
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        self._connection.request("POST", method, struct.pack(">BI", 0, len(data)) + data, headers)
        response = self._connection.getresponse()
        while True:
            flag, size = struct.unpack(">BI", response.read(5))
            content = response.read(size)
            if flag & 0x80:
                if b"grpc-status:0" not in content:
                    raise RuntimeError(content.decode())
                response.read()
                return
            message = answer()
            message.ParseFromString(content)
            yield message


class Way:
    """One way to the services: how each of the three calls is made."""

    def __init__(
        self,
        dataset: Callable[[catalog_pb.GetDatasetRequest], object],
        watch: Callable[[trainer_pb.WatchTrainingJobRequest], Iterator[object]],
        image: Callable[[catalog_pb.DownloadImageRequest], catalog_pb.DownloadImageResponse],
    ) -> None:
        self.dataset, self.watch, self.image = dataset, watch, image


def by_grpc(catalog: grpc.Channel, trainer: grpc.Channel) -> Way:
    stub = CatalogServiceStub(catalog)
    return Way(stub.GetDataset, TrainerServiceStub(trainer).WatchTrainingJob, stub.DownloadImage)


def by_grpc_web(web: GrpcWeb) -> Way:
    def one(answers: Iterator[Answer]) -> Answer:
        (only,) = answers
        return only

    return Way(
        lambda request: one(web.call(f"{CATALOG}/GetDataset", request, catalog_pb.GetDatasetResponse)),
        lambda request: web.call(f"{TRAINER}/WatchTrainingJob", request, trainer_pb.WatchTrainingJobResponse),
        lambda request: one(web.call(f"{CATALOG}/DownloadImage", request, catalog_pb.DownloadImageResponse)),
    )


async def write_job(folder: Path) -> str:
    """A job with `EVENTS` steps that has ended, in the Trainer's database under `folder`; gives its id."""
    url = f"sqlite+aiosqlite:///{folder / 'trainer'}.sqlite"
    engine = await open_database(url, schema="trainer", migrations=MIGRATIONS)
    store, job_id = Store(engine), str(uuid.uuid4())
    config = domain.TrainingConfig(resolution=64, seed=7)
    await store.create(domain.NewJob(job_id, None, 1, 4, domain.Method.LORA, "", config, "ab" * 32, 40))
    await store.queue(job_id)
    await store.claim(owner="benchmark", token="benchmark", lease_seconds=60)
    steps = [
        domain.Progress(step, EVENTS, 1, 1, 0.5, 0.5, 1e-4, 30.0, step, EVENTS - step, 1 << 30, 0.1)
        for step in range(1, EVENTS + 1)
    ]
    reports: list[domain.Report] = [*steps, domain.Failure("BENCHMARK", "it has all it needs")]
    await store.append_reports(job_id, "benchmark", first=1, reports=reports, lease_seconds=60)
    await engine.dispose()
    return job_id


def megabyte() -> bytes:
    """A JPEG of noise, about 1 MB."""
    out = io.BytesIO()
    Image.merge("RGB", [Image.effect_noise((1100, 1100), 80)] * 3).save(out, "JPEG", quality=90)
    return out.getvalue()


def unary(way: Way, dataset_id: int) -> float:
    """The median of `CALLS` calls, in seconds."""
    request, times = catalog_pb.GetDatasetRequest(dataset_id=dataset_id), []
    for _ in range(CALLS):
        began = time.perf_counter()
        way.dataset(request)
        times.append(time.perf_counter() - began)
    return percentile(times, 0.5)


def stream(way: Way, job_id: str) -> float:
    """Messages a second."""
    began = time.perf_counter()
    count = sum(1 for _ in way.watch(trainer_pb.WatchTrainingJobRequest(job_id=job_id)))
    seconds = time.perf_counter() - began
    if count < EVENTS:
        raise RuntimeError(f"{count} of {EVENTS} events came")
    return count / seconds


def image(way: Way, image_id: int, size: int) -> float:
    """The median of `IMAGES` downloads, in seconds."""
    request, times = catalog_pb.DownloadImageRequest(image_id=image_id), []
    for _ in range(IMAGES):
        began = time.perf_counter()
        answer = way.image(request)
        times.append(time.perf_counter() - began)
        if len(answer.content.data) != size:
            raise RuntimeError("the image came short")
    return percentile(times, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atelier-edge-")))
        job_id = asyncio.run(write_job(folder))
        quiet = {"ATELIER_LOG_LEVEL": "warning"}
        running = stack.enter_context(Stack(folder, services=["catalog", "trainer", GATEWAY], environment=quiet))
        where = running.addresses
        catalog, trainer, edge = (
            stack.enter_context(
                grpc.insecure_channel(address, options=[*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)])
            )
            for address in (where.catalog, where.trainer, where.gateway)
        )
        ways = {
            "direct": by_grpc(catalog, trainer),
            "edge": by_grpc(edge, edge),
            "web": by_grpc_web(GrpcWeb(where.gateway)),
        }
        stub, data = CatalogServiceStub(catalog), megabyte()
        dataset = stub.CreateDataset(catalog_pb.CreateDatasetRequest(name="edge")).dataset
        content = HttpBody(content_type="image/jpeg", data=data)
        request = catalog_pb.UploadImageRequest(dataset_id=dataset.id, content=content, filename="a.jpg")
        image_id = stub.UploadImage(request).image.id
        contenders: dict[str, Callable[[], float]] = {}
        for name, way in ways.items():
            contenders[f"unary {name}"] = lambda way=way: unary(way, dataset.id)  # type: ignore[misc]
            contenders[f"stream {name}"] = lambda way=way: stream(way, job_id)  # type: ignore[misc]
            contenders[f"image {name}"] = lambda way=way: image(way, image_id, len(data))  # type: ignore[misc]
        figures = run_rounds(contenders, rounds=rounds)
    report("edge", rows(figures, len(data)), figures=figures, extra={"image_bytes": len(data), "events": EVENTS})


def rows(figures: dict[str, list[float]], size: int) -> list[Row]:
    """The table: what is to be reached is asked of gRPC-Web."""
    middle = {name: median(values) for name, values in figures.items()}
    labels = {"direct": "direct gRPC", "edge": "gRPC through the edge", "web": "gRPC-Web through the edge"}
    table = []
    for way, label in labels.items():
        asked, against = way == "web", "direct gRPC" if way != "direct" else ""
        for what in ("unary", "image"):
            key = f"{what} {way}"
            times = middle[key] / middle[f"{what} direct"] if against else None
            reached = times is not None and times <= P50_TARGET if asked else None
            target = f"{P50_TARGET:g}x" if asked else ""
            value, sway = middle[key] * 1e3, spread(figures[key]) * 1e3
            table.append(Row(f"{what}, p50, {label}", value, "ms", sway, times, against, target, reached))
        speeds = {
            "stream": (middle[f"stream {way}"], "messages/s"),
            "image": (size / middle[f"image {way}"] / 1e6, "MB/s"),
        }
        base = {"stream": middle["stream direct"], "image": size / middle["image direct"] / 1e6}
        for what, (value, unit) in speeds.items():
            share = value / base[what] if against else None
            reached = share is not None and share >= THROUGHPUT_TARGET if asked else None
            target = f"{THROUGHPUT_TARGET:g}" if asked else ""
            sway = spread(figures[f"stream {way}"]) if what == "stream" else 0.0
            table.append(Row(f"{what}, throughput, {label}", value, unit, sway, share, against, target, reached))
    return table


if __name__ == "__main__":
    main()
