"""The same pictures, drawn by us and by diffusers."""

from typing import Any

import numpy as np
import torch

from services.diffusion.denoise import denoise
from services.diffusion.encode import decode_latents, encode_prompts, some_of
from services.diffusion.load import Components
from services.diffusion.schedulers import make_scheduler

PROMPT, NEGATIVE, SEEDS, WIDTH, HEIGHT = "a red apple", "blue", (5, 6), 64, 80


def draw(
    components: Components,
    sampler: str | None = None,
    *,
    guidance: float = 7.5,
    rescale: float = 0.0,
    steps: int = 5,
    seeds: tuple[int, ...] = SEEDS,
) -> np.ndarray:
    """(B, H, W, 3) int, by this project."""
    words = encode_prompts(components, [PROMPT, NEGATIVE])
    for step in denoise(
        components,
        make_scheduler(components, sampler, steps=steps),
        said=some_of(words, slice(0, 1)),
        unsaid=some_of(words, slice(1, 2)),
        seeds=seeds,
        width=WIDTH,
        height=HEIGHT,
        steps=steps,
        guidance_scale=guidance,
        guidance_rescale=rescale,
    ):
        latents = step.latents
    return decode_latents(components, latents).numpy().astype(int)


def draw_plain(
    pipeline: Any, scheduler: Any = None, *, guidance: float = 7.5, rescale: float | None = 0.0, steps: int = 5
) -> np.ndarray:
    """The same by diffusers, with a scheduler of its own. `rescale` None is for pipelines that know none."""
    if scheduler is not None:
        pipeline.scheduler = scheduler
    images = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_images_per_prompt=len(SEEDS),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        num_inference_steps=steps,
        guidance_scale=guidance,
        width=WIDTH,
        height=HEIGHT,
        **({} if rescale is None else {"guidance_rescale": rescale}),
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)
