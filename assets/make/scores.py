"""The figures of the model card and of the demo."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from assets.make.concepts import concepts
from assets.make.data import sheet
from assets.make.demo import PROMPTS
from assets.make.judge import Judge, top
from assets.make.lora import Settings, draw, fine_tune
from assets.style_check import score

SHOWN = (
    *PROMPTS, "crying face", "pizza", "sun", "purple heart", "penguin face", "crown", "butterfly", "pink car",
    "cactus", "airplane", "blue apple", "watermelon", "skull", "guitar", "green bell", "tulip",
)  # fmt: skip


def load(folder: Path) -> StableDiffusionPipeline:
    """The shipped model in float32."""
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def score_base(folder: Path, judge_folder: Path, *, guidance: float = 3.0, rescale: float = 0.0) -> dict[str, float]:
    """Top-1 and top-5 over every concept, one picture each, and the mean style score; writes the sample sheet."""
    pipeline, judge = load(folder), Judge(judge_folder)
    captions = [caption for caption, _ in concepts().values()]
    images = draw(pipeline, captions, guidance=guidance, rescale=rescale)
    ranks = judge.ranks(images, captions)
    shown = draw(pipeline, list(SHOWN), guidance=guidance, rescale=rescale, seed=1)
    sheet(shown, 8).save(folder / "samples.png")
    style = score(images)
    return {
        "pictures": len(images), "top-1": top(ranks, 1), "top-5": top(ranks, 5),
        "mean style score": sum(style) / len(style), "style score above 0.5": sum(s > 0.5 for s in style) / len(style),
    }  # fmt: skip


def score_lora(
    folder: Path, judge_folder: Path, out: Path, settings: Settings | None = None, *, guidance: float = 3.0,
    rescale: float = 0.0, weight: float = 1.0, seeds: int = 2,
) -> dict[str, float]:  # fmt: skip
    """The unseen prompts before and after the demo's fine-tune: mean style scores and top-5; writes both sheets."""
    pipeline, judge = load(folder), Judge(judge_folder)
    prompts = PROMPTS * seeds
    found: dict[str, float] = {}
    before = draw(pipeline, prompts, guidance=guidance, rescale=rescale)
    found["seconds"] = fine_tune(pipeline, settings or Settings())
    pipeline.unet.set_adapters("demo", weight)
    after = draw(pipeline, prompts, guidance=guidance, rescale=rescale)
    for name, images in (("before", before), ("after", after)):
        ranks, style = judge.ranks(images, prompts), score(images)
        found[f"{name} style"] = sum(style) / len(style)
        found[f"{name} top-1"], found[f"{name} top-5"] = top(ranks, 1), top(ranks, 5)
    sheet(before[:16] + after[:16], 8).save(out / "lora.png")
    return found
