"""progress: what watching a training job costs it, and how long its watchers wait for an event.

One real job (LoRA on the starter model, one worker process) trains through the whole run. 1, 50 and 1,000 watchers
come and go in turn, in a process of their own, over real streams; the pace of the steps while they are there is
compared with the pace of the same job unwatched just before and just after. The worker has one half of the cores to
itself, the services and the watchers share the other, as a GPU does not share its work with the CPU that talks: without
that the watchers' own work would be measured as the Trainer's. A watcher's wait is from the moment an event was stored
to its arrival.

Usage: python -m benchmarks.progress [--rounds 5] [--seconds 10]
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from google.api.httpbody_pb2 import HttpBody

from benchmarks.harness import Row, percentile, report, spread
from services.catalog.__main__ import build
from services.catalog.config import CatalogSettings
from services.common.clients import open_channel
from services.common.telemetry import configure_logging
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings

if TYPE_CHECKING:  # these are in the stubs of the generated code alone
    from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceAsyncStub

WATCHERS = (1, 50, 1000)
CHANNELS = 10
MIN_STEPS = 10
"""In a window, however long they take."""
IMAGES = Path(__file__).resolve().parents[1] / "assets" / "demo-images"
SLOWER_AT_MOST, WAIT_AT_MOST_SECONDS = 1.01, 1.0  # to reach


def halves() -> tuple[set[int], set[int]]:
    """(the services' and watchers' cores, the worker's)."""
    cores = sorted(os.sched_getaffinity(0))
    middle = max(1, len(cores) // 2)
    return set(cores[:middle]), set(cores[middle:] or cores)


# --- the watchers' process: commands on standard input, answers on standard output, one JSON a line ---


class Watcher:
    """One stream, and what it has heard."""

    def __init__(self, after: int) -> None:
        self.expected = after + 1
        self.heard = 0
        self.wrong = 0
        self.cuts = 0
        self.waits: list[float] = []
        self.first = asyncio.Event()
        self.since = math.inf
        """Waits count for events stored after this moment, when all watchers had joined."""

    async def watch(self, stub: "TrainerServiceAsyncStub", job_id: str) -> None:
        """Until it is cancelled; a stream that is cut goes on after the last event heard, as the SDK does it."""
        while True:
            try:
                await self._watch(stub, job_id)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                    raise
            self.cuts += 1
            await asyncio.sleep(0.1)

    async def _watch(self, stub: "TrainerServiceAsyncStub", job_id: str) -> None:
        request = pb.WatchTrainingJobRequest(job_id=job_id, after_sequence=self.expected - 1)
        async for response in stub.WatchTrainingJob(request):
            event = response.event
            if event.HasField("heartbeat"):
                continue
            stored = event.created_at.ToNanoseconds() / 1e9
            if stored > self.since:
                self.waits.append(time.time() - stored)
            self.wrong += event.sequence != self.expected
            self.expected = event.sequence + 1
            self.heard += 1
            self.first.set()


async def watch_on_command(address: str, job_id: str) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(address)) for _ in range(CHANNELS)]
        stubs = [TrainerServiceStub(channel) for channel in channels]
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            opened = time.time()
            watchers = [Watcher(order["after"]) for _ in range(order["watchers"])]
            tasks = [
                asyncio.create_task(watcher.watch(stubs[number % CHANNELS], job_id))
                for number, watcher in enumerate(watchers)
            ]
            await asyncio.gather(*(watcher.first.wait() for watcher in watchers))
            for watcher in watchers:
                watcher.since = time.time()
            print(json.dumps({"seconds": time.time() - opened}), flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            # Those who are a little behind shall have what the first of them has.
            newest = max((watcher.expected for watcher in watchers), default=0)
            deadline = time.time() + 10
            while time.time() < deadline and any(watcher.expected < newest for watcher in watchers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            behind = sum(watcher.expected < newest for watcher in watchers)
            cuts = sum(watcher.cuts for watcher in watchers)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [end for end in ends if isinstance(end, Exception)]
            for error in failed[:1]:
                print(f"{len(failed)} watchers broke off: {error}", file=sys.stderr)
            answer = {
                "waits": [round(wait, 4) for watcher in watchers for wait in watcher.waits],
                "heard": sum(watcher.heard for watcher in watchers),
                "cuts": cuts,
                "wrong": sum(watcher.wrong for watcher in watchers) + behind + len(failed),
            }
            print(json.dumps(answer), flush=True)


# --- the servers' process ---


async def serve(folder: Path) -> None:
    """A Catalog and a Trainer until standard input closes; their addresses are the first line of output."""
    configure_logging(level="warning")  # to standard error: nobody reads on from standard output
    blobs = (folder / "blobs").as_uri()
    worker = (sys.executable, "-m", "benchmarks.progress", "--worker")
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(build(CatalogSettings(data_dir=folder / "catalog", blob_url=blobs)))
        await stack.enter_async_context(catalog)
        settings = TrainerSettings(data_dir=folder / "trainer", blob_url=blobs, catalog_address=catalog.address)
        trainer = await stack.enter_async_context(serving(settings, worker_command=worker))
        print(json.dumps({"catalog": catalog.address, "trainer": trainer.address}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


# --- the measurement ---


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "benchmarks.progress", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 28)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def ask(process: asyncio.subprocess.Process, order: dict[str, Any] | None) -> dict[str, Any]:
    """Sends an order (None: none) and reads the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    if order is not None:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await process.stdin.drain()
    answer: dict[str, Any] = json.loads(await process.stdout.readline())
    return answer


async def start_job(catalog: "CatalogServiceAsyncStub", trainer: "TrainerServiceAsyncStub") -> str:
    """A job that trains for as long as anybody measures."""
    models = (await catalog.SeedModels(catalog_pb2.SeedModelsRequest())).models
    dataset = (await catalog.CreateDataset(catalog_pb2.CreateDatasetRequest(name="demo"))).dataset
    for path in sorted(IMAGES.glob("*.png"))[:16]:
        upload = catalog_pb2.UploadImageRequest(dataset_id=dataset.id, filename=path.name, caption=path.stem)
        upload.content.CopyFrom(HttpBody(content_type="image/png", data=path.read_bytes()))
        await catalog.UploadImage(upload)
    config = tr.TrainingConfig(
        max_steps=1_000_000, batch_size=4, learning_rate=1e-5, seed=0, device=tr.DEVICE_CPU, lora=tr.LoraConfig(rank=8)
    )
    order = pb.CreateTrainingJobRequest(dataset_id=dataset.id, base_model_id=models[-1].id, config=config, start=True)
    job = (await trainer.CreateTrainingJob(order)).job
    async for response in trainer.WatchTrainingJob(pb.WatchTrainingJobRequest(job_id=job.id)):
        if response.event.HasField("failed"):
            raise RuntimeError(response.event.failed.message)
        if response.event.step.step >= 10:
            break
    return job.id


async def measure(
    trainer: "TrainerServiceAsyncStub", watching: asyncio.subprocess.Process, job_id: str, number: int, seconds: float
) -> tuple[float, dict[str, Any]]:
    """Seconds a training step takes while `number` watch, and what they heard."""

    async def job() -> tr.TrainingJob:
        return (await trainer.GetTrainingJob(pb.GetTrainingJobRequest(job_id=job_id))).job

    await ask(watching, {"watchers": number, "after": (await job()).last_sequence - 1})
    began = await job()
    ended, until = began, time.time() + seconds
    while time.time() < until or ended.progress.step < began.progress.step + MIN_STEPS:
        await asyncio.sleep(0.5)
        ended = await job()
    heard = await ask(watching, {})
    steps = ended.progress.step - began.progress.step
    return (ended.progress.elapsed_millis - began.progress.elapsed_millis) / 1e3 / steps, heard


async def run(rounds: int, seconds: float) -> int:
    services, worker = halves()
    os.sched_setaffinity(0, services)
    watched: dict[int, list[float]] = {number: [] for number in WATCHERS}
    ratios: dict[int, list[float]] = {number: [] for number in WATCHERS}
    heard: dict[int, list[dict[str, Any]]] = {number: [] for number in WATCHERS}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = await stack.enter_async_context(child("--serve", str(folder)))
        address = await ask(servers, None)
        catalog = CatalogServiceStub(await stack.enter_async_context(open_channel(address["catalog"])))
        trainer = TrainerServiceStub(await stack.enter_async_context(open_channel(address["trainer"])))
        job_id = await start_job(catalog, trainer)
        async with child("--watch", address["trainer"], job_id) as watching:
            for number in WATCHERS:
                await measure(trainer, watching, job_id, number, 2.0)
            alone = [(await measure(trainer, watching, job_id, 0, seconds))[0]]
            for number in WATCHERS * rounds:
                pace, said = await measure(trainer, watching, job_id, number, seconds)
                alone.append((await measure(trainer, watching, job_id, 0, seconds))[0])
                watched[number].append(pace)
                ratios[number].append(pace / statistics.mean(alone[-2:]))
                heard[number].append(said)
        await trainer.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job_id))
    rows = [Row("a step, unwatched", statistics.median(alone) * 1e3, "ms", spread(alone) * 1e3)]
    for number in WATCHERS:
        pace, ratio = statistics.median(watched[number]) * 1e3, statistics.median(ratios[number])
        name, around, reached = f"a step, {number} watchers", spread(watched[number]) * 1e3, ratio <= SLOWER_AT_MOST
        rows.append(Row(name, pace, "ms", around, ratio, "unwatched", f"<= {SLOWER_AT_MOST}", reached))
    for number in WATCHERS:
        waits = [wait for said in heard[number] for wait in said["waits"]]
        late, wrong = percentile(waits, 0.99), sum(said["wrong"] for said in heard[number])
        rows.append(Row(f"wait, {number} watchers, median", statistics.median(waits) * 1e3, "ms"))
        reached = late < WAIT_AT_MOST_SECONDS
        rows.append(Row(f"wait, {number} watchers, p99", late * 1e3, "ms", target="< 1000", reached=reached))
        rows.append(Row(f"lost or doubled of {len(waits)}", wrong, "events", target="0", reached=wrong == 0))
        cuts = sum(said["cuts"] for said in heard[number])
        rows.append(Row(f"streams cut and resumed, {number} watchers", cuts, "streams"))
    cores = {"services_and_watchers": sorted(services), "worker": sorted(worker)}
    figures = {"unwatched": alone, **{f"{number} watchers": watched[number] for number in WATCHERS}}
    figures |= {f"{number} watchers to unwatched": ratios[number] for number in WATCHERS}
    report("progress", rows, figures=figures, extra={"seed": 0, "cores": cores, "window_seconds": seconds})
    return 0


def train_apart() -> None:
    """Becomes the real worker, on its own half of the cores."""
    _, cores = pinned_halves()
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    os.execv(sys.executable, [sys.executable, "-m", "services.trainer.worker"])


def pinned_halves() -> tuple[set[int], set[int]]:
    """`halves` of the whole machine: a child of a pinned process sees only its parent's half."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return halves()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--watch", nargs=2)
    parser.add_argument("--worker", action="store_true")
    told = parser.parse_args()
    if told.worker:
        train_apart()
    elif told.serve:
        asyncio.run(serve(told.serve))
    elif told.watch:
        asyncio.run(watch_on_command(*told.watch))
    else:
        return asyncio.run(run(told.rounds, told.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
