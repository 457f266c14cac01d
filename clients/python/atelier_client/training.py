"""Training jobs: create, start, watch, cancel."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as types
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from atelier.trainer.v1.training_pb2 import TrainingConfig, TrainingEvent, TrainingJob

from atelier_client import plain
from atelier_client.datasets import DatasetRef, Datasets
from atelier_client.errors import AtelierError, Cancelled, InternalError, Unavailable
from atelier_client.models import ModelRef, Models
from atelier_client.transport import Transport, backoff

ENDED = frozenset({types.JOB_STATUS_COMPLETED, types.JOB_STATUS_FAILED, types.JOB_STATUS_CANCELLED})
LAST_EVENTS = frozenset({"done", "failed", "cancelled"})
PATIENCE_SECONDS = 60.0
ESTIMATE_SECONDS = 330.0  # the Trainer's own limit is 300


class Training:
    """The Trainer's jobs."""

    def __init__(self, trainer: Transport, datasets: Datasets, models: Models) -> None:
        self._trainer = trainer
        self._datasets = datasets
        self._models = models

    @cached_property
    def _stub(self) -> TrainerServiceStub:
        return TrainerServiceStub(self._trainer.channel)

    def capabilities(self) -> pb.GetTrainerCapabilitiesResponse:
        """Methods, families, devices, and the configuration's defaults."""
        return self._trainer.call(self._stub.GetTrainerCapabilities, pb.GetTrainerCapabilitiesRequest())

    def create(
        self,
        dataset: DatasetRef,
        base_model: ModelRef,
        *,
        method: str = "lora",
        output_name: str = "",
        config: TrainingConfig | Mapping[str, Any] | None = None,
        start: bool = False,
    ) -> TrainingJob:
        """A new job on the dataset as it is now; every default is visible in the answer's `config`.

        `config` may be a dict with the message's field names: {"epochs": 5, "lora": {"rank": 8}, "schedule": "cosine"}.
        Raises NotFound, InvalidArgument, FailedPrecondition.
        """
        number = plain.number_of(types.TrainingMethod.DESCRIPTOR, method, field="method")
        request = pb.CreateTrainingJobRequest(
            request_id=str(uuid.uuid4()),
            dataset_id=self._datasets.id_of(dataset),
            base_model_id=self._models.id_of(base_model),
            method=types.TrainingMethod.ValueType(number),
            output_name=output_name,
            config=training_config(config or {}),
            start=start,
        )
        return self._trainer.call(self._stub.CreateTrainingJob, request).job

    def estimate(
        self,
        dataset: DatasetRef,
        base_model: ModelRef,
        *,
        method: str = "lora",
        config: TrainingConfig | Mapping[str, Any] | None = None,
    ) -> pb.EstimateTrainingJobResponse:
        """What such a job would take: steps, memory, time, disk. It is measured by a few steps, which takes seconds.

        Raises as `create`, and FailedPrecondition (DOES_NOT_FIT) where the device or the disk is too small.
        """
        number = plain.number_of(types.TrainingMethod.DESCRIPTOR, method, field="method")
        request = pb.EstimateTrainingJobRequest(
            dataset_id=self._datasets.id_of(dataset),
            base_model_id=self._models.id_of(base_model),
            method=types.TrainingMethod.ValueType(number),
            config=training_config(config or {}),
        )
        return self._trainer.call(self._stub.EstimateTrainingJob, request, timeout=ESTIMATE_SECONDS)

    def caption(
        self, dataset: DatasetRef, *, overwrite: bool = False, prefix: str = "", max_tokens: int = 0
    ) -> Iterator[pb.CaptionDatasetResponse]:
        """Captions a dataset's pictures with the deployment's captioning model: `progress`, with each caption once it
        is stored, and last a `summary`. Leaving the iteration stops it; what was captioned until then stays.

        Raises NotFound, FailedPrecondition: there is no such model (CAPTIONING_UNAVAILABLE), or no pictures.
        """
        request = pb.CaptionDatasetRequest(
            dataset_id=self._datasets.id_of(dataset), overwrite=overwrite, prefix=prefix, max_tokens=max_tokens
        )
        yield from self._trainer.stream(self._stub.CaptionDataset, request)

    def get(self, job_id: str) -> TrainingJob:
        """Raises NotFound."""
        return self._trainer.call(self._stub.GetTrainingJob, pb.GetTrainingJobRequest(job_id=job_id)).job

    def list(self, *, status: str = "", unfinished: bool = False) -> list[TrainingJob]:
        """Jobs, newest first: all, those of a status, or those that have not ended."""
        request = pb.ListTrainingJobsRequest(page_size=500, unfinished=unfinished)
        if status:
            number = plain.number_of(types.JobStatus.DESCRIPTOR, status, field="status")
            request.status = types.JobStatus.ValueType(number)
        jobs: list[TrainingJob] = []
        while True:
            page = self._trainer.call(self._stub.ListTrainingJobs, request)
            jobs.extend(page.jobs)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return jobs

    def start(self, job_id: str) -> TrainingJob:
        """Queues a pending job. Raises NotFound, FailedPrecondition when it has ended."""
        return self._trainer.call(self._stub.StartTrainingJob, pb.StartTrainingJobRequest(job_id=job_id)).job

    def cancel(self, job_id: str) -> TrainingJob:
        """Ends a job within one step. Raises NotFound, FailedPrecondition when it has completed or failed."""
        return self._trainer.call(self._stub.CancelTrainingJob, pb.CancelTrainingJobRequest(job_id=job_id)).job

    def pause(self, job_id: str) -> TrainingJob:
        """Has a running job stop behind a checkpoint, soon after; takes a queued one out of the queue.

        Raises NotFound, FailedPrecondition when it is pending or has ended.
        """
        return self._trainer.call(self._stub.PauseTrainingJob, pb.PauseTrainingJobRequest(job_id=job_id)).job

    def resume(self, job_id: str) -> TrainingJob:
        """Queues a paused job, which goes on as if it had never stopped. Raises NotFound, FailedPrecondition."""
        return self._trainer.call(self._stub.ResumeTrainingJob, pb.ResumeTrainingJobRequest(job_id=job_id)).job

    def retry(self, job_id: str) -> TrainingJob:
        """Queues a failed or cancelled job again, to go on from its last checkpoint.

        Raises NotFound, FailedPrecondition when it has neither failed nor was it cancelled.
        """
        return self._trainer.call(self._stub.RetryTrainingJob, pb.RetryTrainingJobRequest(job_id=job_id)).job

    def prioritize(self, job_id: str, priority: int) -> TrainingJob:
        """Changes a job's place in the queue: a higher priority comes first; jobs begin with 0.

        Raises NotFound, InvalidArgument, FailedPrecondition when it has ended.
        """
        request = pb.PrioritizeTrainingJobRequest(job_id=job_id, priority=priority)
        return self._trainer.call(self._stub.PrioritizeTrainingJob, request).job

    def delete(self, job_id: str) -> None:
        """Deletes an ended, pending or paused job; its model stays. Raises NotFound, FailedPrecondition."""
        self._trainer.call(self._stub.DeleteTrainingJob, pb.DeleteTrainingJobRequest(job_id=job_id), attempts=1)

    def watch(
        self, job_id: str, *, after_sequence: int = 0, patience_seconds: float = PATIENCE_SECONDS
    ) -> Iterator[TrainingEvent]:
        """Every event of a job after `after_sequence`, old ones first, until it has ended; each once, none left out.

        A stream that is cut is taken up again after the last event seen, for `patience_seconds` without any news before
        Unavailable is raised. Leaving the iteration does not stop the job. Raises NotFound.
        """

        def open_stream(after: int) -> Iterator[TrainingEvent]:
            request = pb.WatchTrainingJobRequest(job_id=job_id, after_sequence=after)
            for answer in self._trainer.stream(self._stub.WatchTrainingJob, request):
                yield answer.event

        for event in self._resumed(job_id, open_stream, after_sequence, patience_seconds):
            yield event
            # A job that was tried again has gone on after its first end.
            if event.WhichOneof("event") in LAST_EVENTS and self.get(job_id).last_sequence == event.sequence:
                return

    def wait(self, job_id: str) -> TrainingJob:
        """The job once it has ended."""
        for _ in self.watch(job_id):
            pass
        return self.get(job_id)

    def logs(
        self,
        job_id: str,
        *,
        follow: bool = False,
        after_sequence: int = 0,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Iterator[TrainingEvent]:
        """The worker's log events; with `follow`, new ones until the job ends, over cut connections as `watch`.

        Raises NotFound, Unavailable.
        """

        def open_stream(after: int) -> Iterator[TrainingEvent]:
            request = pb.StreamLogsRequest(job_id=job_id, after_sequence=after, follow=follow)
            for answer in self._trainer.stream(self._stub.StreamLogs, request):
                yield answer.event

        if follow:
            yield from self._resumed(job_id, open_stream, after_sequence, patience_seconds)
        else:
            yield from open_stream(after_sequence)

    def metrics(self, job_id: str, *, max_points: int = 0) -> Sequence[types.StepProgress]:
        """The loss curve, thinned to at most `max_points` (0 means 1000). Raises NotFound."""
        request = pb.ListMetricsRequest(job_id=job_id, max_points=max_points)
        return self._trainer.call(self._stub.ListMetrics, request).points

    def validations(self, job_id: str) -> Sequence[types.ValidationEvent]:
        """Every measurement on the pictures held out, in order. Raises NotFound."""
        request = pb.ListMetricsRequest(job_id=job_id, max_points=1)
        return self._trainer.call(self._stub.ListMetrics, request).validations

    def checkpoints(self, job_id: str) -> Sequence[types.Checkpoint]:
        """Raises NotFound."""
        request = pb.ListCheckpointsRequest(job_id=job_id)
        return self._trainer.call(self._stub.ListCheckpoints, request).checkpoints

    def promote(self, job_id: str, step: int, *, name: str = "") -> int:
        """Registers the checkpoint of a step as a model, under the job's name and the step unless named, and gives the
        model's id; the same again for a checkpoint that is a model already.

        Raises NotFound: the job, or no checkpoint of this step is kept.
        """
        request = pb.PromoteCheckpointRequest(job_id=job_id, step=step, name=name)
        return self._trainer.call(self._stub.PromoteCheckpoint, request).model_id

    def sample(self, job_id: str, sha256: str) -> bytes:
        """PNG of a sample picture that a `sample` event named. Raises NotFound."""
        request = pb.DownloadSampleRequest(job_id=job_id, sha256=sha256)
        return bytes(self._trainer.call(self._stub.DownloadSample, request).content.data)

    def sheet(self, job_id: str) -> bytes:
        """PNG of all samples of a job: a row for each step, a column for each prompt.

        Raises NotFound, FailedPrecondition when none was drawn.
        """
        request = pb.DownloadSampleSheetRequest(job_id=job_id)
        return bytes(self._trainer.call(self._stub.DownloadSampleSheet, request).content.data)

    def _resumed(
        self,
        job_id: str,
        open_stream: Callable[[int], Iterator[TrainingEvent]],
        after_sequence: int,
        patience_seconds: float,
    ) -> Iterator[TrainingEvent]:
        """The events of `open_stream(after_sequence)`, opened again after the last one seen when it is cut.

        Heartbeats are left out. Ends when the job has ended and the stream has no more.
        """
        attempt, last_news = 0, time.monotonic()
        while True:
            problem: AtelierError | None = None
            seen_before = after_sequence
            try:
                for event in open_stream(after_sequence):
                    attempt, last_news = 0, time.monotonic()
                    if event.sequence > after_sequence and event.WhichOneof("event") != "heartbeat":
                        after_sequence = event.sequence
                        yield event
                # A stream ends with its job, and also when its server goes away: the job may have ended in between, so
                # only a stream with nothing new on it was the last.
                if self.get(job_id).status in ENDED and after_sequence == seen_before:
                    return
            except (Unavailable, Cancelled, InternalError) as error:
                problem = error  # a stopping server cancels its streams; a cut connection reads as one of these, too
            if problem is not None and time.monotonic() - last_news > patience_seconds:
                raise problem
            time.sleep(backoff(attempt))
            attempt += 1


def training_config(values: TrainingConfig | Mapping[str, Any]) -> TrainingConfig:
    """`values` as the message; enum fields by their short names. Raises InvalidArgument naming the field."""
    if isinstance(values, TrainingConfig):
        return values
    config = TrainingConfig()
    plain.fill(config, values, path="config")
    return config
