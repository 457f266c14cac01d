"""Pictures drawn while training, so that one sees what is learnt. Their noise comes from generators of their own, and
training's from its own: drawing changes nothing that is trained."""

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from services.common.blobs import BlobStore
from services.diffusion.denoise import denoise
from services.diffusion.encode import decode_latents, encode_prompts, some_of
from services.diffusion.load import Components
from services.diffusion.schedulers import make_scheduler
from services.trainer.domain import Sample, SampleConfig
from services.trainer.worker.seeds import derive_seed

if TYPE_CHECKING:
    import torch

DRAWN_AT_ONCE = 4


def draw(
    components: Components,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    side: int,
    steps: int,
    guidance_scale: float,
    autocast: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # stateless, may be entered again
) -> "Iterator[torch.Tensor | None]":
    """Square pictures of the prompts, each (H, W, 3) uint8, with the scheduler the model was published with; None after
    each pass of the denoiser, as a moment at which drawing can be left. `side` is rounded up to what the model
    draws."""
    import torch

    multiple = components.size.multiple
    side = -(-side // multiple) * multiple
    with torch.no_grad():
        said, unsaid = encode_prompts(components, prompts), encode_prompts(components, [""])
    for start in range(0, len(prompts), DRAWN_AT_ONCE):
        chosen = slice(start, start + DRAWN_AT_ONCE)
        passes = denoise(
            components,
            make_scheduler(components),
            said=some_of(said, chosen),
            unsaid=unsaid,
            seeds=seeds[chosen],
            width=side,
            height=side,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        latents = None
        while True:
            with autocast:
                step = next(passes, None)
            if step is None:
                break
            latents = step.latents
            yield None
        if latents is not None:
            yield from decode_latents(components, latents)


def draw_samples(
    components: Components,
    config: SampleConfig,
    blobs: BlobStore,
    *,
    step: int,
    seed: int,
    side: int,
    autocast: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # stateless, may be entered again
) -> Iterator[Sample | None]:
    """One picture for each configured prompt, stored as PNG. A prompt's noise is the same at every step of the job."""
    seeds = [derive_seed(seed, "sample", place) for place in range(len(config.prompts))]
    pictures = draw(
        components,
        config.prompts,
        seeds,
        side=side,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        autocast=autocast,
    )
    index = 0
    for pixels in pictures:
        if pixels is None:
            yield None
            continue
        height, width = pixels.shape[:2]
        digest = blobs.put(to_png(pixels))
        yield Sample(step=step, index=index, prompt=config.prompts[index], sha256=digest, width=width, height=height)
        index += 1


def to_png(pixels: "torch.Tensor") -> bytes:
    """A PNG of (H, W, 3) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
