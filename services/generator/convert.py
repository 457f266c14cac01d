"""Between the contract's messages and the domain's values, in pairs."""

from datetime import datetime

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from services.generator import domain
from services.generator.images import encode_png

SCHEDULERS: dict[str | None, pb.Scheduler.ValueType] = {
    None: pb.SCHEDULER_UNSPECIFIED,
    "ddim": pb.SCHEDULER_DDIM,
    "ddpm": pb.SCHEDULER_DDPM,
    "pndm": pb.SCHEDULER_PNDM,
    "euler": pb.SCHEDULER_EULER,
    "euler_a": pb.SCHEDULER_EULER_ANCESTRAL,
    "dpmpp_2m": pb.SCHEDULER_DPMPP_2M,
    "dpmpp_2m_karras": pb.SCHEDULER_DPMPP_2M_KARRAS,
    "unipc": pb.SCHEDULER_UNIPC,
    "lcm": pb.SCHEDULER_LCM,
}
SCHEDULER_NAMES = {number: name for name, number in SCHEDULERS.items()}

STATUSES: dict[domain.Status, pb.GenerationStatus.ValueType] = {
    domain.Status.QUEUED: pb.GENERATION_STATUS_QUEUED,
    domain.Status.RUNNING: pb.GENERATION_STATUS_RUNNING,
    domain.Status.COMPLETED: pb.GENERATION_STATUS_COMPLETED,
    domain.Status.FAILED: pb.GENERATION_STATUS_FAILED,
    domain.Status.CANCELLED: pb.GENERATION_STATUS_CANCELLED,
}
STATUS_NAMES = {number: name for name, number in STATUSES.items()}


def wish_from_proto(message: pb.GenerationSettings) -> domain.Wish:
    def given(name: str) -> object | None:
        return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type]  # a field's name

    names = ("width", "height", "steps", "guidance_scale", "guidance_rescale", "seed", "count", "lora_weight")
    return domain.Wish(
        model_id=message.model_id,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        scheduler=SCHEDULER_NAMES[message.scheduler],
        loras=tuple(
            domain.LoraChoice(lora.model_id, lora.weight if lora.HasField("weight") else 1.0) for lora in message.loras
        ),
        **{name: given(name) for name in names},  # type: ignore[arg-type]  # each has its field's type
    )


def settings_to_proto(settings: domain.Settings) -> pb.GenerationSettings:
    return pb.GenerationSettings(
        model_id=settings.model_id,
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        guidance_rescale=settings.guidance_rescale,
        scheduler=SCHEDULERS[settings.scheduler],
        seed=settings.seed,
        count=settings.count,
        lora_weight=settings.lora_weight,
        loras=[pb.LoraWeight(model_id=lora.model_id, weight=lora.weight) for lora in settings.loras],
        format=pb.PICTURE_FORMAT_PNG,
    )


def request_text(settings: domain.Settings) -> str:
    """The request as JSON, every default filled in: what a client would send to get the same pictures again."""
    return MessageToJson(rpc.GenerateRequest(settings=settings_to_proto(settings)), indent=None, ensure_ascii=False)


def picture_to_proto(picture: domain.Picture) -> pb.GeneratedImage:
    return pb.GeneratedImage(
        index=picture.index,
        seed=picture.seed,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        size_bytes=picture.size_bytes,
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
    )


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
