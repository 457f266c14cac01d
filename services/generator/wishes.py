"""A client's wish as settings: every default filled in, every rule that the model sets checked."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

from services.common.errors import InvalidArgument
from services.diffusion.families import get_family
from services.diffusion.families.family import Size
from services.generator.domain import (
    DEFAULT_CLIP_GUIDANCE,
    DEFAULT_FRAMES,
    DEFAULT_GUIDANCE,
    DEFAULT_QUALITY,
    DEFAULT_STEPS,
    MAX_GRID,
    MAX_SEED,
    MAX_SIDE,
    MIN_SIDE,
    HighResolution,
    ImageToVideo,
    PictureFormat,
    Plan,
    Settings,
    Wish,
)

UNKNOWN_MULTIPLE = 64
"""Of which sides are multiples while the model's own rule is not known: all families take it."""


def settle(
    wish: Wish,
    plan: Plan,
    size: Size | None,
    *,
    begins: tuple[int, int] | None = None,
    num_frames: int = DEFAULT_FRAMES,
) -> Settings:
    """The settings that `wish` means with the models of `plan`. `size` is None while the weights are not here yet;
    `begins` is the size of the picture that it begins with; `num_frames` are those of the model's clips.

    Raises InvalidArgument naming the field and the rule.
    """
    clips = get_family(plan.family).draws_clips
    _check_kind(wish, plan, clips=clips)
    width, height = _sides(wish, plan, size, begins)
    pictures = _count(wish)
    _check_texts(wish)
    for place, control in enumerate(wish.controls):
        if control.end <= control.start:
            raise InvalidArgument(
                f"{control.end:g} is not after {control.start:g}", field=f"settings.controls[{place}].end"
            )
    if wish.seed is not None and wish.seed + (1 if wish.grid else pictures) - 1 > MAX_SEED:
        raise InvalidArgument(f"{wish.seed} and the next {pictures - 1} exceed {MAX_SEED}", field="settings.seed")
    steps = DEFAULT_STEPS if wish.steps is None else wish.steps
    guidance = DEFAULT_CLIP_GUIDANCE if clips else DEFAULT_GUIDANCE
    return Settings(
        model_id=wish.model_id,
        prompt=wish.prompt,
        negative_prompt=wish.negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance if wish.guidance_scale is None else wish.guidance_scale,
        guidance_rescale=0.0 if wish.guidance_rescale is None else wish.guidance_rescale,
        scheduler=wish.scheduler,
        # Short enough to be read out, as people do with seeds; count more must fit behind it.
        seed=secrets.randbelow(2**32) if wish.seed is None else wish.seed,
        count=pictures,
        lora_weight=plan.loras[0].weight if plan.has_as_lora(wish.model_id) else None,
        loras=wish.loras,
        format=wish.format or (PictureFormat.MP4 if clips else PictureFormat.PNG),
        quality=DEFAULT_QUALITY if wish.quality is None else wish.quality,
        image_to_image=wish.image_to_image,
        image_to_video=_frames(wish.image_to_video, num_frames),
        controls=wish.controls,
        high_resolution=_second_pass(wish.high_resolution, (width, height), size, steps),
        prompt_syntax=wish.prompt_syntax,
        wildcards=wish.wildcards,
        grid=wish.grid,
        deterministic=wish.deterministic,
    )


def check_size(settings: Settings, name: str, size: Size) -> None:
    """Raises InvalidArgument where the model `name` does not draw such sides."""
    sides = {"settings.width": settings.width, "settings.height": settings.height}
    rules = {
        field: f"{side} is not a multiple of {size.multiple}, which '{name}' asks for"
        for field, side in sides.items()
        if side % size.multiple
    }
    if rules:
        raise InvalidArgument.of(rules)


def check_alike(sizes: Sequence[tuple[Plan, Size]]) -> None:
    """Raises InvalidArgument unless a grid's models draw the same sizes of the same thing."""
    (first, size), *others = sizes
    for plan, other in others:
        alike = (other.multiple, other.vae_factor) == (size.multiple, size.vae_factor)
        if not alike or get_family(plan.family).draws_clips != get_family(first.family).draws_clips:
            message = f"'{plan.model_name}' and '{first.model_name}' do not draw the same sizes"
            raise InvalidArgument(message, field="settings.grid.model_ids")


def _check_kind(wish: Wish, plan: Plan, *, clips: bool) -> None:
    """Raises InvalidArgument where clips are asked of a model of pictures, or the other way round."""
    name = plan.base.name
    rules: dict[str, str] = {}
    if clips:
        if wish.image_to_video is None:
            rules["settings.image_to_video"] = f"must be set: '{name}' draws clips, and they begin with a picture"
        for field, given in (("image_to_image", wish.image_to_image), ("high_resolution", wish.high_resolution)):
            if given is not None:
                rules[f"settings.{field}"] = f"must not be set: '{name}' draws clips"
        if wish.format is not None and not wish.format.is_of_clips:
            rules["settings.format"] = f"must be MP4 or ANIMATED_WEBP: '{name}' draws clips"
    else:
        if wish.image_to_video is not None:
            rules["settings.image_to_video"] = f"must not be set: '{name}' draws no clips"
        if wish.format is not None and wish.format.is_of_clips:
            rules["settings.format"] = f"must be PNG, WEBP or JPEG: '{name}' draws no clips"
    if rules:
        raise InvalidArgument.of(rules)


def _sides(wish: Wish, plan: Plan, size: Size | None, begins: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height, in pixels: what was asked for, or the shape of the picture that it begins with at about the
    model's own number of pixels, or the model's own."""
    native = plan.base.native_size or (size.native if size else 512)
    multiple = size.multiple if size else UNKNOWN_MULTIPLE

    def rounded(side: float) -> int:
        least, most = -(-MIN_SIDE // multiple), MAX_SIDE // multiple
        return min(max(round(side / multiple), least), most) * multiple

    width, height = wish.width, wish.height
    if begins is not None:
        wide, high = begins
        scale = native / (wide * high) ** 0.5
        if width is None:
            width = rounded(wide * scale) if height is None else rounded(wide * height / high)
        if height is None:
            height = rounded(high * scale) if wish.width is None else rounded(high * width / wide)
    return native if width is None else width, native if height is None else height


def _count(wish: Wish) -> int:
    """Pictures in all. Raises InvalidArgument."""
    if wish.grid is None:
        return 1 if wish.count is None else wish.count
    if wish.count not in (None, 1):
        raise InvalidArgument("must not be set beside a grid, which says how many there are", field="settings.count")
    grid = wish.grid
    pictures = 1
    for axis in (grid.prompts, grid.model_ids, grid.lora_weights, grid.seeds):
        pictures *= len(axis) or 1
    if pictures > MAX_GRID:
        raise InvalidArgument(f"has {pictures} pictures; {MAX_GRID} at most", field="settings.grid")
    return pictures


def _check_texts(wish: Wish) -> None:
    texts = {"settings.prompt": wish.prompt, "settings.negative_prompt": wish.negative_prompt}
    for place, prompt in enumerate(wish.grid.prompts if wish.grid else ()):
        texts[f"settings.grid.prompts[{place}]"] = prompt
    for name, lines in wish.wildcards:
        texts |= {f"settings.wildcards['{name}'].lines[{place}]": line for place, line in enumerate(lines)}
    for field, text in texts.items():
        if "\0" in text:
            raise InvalidArgument("must not hold a NUL character", field=field)


def _frames(clip: ImageToVideo | None, num_frames: int) -> ImageToVideo | None:
    return replace(clip, num_frames=num_frames) if clip is not None and not clip.num_frames else clip


def _second_pass(
    second: HighResolution | None, sides: tuple[int, int], size: Size | None, steps: int
) -> HighResolution | None:
    """Raises InvalidArgument where the second pass would be larger than pictures may be."""
    if second is None:
        return None
    wide, high = second.size(*sides, multiple=size.multiple if size else UNKNOWN_MULTIPLE)
    if max(wide, high) > MAX_SIDE:
        message = f"{second.scale:g} makes {wide} x {high} pixels; {MAX_SIDE} a side at most"
        raise InvalidArgument(message, field="settings.high_resolution.scale")
    return second if second.steps is not None else replace(second, steps=steps)
