"""The Trainer's gRPC face: convert, call, convert."""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import device_service_pb2 as device_pb
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2, worker_service_pb2
from atelier.trainer.v1.device_service_pb2_grpc import DeviceServiceServicer
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceServicer
from atelier.trainer.v1.worker_service_pb2_grpc import WorkerServiceServicer
from google.api.httpbody_pb2 import HttpBody

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument
from services.trainer import convert, domain, jobs, lending
from services.trainer.captioning import Captioning
from services.trainer.catalog import Catalog
from services.trainer.devices import Devices
from services.trainer.events import Events
from services.trainer.sheet import make_sheet
from services.trainer.store import JobFilter
from services.trainer.workers import (
    Ack,
    Assignment,
    Cancel,
    Command,
    Heartbeat,
    Lend,
    Message,
    Numbered,
    Pause,
    TakeBack,
    Workers,
)

DEFAULT_CAPTION_TOKENS = 40

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Watched: TypeAlias = pb.WatchTrainingJobResponse


def watch_response(event: domain.Event | None, sequence: int, status: domain.JobStatus) -> Watched:
    """What watchers are sent, made once for all of them. None is a heartbeat after `sequence`."""
    if event is None:
        beat = training_pb2.TrainingEvent(sequence=sequence, heartbeat=training_pb2.HeartbeatEvent())
        return pb.WatchTrainingJobResponse(event=beat, status=convert.STATUSES[status])
    return pb.WatchTrainingJobResponse(event=convert.event_to_proto(event), status=convert.STATUSES[status])


@dataclass(frozen=True, slots=True)
class Capabilities:
    max_running_jobs: Callable[[], int]
    heartbeat_seconds: float


def version() -> str:
    """The installed distribution's version; "source" where the code runs without being installed."""
    try:
        return importlib.metadata.version("atelier")
    except importlib.metadata.PackageNotFoundError:
        return "source"


class TrainerServicer(TrainerServiceServicer):
    """For clients."""

    def __init__(
        self,
        use: jobs.Jobs,
        events: Events[Watched],
        blobs: BlobStore,
        devices: Devices,
        capabilities: Capabilities,
        captioning: Captioning,
    ) -> None:
        self._jobs = use
        self._events = events
        self._blobs = blobs
        self._devices = devices
        self._capabilities = capabilities
        self._captioning = captioning

    async def GetTrainerCapabilities(
        self, request: pb.GetTrainerCapabilitiesRequest, context: Context
    ) -> pb.GetTrainerCapabilitiesResponse:
        defaults = domain.TrainingConfig(
            lora=domain.LoraConfig(), dreambooth=domain.DreamBoothConfig(), video=domain.VideoConfig()
        )
        families = [model_pb2.ModelFamily.Value(f"MODEL_FAMILY_{name.upper()}") for name in jobs.FAMILIES]
        return pb.GetTrainerCapabilitiesResponse(
            methods=list(convert.METHODS.values()),
            families=families,
            devices=[convert.DEVICES[device] for device in await self._devices.available()],
            defaults=convert.config_to_proto(defaults),
            max_running_jobs=self._capabilities.max_running_jobs(),
            version=version(),
            caption_model=self._captioning.model_name,
        )

    async def CreateTrainingJob(
        self, request: pb.CreateTrainingJobRequest, context: Context
    ) -> pb.CreateTrainingJobResponse:
        order = _order(request, output_name=request.output_name, request_id=request.request_id, start=request.start)
        await self._require_device(order.config.device)
        return pb.CreateTrainingJobResponse(job=convert.job_to_proto(await self._jobs.create(order)))

    async def EstimateTrainingJob(
        self, request: pb.EstimateTrainingJobRequest, context: Context
    ) -> pb.EstimateTrainingJobResponse:
        order = _order(request)
        await self._require_device(order.config.device)
        return convert.estimate_to_proto(await self._jobs.estimate(order))

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.GetTrainingJobResponse:
        return pb.GetTrainingJobResponse(job=convert.job_to_proto(await self._jobs.get(request.job_id)))

    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        where = JobFilter(
            status=next((each for each, number in convert.STATUSES.items() if number == request.status), None),
            dataset_id=request.dataset_id if request.HasField("dataset_id") else None,
            unfinished=request.unfinished,
        )
        found, token, total = await self._jobs.list_page(where, size=request.page_size, token=request.page_token)
        listed = [convert.job_to_proto(job) for job in found]
        return pb.ListTrainingJobsResponse(jobs=listed, next_page_token=token, total_size=total)

    async def StartTrainingJob(
        self, request: pb.StartTrainingJobRequest, context: Context
    ) -> pb.StartTrainingJobResponse:
        return pb.StartTrainingJobResponse(job=convert.job_to_proto(await self._jobs.start(request.job_id)))

    async def CancelTrainingJob(
        self, request: pb.CancelTrainingJobRequest, context: Context
    ) -> pb.CancelTrainingJobResponse:
        return pb.CancelTrainingJobResponse(job=convert.job_to_proto(await self._jobs.cancel(request.job_id)))

    async def PauseTrainingJob(
        self, request: pb.PauseTrainingJobRequest, context: Context
    ) -> pb.PauseTrainingJobResponse:
        return pb.PauseTrainingJobResponse(job=convert.job_to_proto(await self._jobs.pause(request.job_id)))

    async def ResumeTrainingJob(
        self, request: pb.ResumeTrainingJobRequest, context: Context
    ) -> pb.ResumeTrainingJobResponse:
        return pb.ResumeTrainingJobResponse(job=convert.job_to_proto(await self._jobs.resume(request.job_id)))

    async def RetryTrainingJob(
        self, request: pb.RetryTrainingJobRequest, context: Context
    ) -> pb.RetryTrainingJobResponse:
        return pb.RetryTrainingJobResponse(job=convert.job_to_proto(await self._jobs.retry(request.job_id)))

    async def PrioritizeTrainingJob(
        self, request: pb.PrioritizeTrainingJobRequest, context: Context
    ) -> pb.PrioritizeTrainingJobResponse:
        job = await self._jobs.prioritize(request.job_id, request.priority)
        return pb.PrioritizeTrainingJobResponse(job=convert.job_to_proto(job))

    async def DeleteTrainingJob(
        self, request: pb.DeleteTrainingJobRequest, context: Context
    ) -> pb.DeleteTrainingJobResponse:
        await self._jobs.delete(request.job_id)
        return pb.DeleteTrainingJobResponse()

    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        async with aclosing(self._events.watch(request.job_id, request.after_sequence)) as watched:
            async for seen in watched:
                yield seen.message

    async def ListMetrics(self, request: pb.ListMetricsRequest, context: Context) -> pb.ListMetricsResponse:
        points = await self._jobs.metrics(request.job_id, request.max_points)
        validations = [convert.validation_to_proto(each) for each in await self._jobs.validations(request.job_id)]
        measured = [convert.progress_to_proto(point) for point in points]
        return pb.ListMetricsResponse(points=measured, validations=validations)

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> AsyncIterator[pb.StreamLogsResponse]:
        last = request.after_sequence
        head = (await self._jobs.get(request.job_id)).last_sequence
        for event in await self._jobs.logs(request.job_id, after=last):
            yield pb.StreamLogsResponse(event=convert.event_to_proto(event))
            last = event.sequence
        if not request.follow:
            return
        sent = time.monotonic()
        async with aclosing(self._events.watch(request.job_id, max(last, head))) as watched:
            async for seen in watched:
                line = seen.event is not None and isinstance(seen.event.body, domain.Log)
                if line or seen.event is None:
                    yield pb.StreamLogsResponse(event=seen.message.event)
                elif time.monotonic() - sent >= self._capabilities.heartbeat_seconds:
                    # A job that trains and prints nothing: the stream must not seem dead.
                    beat = watch_response(None, seen.message.event.sequence, domain.JobStatus.RUNNING)
                    yield pb.StreamLogsResponse(event=beat.event)
                else:
                    continue
                sent = time.monotonic()

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        checkpoints = await self._jobs.checkpoints(request.job_id)
        return pb.ListCheckpointsResponse(checkpoints=[convert.checkpoint_to_proto(each) for each in checkpoints])

    async def PromoteCheckpoint(
        self, request: pb.PromoteCheckpointRequest, context: Context
    ) -> pb.PromoteCheckpointResponse:
        done = await self._jobs.promote(request.job_id, request.step, request.name)
        return pb.PromoteCheckpointResponse(model_id=done.model_id, model_name=done.model_name)

    async def CaptionDataset(
        self, request: pb.CaptionDatasetRequest, context: Context
    ) -> AsyncIterator[pb.CaptionDatasetResponse]:
        order = domain.CaptionOrder(
            request.dataset_id, request.overwrite, request.prefix, request.max_tokens or DEFAULT_CAPTION_TOKENS
        )
        async with aclosing(self._captioning.caption(order)) as said:
            async for each in said:
                yield convert.captioned_to_proto(each)

    async def DownloadSampleSheet(
        self, request: pb.DownloadSampleSheetRequest, context: Context
    ) -> pb.DownloadSampleSheetResponse:
        samples = await self._jobs.samples(request.job_id)
        data = await asyncio.to_thread(make_sheet, samples, self._blobs)
        return pb.DownloadSampleSheetResponse(content=HttpBody(content_type="image/png", data=data))

    async def DownloadSample(self, request: pb.DownloadSampleRequest, context: Context) -> pb.DownloadSampleResponse:
        await self._jobs.require_sample(request.job_id, request.sha256)
        data = await asyncio.to_thread(self._blobs.get, request.sha256)
        kind = "image/webp" if data[:4] == b"RIFF" else "image/png"  # a clip
        return pb.DownloadSampleResponse(content=HttpBody(content_type=kind, data=data))

    async def _require_device(self, device: domain.Device) -> None:
        if device in (domain.Device.AUTO, domain.Device.CPU):
            return
        if device not in (available := await self._devices.available()):
            known = ", ".join(each.value for each in available)
            message = f"device {device.value} is not there; this machine has {known}"
            raise FailedPrecondition(message, reason="DEVICE_UNAVAILABLE")


def _order(
    request: pb.CreateTrainingJobRequest | pb.EstimateTrainingJobRequest,
    *,
    request_id: str = "",
    output_name: str = "",
    start: bool = False,
) -> jobs.Order:
    return jobs.Order(
        request_id=request_id,
        dataset_id=request.dataset_id,
        base_model_id=request.base_model_id,
        method=convert.backwards(convert.METHODS, request.method, domain.Method.LORA),
        output_name=output_name,
        config=convert.config_from_proto(request.config),
        start=start,
    )


class DeviceServicer(DeviceServiceServicer):
    """For Generators of the same machine."""

    def __init__(self, lent: lending.Lending) -> None:
        self._lending = lent

    async def BorrowDevice(
        self, request: device_pb.BorrowDeviceRequest, context: Context
    ) -> AsyncIterator[device_pb.BorrowDeviceResponse]:
        make_room = request.memory_bytes > 0
        async with aclosing(self._lending.borrow(request.device_name, request.host, make_room=make_room)) as answers:
            async for answer in answers:
                yield _answer_to_proto(answer)


class WorkerServicer(WorkerServiceServicer):
    """For this Trainer's own workers."""

    def __init__(self, workers: Workers, catalog: Catalog) -> None:
        self._workers = workers
        self._catalog = catalog

    async def Attach(
        self, request_iterator: AsyncIterator[worker_service_pb2.AttachRequest], context: Context
    ) -> AsyncIterator[worker_service_pb2.AttachResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("hello"):
            raise InvalidArgument("must come first on the stream", field="hello")
        messages = _messages(request_iterator)
        async with aclosing(self._workers.attach(first.hello.job_id, first.hello.token, messages)) as commands:
            async for command in commands:
                yield await self._to_proto(command)

    async def _to_proto(self, command: Command) -> worker_service_pb2.AttachResponse:
        match command:
            case Assignment(job, checkpoints, device):
                assignment = worker_service_pb2.JobAssignment(
                    job=convert.job_to_proto(job),
                    base_models=await self._catalog.base_chain(job.base_model_id),
                    last_report=job.last_report,
                    checkpoints=[convert.stored_checkpoint_to_proto(each) for each in checkpoints],
                    device_name=device,
                )
                return worker_service_pb2.AttachResponse(assignment=assignment)
            case Ack(number):
                return worker_service_pb2.AttachResponse(ack=worker_service_pb2.ReportAck(number=number))
            case Cancel():
                return worker_service_pb2.AttachResponse(cancel=worker_service_pb2.CancelCommand())
            case Pause():
                return worker_service_pb2.AttachResponse(pause=worker_service_pb2.PauseCommand())
            case Lend(make_room):
                return worker_service_pb2.AttachResponse(lend=worker_service_pb2.LendCommand(make_room=make_room))
            case TakeBack():
                return worker_service_pb2.AttachResponse(take_back=worker_service_pb2.TakeBackCommand())


def _answer_to_proto(answer: lending.Answer) -> device_pb.BorrowDeviceResponse:
    match answer:
        case lending.Waiting(num_jobs):
            return device_pb.BorrowDeviceResponse(waiting=device_pb.DeviceWaiting(num_jobs=num_jobs))
        case lending.Granted(num_jobs, num_unwilling, millis):
            granted = device_pb.DeviceGranted(num_jobs=num_jobs, num_unwilling=num_unwilling, waited_millis=millis)
            return device_pb.BorrowDeviceResponse(granted=granted)
        case lending.Heartbeat():
            return device_pb.BorrowDeviceResponse(heartbeat=device_pb.DeviceHeartbeat())


async def _messages(requests: AsyncIterator[worker_service_pb2.AttachRequest]) -> AsyncIterator[Message]:
    async for request in requests:
        match request.WhichOneof("message"):
            case "report":
                yield Numbered(request.report.number, convert.report_from_proto(request.report))
            case "heartbeat":
                yield Heartbeat()
            case _:
                raise InvalidArgument("comes once, first on the stream", field="hello")
