"""Between the contract's messages and the domain's values, in pairs."""

from datetime import datetime

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.generator import domain
from services.generator.convert_settings import settings_to_proto
from services.generator.images import encode_png

STATUSES: dict[domain.Status, pb.GenerationStatus.ValueType] = {
    domain.Status.QUEUED: pb.GENERATION_STATUS_QUEUED,
    domain.Status.RUNNING: pb.GENERATION_STATUS_RUNNING,
    domain.Status.COMPLETED: pb.GENERATION_STATUS_COMPLETED,
    domain.Status.FAILED: pb.GENERATION_STATUS_FAILED,
    domain.Status.CANCELLED: pb.GENERATION_STATUS_CANCELLED,
}
STATUS_NAMES = {number: name for name, number in STATUSES.items()}


def picture_to_proto(picture: domain.Picture) -> pb.GeneratedImage:
    verdict = picture.verdict
    return pb.GeneratedImage(
        index=picture.index,
        seed=picture.seed,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        size_bytes=picture.size_bytes,
        content_type=picture.content_type,
        prompt=picture.prompt,
        negative_prompt=picture.negative_prompt,
        model_id=picture.model_id,
        lora_weight=picture.lora_weight,
        safety=pb.SafetyVerdict(is_flagged=verdict.is_flagged, concepts=verdict.concepts) if verdict else None,
        is_sheet=picture.is_sheet,
        num_frames=picture.num_frames,
    )


def generation_to_proto(generation: domain.Generation) -> pb.Generation:
    failure = generation.failure
    return pb.Generation(
        id=generation.id,
        status=STATUSES[generation.status],
        settings=settings_to_proto(generation.settings),
        images=[picture_to_proto(picture) for picture in generation.pictures],
        created_at=_timestamp(generation.created_at),
        finished_at=_timestamp(generation.finished_at) if generation.finished_at else None,
        failure=pb.GenerationFailure(reason=failure.reason, message=failure.message) if failure else None,
        warnings=generation.warnings,
        model_name=generation.model_name,
        parents=[pb.GeneratedImageRef(generation_id=id, index=index) for id, index in generation.parents],
        is_kept=generation.is_kept,
        principal=generation.principal,
    )


def event_to_proto(generation_id: str, event: domain.Event) -> rpc.GenerateResponse:
    answer = rpc.GenerateResponse(generation_id=generation_id)
    match event:
        case domain.Queued(position):
            answer.queued.position = position
        case domain.Waiting(num_jobs):
            answer.waiting.num_jobs = num_jobs
        case domain.Loading(model_id):
            answer.loading.model_id = model_id
        case domain.Stepped(step, total, first, count, millis):
            answer.step.CopyFrom(
                rpc.GenerationStep(step=step, total_steps=total, first_index=first, count=count, elapsed_millis=millis)
            )
        case domain.Previewed(index, step, pixels):
            answer.preview.CopyFrom(rpc.GenerationPreview(index=index, step=step, data=encode_png(pixels)))
        case domain.Pictured():
            answer.image.CopyFrom(pictured_to_proto(event))
        case domain.Done(generation):
            answer.done.generation.CopyFrom(generation_to_proto(generation))
        case domain.Heartbeat():
            answer.heartbeat.SetInParent()
    return answer


def pictured_to_proto(event: domain.Pictured) -> rpc.GenerationPicture:
    return rpc.GenerationPicture(image=picture_to_proto(event.picture), data=event.data)


def loaded_to_proto(model: domain.LoadedModel) -> rpc.LoadedModel:
    return rpc.LoadedModel(
        model_id=model.model_id,
        name=model.name,
        memory_bytes=model.memory_bytes,
        lora_model_ids=model.lora_model_ids,
        idle_millis=model.idle_millis,
        num_drawing=model.num_drawing,
    )


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
