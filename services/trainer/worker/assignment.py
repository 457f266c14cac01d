"""What the Trainer hands a worker, and what the worker says back, between domain values and protos."""

from dataclasses import dataclass
from typing import cast

from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import training_pb2, worker_service_pb2

from services.common.errors import FailedPrecondition
from services.trainer import domain
from services.trainer.convert import (
    LEVELS,
    METHODS,
    STAGES,
    backwards,
    config_from_proto,
    failure_to_proto,
    files_to_proto,
    lent_to_proto,
    progress_to_proto,
    stored_checkpoint_from_proto,
    stored_checkpoint_to_proto,
    validation_to_proto,
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that is trained on. Its weights are `files`, (path, SHA-256) pairs in the blob store, or on a hub."""

    id: int
    name: str
    family: str
    digest: str
    files: tuple[tuple[str, str], ...] = ()
    hub_repo: str = ""
    hub_revision: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a worker needs to know. `bases` come nearest first: what one lacks, the next has."""

    job_id: str
    method: domain.Method
    config: domain.TrainingConfig
    snapshot_digest: str
    bases: tuple[BaseModel, ...]
    checkpoints: tuple[domain.Checkpoint, ...] = ()
    """What earlier attempts left, newest first."""
    class_snapshot_digest: str = ""
    """Of DreamBooth's class, where that is a dataset."""
    lent_millis: int = 0
    """For which earlier attempts lent their device."""


def assignment_from_proto(message: worker_service_pb2.JobAssignment) -> Assignment:
    """Raises FailedPrecondition when it names no base model."""
    job = message.job
    if not message.base_models:
        raise FailedPrecondition(f"job {job.id} names no base model", reason="WEIGHTS_UNAVAILABLE")
    return Assignment(
        job_id=job.id,
        method=backwards(METHODS, job.method, domain.Method.LORA),
        config=config_from_proto(job.config),
        snapshot_digest=job.snapshot_digest,
        bases=tuple(_base_from_proto(model) for model in message.base_models),
        checkpoints=tuple(stored_checkpoint_from_proto(each) for each in message.checkpoints),
        class_snapshot_digest=job.class_snapshot_digest,
        lent_millis=job.progress.lent_millis,
    )


def _base_from_proto(model: model_pb2.Model) -> BaseModel:
    family = model_pb2.ModelFamily.Name(model.family).removeprefix("MODEL_FAMILY_").lower()
    return BaseModel(
        id=model.id,
        name=model.name,
        family=family,
        digest=model.digest,
        files=tuple((file.path, file.sha256) for file in model.stored.files),
        hub_repo=model.hub.repo_id,
        hub_revision=model.hub.revision,
    )


def report_to_proto(report: domain.Report, number: int) -> worker_service_pb2.WorkerReport:
    """The other half of the Trainer's `report_from_proto`."""
    message = worker_service_pb2.WorkerReport(number=number)
    match report:
        case domain.Loading():
            loading = training_pb2.LoadingEvent(stage=STAGES[report.stage], done=report.done, total=report.total)
            message.loading.CopyFrom(loading)
        case domain.Progress():
            message.step.CopyFrom(progress_to_proto(report))
        case domain.Validation():
            message.validation.CopyFrom(validation_to_proto(report))
        case domain.Sample():
            message.sample.CopyFrom(
                training_pb2.SampleEvent(
                    step=report.step,
                    index=report.index,
                    prompt=report.prompt,
                    sha256=report.sha256,
                    width=report.width,
                    height=report.height,
                )
            )
        case domain.Checkpoint():
            message.checkpoint.CopyFrom(stored_checkpoint_to_proto(report))
        case domain.Log():
            message.log.CopyFrom(training_pb2.LogEvent(level=LEVELS[report.level], message=report.message))
        case domain.Lent():
            message.lent.CopyFrom(lent_to_proto(report))
        case domain.Trained():
            message.trained.CopyFrom(
                worker_service_pb2.TrainedWeights(
                    step=report.step,
                    layout=cast("model_pb2.WeightsLayout.ValueType", report.layout),
                    files=files_to_proto(report.files),
                )
            )
        case domain.Failure():
            message.failed.CopyFrom(failure_to_proto(report))
        case domain.Cancelled():
            message.cancelled.SetInParent()
        case domain.Paused():
            message.paused.SetInParent()
    return message
