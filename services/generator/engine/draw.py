"""One request, drawn: a plain generator of what happens, for the thread that torch runs on."""

import time
from collections.abc import Iterator

from services.diffusion.denoise import Step, denoise
from services.diffusion.encode import cut_tokens, decode_latents, encode_prompts, some_of
from services.diffusion.load import Components
from services.diffusion.schedulers import display_name, make_scheduler
from services.generator.domain import Drawn, Previewed, Settings, Stepped


def draw(
    components: Components, settings: Settings, *, batch_size: int, preview_interval: int | None, warnings: list[str]
) -> Iterator[Stepped | Previewed | Drawn]:
    """Draws `settings.count` pictures, `batch_size` at a time, and says so after every pass of the denoiser.

    Adds to `warnings` what the reader of the pictures should know. Raises InvalidArgument and FailedPrecondition where
    the sampler cannot draw this, torch.OutOfMemoryError. Leaving the generator ends the work.
    """
    import torch

    started = time.perf_counter()
    guided = settings.guidance_scale > 1
    prompts = {"prompt": settings.prompt} | ({"negative_prompt": settings.negative_prompt} if guided else {})
    for name, text in prompts.items():
        if cut := cut_tokens(components, text):
            limit = components.tokenizers[0].model_max_length
            warnings.append(f"{name} has more than the {limit} tokens that the model reads; this was left out: {cut}")
    with torch.no_grad():
        words = encode_prompts(components, list(prompts.values()))
    sampler = display_name(components, settings.scheduler)
    for first in range(0, settings.count, batch_size):
        seeds = [settings.seed + index for index in range(first, min(first + batch_size, settings.count))]
        step: Step | None = None
        for step in denoise(
            components,
            make_scheduler(components, settings.scheduler, steps=settings.steps),
            said=some_of(words, slice(0, 1)),
            unsaid=some_of(words, slice(1, 2)) if guided else None,
            seeds=seeds,
            width=settings.width,
            height=settings.height,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            guidance_rescale=settings.guidance_rescale,
        ):
            millis = int((time.perf_counter() - started) * 1000)
            yield Stepped(step.index, step.total, first, len(seeds), millis)
            if preview_interval and step.index % preview_interval == 0 and step.index < step.total:
                for place, pixels in enumerate(decode_latents(components, step.predict_original()).numpy()):
                    yield Previewed(first + place, step.index, pixels)
        if step is None:
            raise ValueError(f"the sampler made no step of {settings.steps}")
        for place, pixels in enumerate(decode_latents(components, step.latents).numpy()):
            yield Drawn(first + place, seeds[place], pixels, sampler)
