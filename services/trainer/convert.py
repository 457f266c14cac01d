"""Domain values to and from their protos, in pairs. Field names are the same on both sides."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import trainer_service_pb2, training_pb2, worker_service_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.trainer import domain

Value = TypeVar("Value", bound=Enum)

METHODS = {kind: training_pb2.TrainingMethod.Value(f"TRAINING_METHOD_{kind.name}") for kind in domain.Method}
STATUSES = {kind: training_pb2.JobStatus.Value(f"JOB_STATUS_{kind.name}") for kind in domain.JobStatus}
LEVELS = {kind: training_pb2.LogLevel.Value(f"LOG_LEVEL_{kind.name}") for kind in domain.LogLevel}
STAGES = {kind: training_pb2.LoadingStage.Value(f"LOADING_STAGE_{kind.name}") for kind in domain.LoadingStage}
SCHEDULES = {
    kind: training_pb2.LearningRateSchedule.Value(f"LEARNING_RATE_SCHEDULE_{kind.name}") for kind in domain.Schedule
}
PRECISIONS = {
    domain.Precision.AUTO: training_pb2.MIXED_PRECISION_UNSPECIFIED,
    domain.Precision.NO: training_pb2.MIXED_PRECISION_NO,
    domain.Precision.FP16: training_pb2.MIXED_PRECISION_FP16,
    domain.Precision.BF16: training_pb2.MIXED_PRECISION_BF16,
}
OPTIMIZERS = {kind: training_pb2.Optimizer.Value(f"OPTIMIZER_{kind.name}") for kind in domain.Optimizer}
PREDICTIONS = {
    domain.Prediction.MODEL: training_pb2.PREDICTION_TYPE_UNSPECIFIED,
    domain.Prediction.EPSILON: training_pb2.PREDICTION_TYPE_EPSILON,
    domain.Prediction.V_PREDICTION: training_pb2.PREDICTION_TYPE_V_PREDICTION,
}
DEVICES = {
    domain.Device.AUTO: training_pb2.DEVICE_UNSPECIFIED,
    domain.Device.CPU: training_pb2.DEVICE_CPU,
    domain.Device.CUDA: training_pb2.DEVICE_CUDA,
    domain.Device.MPS: training_pb2.DEVICE_MPS,
}


def backwards(table: Mapping[Value, int], number: int, default: Value) -> Value:
    """The domain's value of an enum number; `default` for the unspecified one."""
    return next((value for value, each in table.items() if each == number), default)


def time_to_proto(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp


def time_from_proto(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)


def _same(value: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A dataclass's set fields as a proto's arguments."""
    named = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in without}
    return {name: part for name, part in named.items() if part is not None}


def _present(message: Message, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A proto's set plain fields as a dataclass's arguments; what is unset takes the dataclass's default."""
    found = {}
    for each, part in message.ListFields():
        if each.name not in without:
            found[each.name] = tuple(part) if isinstance(part, list) or each.is_repeated else part
    return found


NESTED = ("lora", "dreambooth", "samples", "checkpoints", "validation", "video")
ENUMS = ("mixed_precision", "schedule", "device", "optimizer", "prediction_type")


def config_to_proto(config: domain.TrainingConfig) -> training_pb2.TrainingConfig:
    parts = {
        "lora": training_pb2.LoraConfig,
        "dreambooth": training_pb2.DreamBoothConfig,
        "samples": training_pb2.SampleConfig,
        "checkpoints": training_pb2.CheckpointConfig,
        "validation": training_pb2.ValidationConfig,
        "video": training_pb2.VideoConfig,
    }
    nested = {name: make(**_same(part)) for name, make in parts.items() if (part := getattr(config, name)) is not None}
    return training_pb2.TrainingConfig(
        **_same(config, without=NESTED + ENUMS),
        **nested,
        mixed_precision=PRECISIONS[config.mixed_precision],
        schedule=SCHEDULES[config.schedule],
        device=DEVICES[config.device],
        optimizer=OPTIMIZERS[config.optimizer],
        prediction_type=PREDICTIONS[config.prediction_type],
    )


def config_from_proto(message: training_pb2.TrainingConfig) -> domain.TrainingConfig:
    """What is unset takes the guide's default, the learning rate Prodigy's where that is the optimizer. `lora`,
    `dreambooth` and `video` are None where they are unset."""
    plain = _present(message, without=NESTED + ENUMS)
    if message.optimizer == training_pb2.OPTIMIZER_PRODIGY:
        plain.setdefault("learning_rate", 1.0)
    return domain.TrainingConfig(
        **plain,
        lora=domain.LoraConfig(**_present(message.lora)) if message.HasField("lora") else None,
        dreambooth=domain.DreamBoothConfig(**_present(message.dreambooth)) if message.HasField("dreambooth") else None,
        samples=domain.SampleConfig(**_present(message.samples)),
        checkpoints=domain.CheckpointConfig(**_present(message.checkpoints)),
        validation=domain.ValidationConfig(**_present(message.validation)),
        video=domain.VideoConfig(**_present(message.video)) if message.HasField("video") else None,
        optimizer=backwards(OPTIMIZERS, message.optimizer, domain.Optimizer.ADAMW),
        prediction_type=backwards(PREDICTIONS, message.prediction_type, domain.Prediction.MODEL),
        mixed_precision=backwards(PRECISIONS, message.mixed_precision, domain.Precision.AUTO),
        schedule=backwards(SCHEDULES, message.schedule, domain.Schedule.CONSTANT),
        device=backwards(DEVICES, message.device, domain.Device.AUTO),
    )


def progress_to_proto(progress: domain.Progress) -> training_pb2.StepProgress:
    return training_pb2.StepProgress(**_same(progress))


def progress_from_proto(message: training_pb2.StepProgress) -> domain.Progress:
    return domain.Progress(**{each.name: getattr(message, each.name) for each in fields(domain.Progress)})


def validation_to_proto(validation: domain.Validation) -> training_pb2.ValidationEvent:
    return training_pb2.ValidationEvent(**_same(validation))


def validation_from_proto(message: training_pb2.ValidationEvent) -> domain.Validation:
    return domain.Validation(**{each.name: getattr(message, each.name) for each in fields(domain.Validation)})


def lent_to_proto(lent: domain.Lent) -> training_pb2.LentEvent:
    return training_pb2.LentEvent(**_same(lent))


def lent_from_proto(message: training_pb2.LentEvent) -> domain.Lent:
    return domain.Lent(message.lent_millis if message.HasField("lent_millis") else None, message.made_room)


def checkpoint_to_proto(checkpoint: domain.Checkpoint) -> training_pb2.Checkpoint:
    created_at = time_to_proto(checkpoint.created_at)
    plain = _same(checkpoint, without=("created_at", "files", "state"))
    return training_pb2.Checkpoint(**plain, created_at=created_at)


def stored_checkpoint_to_proto(checkpoint: domain.Checkpoint) -> worker_service_pb2.StoredCheckpoint:
    return worker_service_pb2.StoredCheckpoint(
        checkpoint=checkpoint_to_proto(checkpoint),
        files=files_to_proto(checkpoint.files),
        state=files_to_proto((checkpoint.state,))[0] if checkpoint.state else None,
    )


def stored_checkpoint_from_proto(message: worker_service_pb2.StoredCheckpoint) -> domain.Checkpoint:
    saved = message.checkpoint
    return domain.Checkpoint(
        step=saved.step,
        size_bytes=saved.size_bytes,
        created_at=time_from_proto(saved.created_at),
        smoothed_loss=saved.smoothed_loss,
        files=files_from_proto(message.files),
        state=files_from_proto([message.state])[0] if message.HasField("state") else None,
        validation_loss=saved.validation_loss if saved.HasField("validation_loss") else None,
        is_best=saved.is_best,
        elapsed_millis=saved.elapsed_millis,
    )


def failure_to_proto(failure: domain.Failure) -> training_pb2.JobFailure:
    return training_pb2.JobFailure(**_same(failure))


def files_to_proto(files: tuple[domain.ModelFile, ...]) -> list[model_pb2.ModelFile]:
    return [model_pb2.ModelFile(**_same(file)) for file in files]


def files_from_proto(files: Any) -> tuple[domain.ModelFile, ...]:
    return tuple(domain.ModelFile(file.path, file.sha256, file.size_bytes) for file in files)


def job_to_proto(job: domain.Job) -> training_pb2.TrainingJob:
    """What clients see; what is between the Trainer and its workers stays out."""
    return training_pb2.TrainingJob(
        id=job.id,
        status=STATUSES[job.status],
        dataset_id=job.dataset_id,
        base_model_id=job.base_model_id,
        method=METHODS[job.method],
        output_name=job.output_name,
        config=config_to_proto(job.config),
        snapshot_digest=job.snapshot_digest,
        created_at=time_to_proto(job.created_at),
        queued_at=time_to_proto(job.queued_at),
        started_at=time_to_proto(job.started_at),
        finished_at=time_to_proto(job.finished_at),
        progress=progress_to_proto(job.progress) if job.progress else None,
        queue_position=job.queue_position,
        failure=failure_to_proto(job.failure) if job.failure else None,
        model_id=job.model_id,
        last_sequence=job.last_sequence,
        num_items=job.num_items,
        priority=job.priority,
        class_snapshot_digest=job.class_snapshot_digest,
    )


def estimate_to_proto(estimate: domain.Estimate) -> trainer_service_pb2.EstimateTrainingJobResponse:
    measured = estimate.footprint
    seconds = measured.preparing_seconds + measured.total_steps * measured.step_seconds
    return trainer_service_pb2.EstimateTrainingJobResponse(
        config=config_to_proto(estimate.config),
        device=DEVICES[measured.device],
        trained_parameters=measured.trained_parameters,
        num_images=measured.num_images,
        total_steps=measured.total_steps,
        total_epochs=measured.total_epochs,
        memory_bytes=measured.memory_bytes,
        memory_total_bytes=measured.memory_total_bytes,
        duration_millis=round(seconds * 1000),
        step_millis=round(measured.step_seconds * 1000),
        disk_bytes=estimate.disk_bytes,
        disk_free_bytes=estimate.disk_free_bytes,
    )


def captioned_to_proto(
    said: domain.CaptionProgress | domain.CaptionSummary,
) -> trainer_service_pb2.CaptionDatasetResponse:
    if isinstance(said, domain.CaptionProgress):
        progress = trainer_service_pb2.CaptionProgress(**_same(said))
        return trainer_service_pb2.CaptionDatasetResponse(progress=progress)
    return trainer_service_pb2.CaptionDatasetResponse(summary=trainer_service_pb2.CaptionSummary(**_same(said)))


def _body_to_proto(body: domain.EventBody) -> dict[str, Message]:
    match body:
        case domain.Queued():
            return {"queued": training_pb2.QueuedEvent(position=body.position)}
        case domain.Loading():
            loading = training_pb2.LoadingEvent(stage=STAGES[body.stage], done=body.done, total=body.total)
            return {"loading": loading}
        case domain.Progress():
            return {"step": progress_to_proto(body)}
        case domain.Validation():
            return {"validation": validation_to_proto(body)}
        case domain.Sample():
            return {"sample": training_pb2.SampleEvent(**_same(body))}
        case domain.Checkpoint():
            return {"checkpoint": checkpoint_to_proto(body)}
        case domain.Log():
            return {"log": training_pb2.LogEvent(level=LEVELS[body.level], message=body.message)}
        case domain.Lent():
            return {"lent": lent_to_proto(body)}
        case domain.Done():
            return {"done": training_pb2.DoneEvent(**_same(body))}
        case domain.Failure():
            return {"failed": failure_to_proto(body)}
        case domain.Cancelled():
            return {"cancelled": training_pb2.CancelledEvent()}
        case domain.Paused():
            return {"paused": training_pb2.PausedEvent()}


def event_to_proto(event: domain.Event) -> training_pb2.TrainingEvent:
    created_at = time_to_proto(event.created_at)
    parts: dict[str, Any] = _body_to_proto(event.body)
    return training_pb2.TrainingEvent(sequence=event.sequence, created_at=created_at, **parts)


def report_from_proto(message: worker_service_pb2.WorkerReport) -> domain.Report:
    """What a worker said, without its number. Raises ValueError when it says nothing."""
    match message.WhichOneof("report"):
        case "loading":
            stage = backwards(STAGES, message.loading.stage, domain.LoadingStage.LOADING_MODEL)
            return domain.Loading(stage, message.loading.done, message.loading.total)
        case "step":
            return progress_from_proto(message.step)
        case "validation":
            return validation_from_proto(message.validation)
        case "sample":
            return domain.Sample(**{each.name: getattr(message.sample, each.name) for each in fields(domain.Sample)})
        case "checkpoint":
            return stored_checkpoint_from_proto(message.checkpoint)
        case "log":
            return domain.Log(backwards(LEVELS, message.log.level, domain.LogLevel.INFO), message.log.message)
        case "lent":
            return lent_from_proto(message.lent)
        case "trained":
            files = files_from_proto(message.trained.files)
            return domain.Trained(message.trained.step, message.trained.layout, files)
        case "failed":
            return domain.Failure(message.failed.reason, message.failed.message)
        case "cancelled":
            return domain.Cancelled()
        case "paused":
            return domain.Paused()
    raise ValueError("a report without content")
