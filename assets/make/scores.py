"""The figures of the model card and of the demo."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from assets.make.concepts import concepts
from assets.make.data import sheet
from assets.make.demo import PROMPTS
from assets.make.judge import concept_ranks, subject_ranks, top
from assets.make.lora import Settings, draw, fine_tune
from assets.style_check import score

SHOWN = (
    *PROMPTS, "crying face", "pizza", "sun", "purple heart", "penguin face", "crown", "butterfly", "pink car",
    "cactus", "airplane", "blue apple", "watermelon", "skull", "guitar", "green bell", "tulip",
)  # fmt: skip


def load(folder: Path) -> StableDiffusionPipeline:
    """The shipped model in float32."""
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def score_base(folder: Path, *, guidance: float = 3.0, rescale: float = 0.0) -> dict[str, float]:
    """Top-1 and top-5 over every concept, one picture each, and the mean style score; writes the sample sheet."""
    pipeline = load(folder)
    captions = [caption for caption, _ in concepts().values()]
    images = draw(pipeline, captions, guidance=guidance, rescale=rescale)
    ranks = concept_ranks(images, captions)
    shown = draw(pipeline, list(SHOWN), guidance=guidance, rescale=rescale, seed=1)
    sheet(shown, 8).save(folder / "samples.png")
    style = score(images)
    return {
        "pictures": len(images), "top-1": top(ranks, 1), "top-5": top(ranks, 5),
        "mean style score": sum(style) / len(style), "style score above 0.5": sum(s > 0.5 for s in style) / len(style),
    }  # fmt: skip


def score_lora(
    folder: Path, out: Path, settings: Settings | None = None, *, guidance: float = 3.0,
    rescale: float = 0.0, weight: float = 1.0, seeds: int = 1,
) -> dict[str, float]:  # fmt: skip
    """The unseen prompts before and after the demo's fine-tune: mean style scores, and whether the subject stayed."""
    pipeline = load(folder)
    prompts = PROMPTS * seeds
    found: dict[str, float] = {}
    before = draw(pipeline, prompts, guidance=guidance, rescale=rescale)
    found["seconds"] = fine_tune(pipeline, settings or Settings())
    pipeline.unet.set_adapters("demo", weight)
    after = draw(pipeline, prompts, guidance=guidance, rescale=rescale)
    for name, images in (("before", before), ("after", after)):
        style = score(images)
        found[f"{name} style"] = sum(style) / len(style)
    kept = [
        rank
        for start in range(0, len(prompts), 16)
        for rank in subject_ranks(after[start : start + 16], before[start : start + 16])
    ]
    found["subject kept, of 16"], found["subject among 3, of 16"] = top(kept, 1), top(kept, 3)
    sheet(before[:16] + after[:16], 8).save(out / "lora.png")
    return found
