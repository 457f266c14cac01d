"""Settings as the JSON that the database keeps. What an earlier version wrote has fewer fields, and the domain's
defaults fill them in."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.generator.domain import (
    Control,
    Grid,
    HighResolution,
    ImageToImage,
    ImageToVideo,
    InputPicture,
    LoraChoice,
    PictureFormat,
    Settings,
    Syntax,
)


def settings_to_json(settings: Settings) -> str:
    return json.dumps(asdict(settings))


def settings_from_json(text: str) -> Settings:
    values = json.loads(text)
    values["loras"] = tuple(LoraChoice(**lora) for lora in values["loras"])
    if "format" not in values:
        return Settings(**values, prompt_syntax=Syntax.PLAIN)  # as prompts were read then
    values["format"] = PictureFormat(values["format"])
    values["prompt_syntax"] = Syntax(values["prompt_syntax"])
    values["wildcards"] = tuple((name, tuple(lines)) for name, lines in values["wildcards"])
    values["controls"] = tuple(Control(**{**each, "image": _input(each["image"])}) for each in values["controls"])
    if (begun := values["image_to_image"]) is not None:
        mask = _input(begun["mask"]) if begun["mask"] is not None else None
        values["image_to_image"] = ImageToImage(**{**begun, "image": _input(begun["image"]), "mask": mask})
    if (clip := values["image_to_video"]) is not None:
        values["image_to_video"] = ImageToVideo(**{**clip, "image": _input(clip["image"])})
    if (second := values["high_resolution"]) is not None:
        values["high_resolution"] = HighResolution(**second)
    if (grid := values["grid"]) is not None:
        values["grid"] = Grid(**{axis: tuple(along) for axis, along in grid.items()})
    return Settings(**values)


def _input(values: Mapping[str, Any]) -> InputPicture:
    generated = values["generated"]
    return InputPicture(**{**values, "generated": tuple(generated) if generated is not None else None})
