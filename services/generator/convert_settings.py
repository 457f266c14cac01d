"""Between the contract's settings and the domain's, in pairs."""

import hashlib
from collections.abc import MutableMapping

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from google.protobuf.json_format import MessageToJson

from services.generator import domain

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

FORMATS: dict[domain.PictureFormat, pb.PictureFormat.ValueType] = {
    domain.PictureFormat.PNG: pb.PICTURE_FORMAT_PNG,
    domain.PictureFormat.WEBP: pb.PICTURE_FORMAT_WEBP,
    domain.PictureFormat.JPEG: pb.PICTURE_FORMAT_JPEG,
    domain.PictureFormat.MP4: pb.PICTURE_FORMAT_MP4,
    domain.PictureFormat.ANIMATED_WEBP: pb.PICTURE_FORMAT_ANIMATED_WEBP,
}
FORMAT_NAMES = {number: name for name, number in FORMATS.items()}

SYNTAXES: dict[domain.Syntax, pb.PromptSyntax.ValueType] = {
    domain.Syntax.WEIGHTED: pb.PROMPT_SYNTAX_WEIGHTED,
    domain.Syntax.PLAIN: pb.PROMPT_SYNTAX_PLAIN,
}
SYNTAX_NAMES = {number: name for name, number in SYNTAXES.items()}

PLAIN_FIELDS = (
    "width",
    "height",
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "seed",
    "count",
    "lora_weight",
    "quality",
)


def wish_from_proto(message: pb.GenerationSettings) -> domain.Wish:
    uploads: dict[str, bytes] = {}
    given = {name: getattr(message, name) for name in PLAIN_FIELDS if message.HasField(name)}  # type: ignore[arg-type]  # a field's name
    return domain.Wish(
        model_id=message.model_id,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        scheduler=SCHEDULER_NAMES[message.scheduler],
        loras=tuple(
            domain.LoraChoice(lora.model_id, lora.weight if lora.HasField("weight") else 1.0) for lora in message.loras
        ),
        format=FORMAT_NAMES.get(message.format),
        image_to_image=(
            _image_to_image(message.image_to_image, uploads) if message.HasField("image_to_image") else None
        ),
        image_to_video=(
            _image_to_video(message.image_to_video, uploads) if message.HasField("image_to_video") else None
        ),
        controls=tuple(_control(each, uploads) for each in message.controls),
        high_resolution=_high_resolution(message.high_resolution) if message.HasField("high_resolution") else None,
        prompt_syntax=SYNTAX_NAMES.get(message.prompt_syntax, domain.Syntax.WEIGHTED),
        wildcards=tuple((name, tuple(each.lines)) for name, each in sorted(message.wildcards.items())),
        grid=_grid(message.grid) if message.HasField("grid") else None,
        deterministic=message.deterministic,
        uploads=uploads,
        **given,
    )


def settings_to_proto(settings: domain.Settings) -> pb.GenerationSettings:
    message = pb.GenerationSettings(
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
        count=settings.count if settings.grid is None else None,
        lora_weight=settings.lora_weight,
        loras=[pb.LoraWeight(model_id=lora.model_id, weight=lora.weight) for lora in settings.loras],
        format=FORMATS[settings.format],
        quality=settings.quality,
        prompt_syntax=SYNTAXES[settings.prompt_syntax],
        deterministic=settings.deterministic,
    )
    if (begun := settings.image_to_image) is not None:
        mask = _input_to_proto(begun.mask) if begun.mask else None
        message.image_to_image.CopyFrom(
            pb.ImageToImage(
                image=_input_to_proto(begun.image), strength=begun.strength, mask=mask, mask_blur=begun.mask_blur
            )
        )
    if (clip := settings.image_to_video) is not None:
        message.image_to_video.CopyFrom(
            pb.ImageToVideo(
                image=_input_to_proto(clip.image),
                num_frames=clip.num_frames,
                frames_per_second=clip.frames_per_second,
                motion_bucket_id=clip.motion_bucket_id,
                noise_augmentation=clip.noise_augmentation,
            )
        )
    for each in settings.controls:
        message.controls.add(
            model_id=each.model_id,
            image=_input_to_proto(each.image),
            weight=each.weight,
            start=each.start,
            end=each.end,
        )
    if (second := settings.high_resolution) is not None:
        message.high_resolution.CopyFrom(
            pb.HighResolutionPass(scale=second.scale, strength=second.strength, steps=second.steps)
        )
    for name, lines in settings.wildcards:
        message.wildcards[name].lines.extend(lines)
    if (grid := settings.grid) is not None:
        message.grid.CopyFrom(
            pb.Grid(prompts=grid.prompts, model_ids=grid.model_ids, lora_weights=grid.lora_weights, seeds=grid.seeds)
        )
    return message


def request_text(settings: domain.Settings) -> str:
    """The request as JSON, every default filled in: what a client would send to get the same pictures again."""
    return MessageToJson(rpc.GenerateRequest(settings=settings_to_proto(settings)), indent=None, ensure_ascii=False)


def _input(message: pb.InputImage, uploads: MutableMapping[str, bytes]) -> domain.InputPicture:
    match message.WhichOneof("source"):
        case "data":
            digest = hashlib.sha256(message.data).hexdigest()
            uploads[digest] = message.data
            return domain.InputPicture(digest)
        case "generated":
            return domain.InputPicture("", generated=(message.generated.generation_id, message.generated.index))
        case "dataset_image_id":
            return domain.InputPicture("", dataset_image_id=message.dataset_image_id)
        case _:
            return domain.InputPicture(message.sha256)


def _input_to_proto(picture: domain.InputPicture) -> pb.InputImage:
    """By where it came from, where that is known; by its digest otherwise."""
    if picture.generated is not None:
        generation_id, index = picture.generated
        return pb.InputImage(generated=pb.GeneratedImageRef(generation_id=generation_id, index=index))
    if picture.dataset_image_id is not None:
        return pb.InputImage(dataset_image_id=picture.dataset_image_id)
    return pb.InputImage(sha256=picture.sha256)


def _image_to_image(message: pb.ImageToImage, uploads: MutableMapping[str, bytes]) -> domain.ImageToImage:
    default = domain.ImageToImage(domain.InputPicture(""))
    return domain.ImageToImage(
        image=_input(message.image, uploads),
        strength=message.strength if message.HasField("strength") else default.strength,
        mask=_input(message.mask, uploads) if message.HasField("mask") else None,
        mask_blur=message.mask_blur if message.HasField("mask_blur") else default.mask_blur,
    )


def _image_to_video(message: pb.ImageToVideo, uploads: MutableMapping[str, bytes]) -> domain.ImageToVideo:
    default = domain.ImageToVideo(domain.InputPicture(""), num_frames=0)
    return domain.ImageToVideo(
        image=_input(message.image, uploads),
        num_frames=message.num_frames,
        frames_per_second=(
            message.frames_per_second if message.HasField("frames_per_second") else default.frames_per_second
        ),
        motion_bucket_id=(
            message.motion_bucket_id if message.HasField("motion_bucket_id") else default.motion_bucket_id
        ),
        noise_augmentation=(
            message.noise_augmentation if message.HasField("noise_augmentation") else default.noise_augmentation
        ),
    )


def _control(message: pb.ControlImage, uploads: MutableMapping[str, bytes]) -> domain.Control:
    return domain.Control(
        model_id=message.model_id,
        image=_input(message.image, uploads),
        weight=message.weight if message.HasField("weight") else 1.0,
        start=message.start,
        end=message.end if message.HasField("end") else 1.0,
    )


def _high_resolution(message: pb.HighResolutionPass) -> domain.HighResolution:
    default = domain.HighResolution()
    return domain.HighResolution(
        scale=message.scale if message.HasField("scale") else default.scale,
        strength=message.strength if message.HasField("strength") else default.strength,
        steps=message.steps if message.HasField("steps") else None,
    )


def _grid(message: pb.Grid) -> domain.Grid:
    return domain.Grid(
        tuple(message.prompts), tuple(message.model_ids), tuple(message.lora_weights), tuple(message.seeds)
    )
