"""A worker that learns nothing: it speaks the real Attach protocol from a process of its own, and does what it is told.

The environment variable FAKE_WORKER is JSON: steps, step_seconds, samples and checkpoints (steps at which), prints
(lines), die_at (a step, then SIGKILL), fail_at (a step, then a failure report), crash (a message, then exit code 3),
deaf (goes on when told to stop), silent (says nothing after its assignment), loading_seconds, weights (the text that it
"learnt").
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import training_pb2 as tr
from atelier.trainer.v1 import worker_service_pb2 as pb
from atelier.trainer.v1.worker_service_pb2_grpc import WorkerServiceStub

from services.common.blobs import open_blobs
from services.common.clients import open_channel

GIVE_UP_SECONDS = 30.0
OVER = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)


class Worker:
    def __init__(self, script: dict[str, Any]) -> None:
        self.script = script
        self.reports: list[pb.WorkerReport] = []
        self.acked = 0
        self.changed = asyncio.Event()
        self.assigned = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.pausing = asyncio.Event()
        self.borrowed: pb.LendCommand | None = None
        self.after = 0
        self.blobs = open_blobs(os.environ["ATELIER_WORKER_BLOB_URL"])

    def report(self, **what: Any) -> None:
        self.reports.append(pb.WorkerReport(number=len(self.reports) + 1, **what))
        self.changed.set()

    def files(self, step: int | None = None) -> list[model_pb2.ModelFile]:
        """Of a checkpoint they are this job's and this step's alone, as real ones are."""
        data = self.script.get("weights", "weights").encode()
        if step is not None:
            data += f" of {os.environ['ATELIER_WORKER_JOB_ID']} after {step}".encode()
        digest = self.blobs.put(data)
        return [model_pb2.ModelFile(path="pytorch_lora_weights.safetensors", sha256=digest, size_bytes=len(data))]

    def checkpoint(self, step: int) -> None:
        loss = self.script.get("validations", {}).get(str(step))
        saved = tr.Checkpoint(step=step, size_bytes=7, smoothed_loss=1 / step, validation_loss=loss)
        saved.created_at.GetCurrentTime()
        # Its bytes are this job's and this step's alone, as a real state's are.
        text = f"{os.environ['ATELIER_WORKER_JOB_ID']} {step}".encode()
        state = model_pb2.ModelFile(path="state.safetensors", sha256=self.blobs.put(text), size_bytes=len(text))
        self.report(checkpoint=pb.StoredCheckpoint(checkpoint=saved, files=self.files(step), state=state))

    async def stand_still(self) -> None:
        began, told = time.monotonic(), None
        while self.borrowed is not None and not self.cancelled.is_set() and not self.pausing.is_set():
            if self.borrowed is not told:
                told = self.borrowed
                self.report(lent=tr.LentEvent(made_room=told.make_room))
            await asyncio.sleep(0.01)
        self.report(lent=tr.LentEvent(lent_millis=int((time.monotonic() - began) * 1e3)))

    async def train(self) -> None:
        await self.assigned.wait()
        if self.script.get("silent"):
            await asyncio.sleep(GIVE_UP_SECONDS)
        for line in self.script.get("prints", ()):
            print(line, flush=True)  # noqa: T201  # what is tested
        for name in self.script.get("shows", ()):
            print(f"{name}={os.environ.get(name, '')}", flush=True)  # noqa: T201  # what is tested
        if "crash" in self.script:
            raise RuntimeError(self.script["crash"])
        self.report(loading=tr.LoadingEvent(stage=tr.LOADING_STAGE_LOADING_MODEL))
        await asyncio.sleep(self.script.get("loading_seconds", 0.0))
        self.report(log=tr.LogEvent(level=tr.LOG_LEVEL_INFO, message="the model is loaded"))
        steps, started = self.script.get("steps", 3), time.monotonic()
        for step in range(self.after + 1, steps + 1):
            await asyncio.sleep(self.script.get("step_seconds", 0.0))
            if self.borrowed is not None:
                await self.stand_still()
            if self.cancelled.is_set() and not self.script.get("deaf"):
                self.report(cancelled=tr.CancelledEvent())
                return
            elapsed = int((time.monotonic() - started) * 1e3)
            self.report(
                step=tr.StepProgress(
                    step=step, total_steps=steps, epoch=1, total_epochs=1, loss=1 / step, smoothed_loss=1 / step,
                    learning_rate=1e-4, images_per_second=40.0, elapsed_millis=elapsed, memory_bytes=1 << 28,
                )
            )  # fmt: skip
            if loss := self.script.get("validations", {}).get(str(step)):
                self.report(validation=tr.ValidationEvent(step=step, loss=loss, num_images=4))
            if step in self.script.get("samples", ()):
                digest = self.blobs.put(f"picture {step}".encode())
                self.report(sample=tr.SampleEvent(step=step, prompt="an apple", sha256=digest, width=64, height=64))
            if step in self.script.get("checkpoints", ()):
                self.checkpoint(step)
            if self.pausing.is_set() and step < steps:
                self.checkpoint(step)
                self.report(paused=tr.PausedEvent())
                return
            if step == self.script.get("die_at"):
                while self.acked < len(self.reports):  # noqa: ASYNC110  # a few times in one test
                    await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            if step == self.script.get("fail_at"):
                self.report(failed=tr.JobFailure(reason="OUT_OF_MEMORY", message="no memory left"))
                return
        layout = model_pb2.WEIGHTS_LAYOUT_LORA
        self.report(trained=pb.TrainedWeights(step=steps, layout=layout, files=self.files()))

    async def requests(self, last: int) -> AsyncIterator[pb.AttachRequest]:
        while True:
            self.changed.clear()
            for report in self.reports[last:]:
                yield pb.AttachRequest(report=report)
                last = report.number
            try:
                await asyncio.wait_for(self.changed.wait(), 0.2)
            except TimeoutError:
                if not self.script.get("silent"):
                    yield pb.AttachRequest(heartbeat=pb.WorkerHeartbeat())

    async def attach_once(self) -> None:
        async with open_channel(os.environ["ATELIER_WORKER_TRAINER_ADDRESS"]) as channel:
            call = WorkerServiceStub(channel).Attach()
            hello = pb.WorkerHello(job_id=os.environ["ATELIER_WORKER_JOB_ID"], token=os.environ["ATELIER_WORKER_TOKEN"])
            await call.write(pb.AttachRequest(hello=hello))
            sender: asyncio.Task[None] | None = None

            async def send(last: int) -> None:
                async for request in self.requests(last):
                    await call.write(request)

            try:
                async for response in call:
                    match response.WhichOneof("command"):
                        case "assignment":
                            assert response.assignment.base_models, "the base model comes with the assignment"
                            self.acked = response.assignment.last_report
                            if not self.reports and response.assignment.checkpoints:
                                self.after = response.assignment.checkpoints[0].checkpoint.step
                            self.assigned.set()
                            sender = asyncio.create_task(send(self.acked))
                        case "ack":
                            self.acked = response.ack.number
                        case "cancel":
                            self.cancelled.set()
                        case "pause":
                            self.pausing.set()
                        case "lend":
                            self.borrowed = response.lend
                        case "take_back":
                            self.borrowed = None
            finally:
                if sender:
                    sender.cancel()
                    await asyncio.gather(sender, return_exceptions=True)

    def over(self) -> bool:
        last = self.reports[-1].WhichOneof("report") if self.reports else ""
        return last in ("trained", "failed", "cancelled", "paused") and self.acked >= len(self.reports)

    async def talk(self) -> None:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not self.over():
            try:
                await self.attach_once()
            except grpc.aio.AioRpcError as error:
                if error.code() in OVER:
                    sys.exit(4)
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


async def main() -> None:
    worker = Worker(json.loads(os.environ.get("FAKE_WORKER", "{}")))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.train())
        await worker.talk()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except BaseExceptionGroup as error:
        print(error.exceptions[0], file=sys.stderr, flush=True)  # noqa: T201  # what is tested
        sys.exit(3)
