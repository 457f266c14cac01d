"""Between the contract's messages and the domain's values, in pairs."""

from datetime import datetime

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidArgument
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
FORMATS: dict[domain.PictureFormat, pb.PictureFormat.ValueType] = {
    domain.PictureFormat.PNG: pb.PICTURE_FORMAT_PNG,
    domain.PictureFormat.WEBP: pb.PICTURE_FORMAT_WEBP,
    domain.PictureFormat.JPEG: pb.PICTURE_FORMAT_JPEG,
}
FORMAT_NAMES = {number: name for name, number in FORMATS.items()} | {
    pb.PICTURE_FORMAT_UNSPECIFIED: domain.PictureFormat.PNG
}
CONTENT_TYPES = {
    domain.PictureFormat.PNG: "image/png",
    domain.PictureFormat.WEBP: "image/webp",
    domain.PictureFormat.JPEG: "image/jpeg",
}
NOT_YET = ("image_to_video", "controls", "high_resolution", "wildcards", "grid")
STATUS_NAMES = {number: name for name, number in STATUSES.items()}


def wish_from_proto(message: pb.GenerationSettings) -> domain.Wish:
    def given(name: str) -> object | None:
        return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type]  # a field's name

    refuse_what_is_not_drawn(message)
    names = ("width", "height", "steps", "guidance_scale", "guidance_rescale", "seed", "count", "lora_weight")
    return domain.Wish(
        model_id=message.model_id,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        scheduler=SCHEDULER_NAMES[message.scheduler],
        loras=tuple(
            domain.LoraChoice(lora.model_id, lora.weight if lora.HasField("weight") else 1.0) for lora in message.loras
        ),
        format=FORMAT_NAMES[message.format],
        quality=message.quality if message.HasField("quality") else 90,
        image_to_image=_image_to_image(message.image_to_image) if message.HasField("image_to_image") else None,
        prompt_syntax=domain.Syntax.PLAIN
        if message.prompt_syntax == pb.PROMPT_SYNTAX_PLAIN
        else domain.Syntax.WEIGHTED,
        deterministic=message.deterministic,
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
        format=FORMATS[settings.format],
        quality=None if settings.format is domain.PictureFormat.PNG else settings.quality,
        image_to_image=_image_to_image_to_proto(settings.image_to_image) if settings.image_to_image else None,
        prompt_syntax=pb.PROMPT_SYNTAX_PLAIN
        if settings.prompt_syntax is domain.Syntax.PLAIN
        else pb.PROMPT_SYNTAX_WEIGHTED,
        deterministic=settings.deterministic,
    )


def refuse_what_is_not_drawn(message: pb.GenerationSettings) -> None:
    """Raises InvalidArgument naming the settings that the contract has and this version does not draw yet."""
    rules = {f"settings.{name}": "is not drawn by this version" for name in NOT_YET if _is_given(message, name)}
    if message.format not in FORMAT_NAMES:
        rules["settings.format"] = "is a clip's, and this version draws no clips"
    begun_with = message.image_to_image
    for name in ("image", "mask"):
        if begun_with.HasField(name) and getattr(begun_with, name).HasField("dataset_image_id"):
            rules[f"settings.image_to_image.{name}.dataset_image_id"] = "is not read by this version: send its bytes"
    if rules:
        raise InvalidArgument.of(rules)


def _is_given(message: pb.GenerationSettings, name: str) -> bool:
    if name in ("controls", "wildcards"):
        return bool(len(getattr(message, name)))
    return message.HasField(name)  # type: ignore[arg-type]  # a field's name


def _image_to_image(message: pb.ImageToImage) -> domain.ImageToImage:
    return domain.ImageToImage(
        _given_picture(message.image),
        message.strength if message.HasField("strength") else 0.75,
        _given_picture(message.mask) if message.HasField("mask") else None,
        message.mask_blur if message.HasField("mask_blur") else 4,
    )


def _given_picture(message: pb.InputImage) -> domain.GivenPicture:
    match message.WhichOneof("source"):
        case "data":
            return domain.GivenPicture(data=message.data)
        case "generated":
            return domain.GivenPicture(generated=(message.generated.generation_id, message.generated.index))
        case _:
            return domain.GivenPicture(sha256=message.sha256)


def _image_to_image_to_proto(asked: domain.ImageToImage) -> pb.ImageToImage:
    message = pb.ImageToImage(strength=asked.strength, mask_blur=asked.mask_blur)
    message.image.sha256 = asked.image.sha256
    if asked.mask is not None:
        message.mask.sha256 = asked.mask.sha256
    return message


def request_text(settings: domain.Settings) -> str:
    """The request as JSON, every default filled in: what a client would send to get the same pictures again."""
    return MessageToJson(rpc.GenerateRequest(settings=settings_to_proto(settings)), indent=None, ensure_ascii=False)


def picture_to_proto(picture: domain.Picture, settings: domain.Settings) -> pb.GeneratedImage:
    return pb.GeneratedImage(
        index=picture.index,
        seed=picture.seed,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        size_bytes=picture.size_bytes,
        content_type=CONTENT_TYPES[settings.format],
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        model_id=settings.model_id,
        lora_weight=settings.lora_weight,
    )


def generation_to_proto(generation: domain.Generation) -> pb.Generation:
    failure = generation.failure
    return pb.Generation(
        id=generation.id,
        status=STATUSES[generation.status],
        settings=settings_to_proto(generation.settings),
        images=[picture_to_proto(picture, generation.settings) for picture in generation.pictures],
        created_at=_timestamp(generation.created_at),
        finished_at=_timestamp(generation.finished_at) if generation.finished_at else None,
        failure=pb.GenerationFailure(reason=failure.reason, message=failure.message) if failure else None,
        warnings=generation.warnings,
        model_name=generation.model_name,
        parents=_parents(generation.settings),
    )


def _parents(settings: domain.Settings) -> list[pb.GeneratedImageRef]:
    asked = settings.image_to_image
    if asked is None or asked.image.generated is None:
        return []
    generation_id, index = asked.image.generated
    return [pb.GeneratedImageRef(generation_id=generation_id, index=index)]


def event_to_proto(generation: domain.Generation, event: domain.Event) -> rpc.GenerateResponse:
    answer = rpc.GenerateResponse(generation_id=generation.id)
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
            answer.image.CopyFrom(pictured_to_proto(event, generation.settings))
        case domain.Done(generation):
            answer.done.generation.CopyFrom(generation_to_proto(generation))
        case domain.Heartbeat():
            answer.heartbeat.SetInParent()
    return answer


def pictured_to_proto(event: domain.Pictured, settings: domain.Settings) -> rpc.GenerationPicture:
    return rpc.GenerationPicture(image=picture_to_proto(event.picture, settings), data=event.data)


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
