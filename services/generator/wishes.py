"""A client's wish as settings: every default filled in, every rule that the model sets checked."""

import secrets

from services.common.errors import InvalidArgument
from services.diffusion.families.family import Size
from services.generator.domain import (
    DEFAULT_GUIDANCE,
    DEFAULT_STEPS,
    MAX_SEED,
    Plan,
    Settings,
    Wish,
)
from services.generator.inputs import native_shape


def settle(wish: Wish, plan: Plan, size: Size | None, begun_with: tuple[int, int] | None = None) -> Settings:
    """The settings that `wish` means with the models of `plan`. `size` is None while the weights are not here yet;
    `begun_with` is the shape of the picture that drawing begins with.

    Raises InvalidArgument naming the field and the rule.
    """
    native = plan.base.native_size or (size.native if size else 512)
    usual = native_shape(*begun_with, size, native) if begun_with else (native, native)
    width = usual[0] if wish.width is None else wish.width
    height = usual[1] if wish.height is None else wish.height
    count = 1 if wish.count is None else wish.count
    if size is not None:
        sides = {"settings.width": width, "settings.height": height}
        name = plan.base.name
        rules = {
            field: f"{side} is not a multiple of {size.multiple}, which '{name}' asks for"
            for field, side in sides.items()
            if side % size.multiple
        }
        if rules:
            raise InvalidArgument.of(rules)
    if wish.seed is not None and wish.seed + count - 1 > MAX_SEED:
        raise InvalidArgument(f"{wish.seed} and the next {count - 1} exceed {MAX_SEED}", field="settings.seed")
    for field, text in (("settings.prompt", wish.prompt), ("settings.negative_prompt", wish.negative_prompt)):
        if "\0" in text:
            raise InvalidArgument("must not hold a NUL character", field=field)
    is_lora = bool(plan.loras) and plan.loras[0].source.model_id == wish.model_id
    return Settings(
        model_id=wish.model_id,
        prompt=wish.prompt,
        negative_prompt=wish.negative_prompt,
        width=width,
        height=height,
        steps=DEFAULT_STEPS if wish.steps is None else wish.steps,
        guidance_scale=DEFAULT_GUIDANCE if wish.guidance_scale is None else wish.guidance_scale,
        guidance_rescale=0.0 if wish.guidance_rescale is None else wish.guidance_rescale,
        scheduler=wish.scheduler,
        # Short enough to be read out, as people do with seeds; count more must fit behind it.
        seed=secrets.randbelow(2**32) if wish.seed is None else wish.seed,
        count=count,
        lora_weight=plan.loras[0].weight if is_lora else None,
        loras=wish.loras,
        format=wish.format,
        quality=wish.quality,
        image_to_image=wish.image_to_image,
        prompt_syntax=wish.prompt_syntax,
        deterministic=wish.deterministic,
    )
