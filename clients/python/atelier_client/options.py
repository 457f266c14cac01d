"""What can be asked of a drawing, by the names that the SDK has for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from atelier.catalog.v1.model_pb2 import MODEL_CATEGORY_VIDEO
from atelier.generator.v1 import generation_pb2 as types
from atelier.generator.v1.generation_pb2 import GenerationSettings

from atelier_client import plain
from atelier_client.errors import InvalidArgument
from atelier_client.inputs import PictureSource, input_image, read_lines
from atelier_client.models import ModelRef, Models

Size: TypeAlias = int | str | tuple[int, int]
"""Pixels: 512, "512x768" or (512, 768), width first."""


@dataclass(frozen=True)
class Control:
    """A ControlNet and the picture that it is shown, as it was trained on: edges, depth, a pose."""

    model: ModelRef
    image: PictureSource
    weight: float | None = None
    """0 to 2. [1]"""
    start: float | None = None
    """It acts from this share of the steps on. [0]"""
    end: float | None = None
    """Until this share. [1]"""


@dataclass(frozen=True)
class HighResolution:
    """A second pass: the finished picture is enlarged and drawn over at its new size."""

    scale: float | None = None
    """Of width and height, more than 1, up to 4. [2]"""
    strength: float | None = None
    """Which share of the steps is drawn. [0.5]"""
    steps: int | None = None
    """[as many as the first pass]"""


class Options(TypedDict, total=False):
    """Settings of a drawing. What is None or left out gets the server's default, in brackets."""

    negative_prompt: str
    """What to keep out."""
    size: Size | None
    """[the model's own, or the shape of the picture that it begins with]"""
    steps: int | None
    """Denoising steps. [25]"""
    guidance: float | None
    """How closely to follow the prompt; 1 or less turns guidance off. [7.5; 3 for clips]"""
    guidance_rescale: float | None
    """Against over-exposure, 0 to 1. [0]"""
    scheduler: str
    """For example "euler" or "DPM++ 2M Karras". [the model's own]"""
    seed: int | None
    """Of the first picture; the next have the next. [chosen by the server, and said]"""
    count: int | None
    """Pictures, up to 64. [1]"""
    lora_weight: float | None
    """How strongly a model that is a LoRA applies. [1]"""
    loras: Mapping[str, float] | Mapping[int, float] | None
    """More LoRAs of the same base: {id or name: weight}."""
    image: PictureSource | None
    """Begins with this picture: drawn over, or, with a model that draws clips, a clip's first frame."""
    strength: float | None
    """How much of `image` is drawn anew: 1 leaves nothing of it. [0.75]"""
    mask: PictureSource | None
    """Of the shape of `image`: white is drawn anew, black stays."""
    mask_blur: int | None
    """Pixels over which what is drawn fades into what stays. [4]"""
    frames: int | None
    """Of a clip. [the model's own]"""
    fps: int | None
    """Frames a second of a clip. [7]"""
    motion: int | None
    """How much moves in a clip, 0 to 255. [127]"""
    noise_augmentation: float | None
    """Noise laid on a clip's first frame: more leaves more freedom. [0.02]"""
    controls: Sequence[Control] | Mapping[str, PictureSource] | Mapping[int, PictureSource] | None
    """ControlNets: {id or name: picture}, or `Control`s where weights or shares of the steps matter."""
    high_resolution: float | HighResolution | None
    """A second pass at a larger size; a number is its scale."""
    prompt_syntax: str
    """"weighted": (words:1.3), {one|another}, __name__; "plain": each character stands for itself. ["weighted"]"""
    wildcards: Mapping[str, Sequence[str] | str | Path] | None
    """The lines that `__name__` in a prompt chooses from, or the file that has them."""
    format: str
    """"png", "webp" or "jpeg"; of clips "mp4" or "animated_webp". ["png"; "mp4" of clips]"""
    quality: int | None
    """Of WebP and JPEG, 1 to 100. [90]"""
    deterministic: bool
    """Draws each picture by itself: the same bytes again, whoever else draws. Slower."""


_CLIP = ("frames", "fps", "motion", "noise_augmentation")
_DRAWN_OVER = ("strength", "mask", "mask_blur")


def settings_of(prompt: str, model: ModelRef, options: Options, models: Models) -> GenerationSettings:
    """The message that `options` mean. Asks the Catalog for names, and whether a model draws clips where only that
    decides what `image` is for.

    Raises InvalidArgument, NotFound, and TypeError for an option that there is not.
    """
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"there is no option {', '.join(map(repr, sorted(unknown)))}")
    size = options.get("size")
    width, height = (None, None) if size is None else parse_size(size)
    settings = GenerationSettings()
    values: dict[str, Any] = {
        "model_id": models.id_of(model),
        "prompt": prompt,
        "width": width,
        "height": height,
        "guidance_scale": options.get("guidance"),
        "scheduler": options.get("scheduler") or None,
        "format": options.get("format") or None,
        "prompt_syntax": options.get("prompt_syntax") or None,
        **{
            name: options.get(name)
            for name in (
                *("negative_prompt", "steps", "guidance_rescale", "seed", "count"),
                *("lora_weight", "quality", "deterministic"),
            )
        },
    }
    plain.fill(settings, values, path="settings")
    for reference, weight in (options.get("loras") or {}).items():
        plain.fill(settings.loras.add(), {"model_id": models.id_of(reference), "weight": weight}, path="settings.loras")
    _begin(settings, model, options, models)
    for control in _controls(options.get("controls")):
        _add_control(settings, control, models)
    _add_high_resolution(settings, options.get("high_resolution"))
    for name, lines in (options.get("wildcards") or {}).items():
        field = f"settings.wildcards[{name}]"
        settings.wildcards[name].lines.extend(
            read_lines(lines, field=field) if isinstance(lines, str | Path) else lines
        )
    return settings


def parse_size(size: Size) -> tuple[int, int]:
    """(width, height) in pixels. Raises InvalidArgument naming `size`."""
    if isinstance(size, tuple):
        return size
    if isinstance(size, int):
        return size, size
    parts = size.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() for part in parts):
        raise InvalidArgument({"size": f"{size!r} is neither a side like 512 nor a width and height like 512x768"})
    sides = [int(part) for part in parts]
    return sides[0], sides[-1]


def _begin(settings: GenerationSettings, model: ModelRef, options: Options, models: Models) -> None:
    """Sets image_to_image or image_to_video, or neither where there is no `image`."""
    image = options.get("image")
    clip = [name for name in _CLIP if options.get(name) is not None]
    over = [name for name in _DRAWN_OVER if options.get(name) is not None]
    if clip and over:
        raise InvalidArgument({over[0]: f"is of pictures that are drawn over, {clip[0]} of clips: one of the two"})
    if image is None:
        if lonely := [*clip, *over]:
            raise InvalidArgument({"image": f"is needed for {lonely[0]}"})
        return
    if clip or (not over and models.get(model).category == MODEL_CATEGORY_VIDEO):
        path = "settings.image_to_video"
        settings.image_to_video.image.CopyFrom(input_image(image, field=f"{path}.image"))
        values = {
            "num_frames": options.get("frames"),
            "frames_per_second": options.get("fps"),
            "motion_bucket_id": options.get("motion"),
            "noise_augmentation": options.get("noise_augmentation"),
        }
        plain.fill(settings.image_to_video, values, path=path)
        return
    path = "settings.image_to_image"
    settings.image_to_image.image.CopyFrom(input_image(image, field=f"{path}.image"))
    if (mask := options.get("mask")) is not None:
        settings.image_to_image.mask.CopyFrom(input_image(mask, field=f"{path}.mask"))
    values = {"strength": options.get("strength"), "mask_blur": options.get("mask_blur")}
    plain.fill(settings.image_to_image, values, path=path)


def _controls(
    controls: Sequence[Control] | Mapping[str, PictureSource] | Mapping[int, PictureSource] | None,
) -> Sequence[Control]:
    if isinstance(controls, Mapping):
        return [Control(model, image) for model, image in controls.items()]
    return controls or ()


def _add_control(settings: GenerationSettings, control: Control, models: Models) -> None:
    path = f"settings.controls[{len(settings.controls)}]"
    shown = types.ControlImage(
        model_id=models.id_of(control.model), image=input_image(control.image, field=f"{path}.image")
    )
    plain.fill(shown, {"weight": control.weight, "start": control.start, "end": control.end}, path=path)
    settings.controls.append(shown)


def _add_high_resolution(settings: GenerationSettings, wanted: float | HighResolution | None) -> None:
    if wanted is None:
        return
    if not isinstance(wanted, HighResolution):
        wanted = HighResolution(wanted)
    values = {"scale": wanted.scale, "strength": wanted.strength, "steps": wanted.steps}
    settings.high_resolution.SetInParent()
    plain.fill(settings.high_resolution, values, path="settings.high_resolution")
