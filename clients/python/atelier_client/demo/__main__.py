"""Forty pictures in, a fine-tuned model out, pictures from it; measured, and shown on one sheet under out/demo/."""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.trainer.v1.training_pb2 import JobStatus, TrainingJob

import assets
from atelier_client.addresses import SERVICES
from atelier_client.cli.session import err, out
from atelier_client.cli.watching import watch_job
from atelier_client.client import Atelier
from atelier_client.errors import AtelierError
from atelier_client.generation import Picture
from atelier_client.models import ModelRef
from atelier_client.stack import Stack

ASSETS = Path(assets.__file__).parent
OUT = Path("out/demo")
LEAST_GAIN = 0.25  # of the mean style score; less than that is no change that anybody would see
STYLE_IMAGES = 8  # of the demo images, shown on the sheet
REQUESTS_AT_ONCE = 4  # so that a Generator that batches can


LORA_FIELDS = ("rank", "alpha", "target_modules")


@dataclass(frozen=True)
class Plan:
    """What the demo trains and draws: assets/demo-prompts.json."""

    images: Path
    prompts: list[str]
    seeds: list[int]
    training: dict[str, Any]  # TrainingConfig's field names
    drawing: dict[str, Any]  # Atelier.generate's keywords
    lora_weight: float


def main() -> int:
    """Runs it all; gives the exit code."""
    began = time.monotonic()
    plan = read_plan(ASSETS / "demo-prompts.json")
    shutil.rmtree(OUT / "data", ignore_errors=True)
    out.print("Starting the services ...", markup=False)
    with Stack(OUT / "data", services=SERVICES) as stack, stack.client() as client:
        starter = seed(client)
        job = train(client, starter, plan)
        model = client.models.get(job.model_id)
        out.print(f"Registered: model {model.id} {model.name!r}, a {model.size_bytes / 1e6:.1f} MB LoRA of {starter}.")
        out.print(f"Drawing {len(plan.prompts)} unseen prompts with both models, same seeds ...", markup=False)
        before = draw(client, starter, plan)
        after = draw(client, model.id, plan, lora_weight=plan.lora_weight)
        points = client.training.metrics(job.id)
    before_score, after_score = style_score(before), style_score(after)
    gained = after_score - before_score >= LEAST_GAIN
    sheet = write_pictures(plan, job, before, after, before_score, after_score, points)
    out.print()
    out.print(f"Style score (0 colour emoji, 1 line icon): base {before_score:.2f}, trained {after_score:.2f}.")
    out.print(f"Before and after: {sheet}\nLoss curve:       {OUT / 'loss.png'}", markup=False)
    out.print(f"Took {time.monotonic() - began:.0f} s.", markup=False)
    if not gained:
        err.print(f"error: the trained score is not {LEAST_GAIN} above the base's", markup=False)
    return 0 if gained else 1


def read_plan(file: Path) -> Plan:
    """Raises OSError, ValueError or KeyError when the file is not what it should be."""
    described = json.loads(file.read_text(encoding="utf-8"))
    prompts, training, drawing = described["prompts"], described["training"], described["drawing"]
    lora = {name: training.pop(name) for name in LORA_FIELDS}
    return Plan(
        images=file.parent / training.pop("images"),
        prompts=prompts,
        seeds=list(range(len(prompts))),
        training={"max_steps": training.pop("steps"), "lora": lora, **training},
        drawing={
            "scheduler": drawing["scheduler"],
            "steps": drawing["steps"],
            "guidance": drawing["guidance_scale"],
            "guidance_rescale": drawing["guidance_rescale"],
            "size": (drawing["width"], drawing["height"]),
        },
        lora_weight=drawing["lora_weight"],
    )


def seed(client: Atelier) -> str:
    """Seeds the models and gives the starter model's name."""
    models = client.models.seed().models
    for model in models:
        out.print(f"  {model.id}  {model.name}", markup=False)
    # The hub's models lie out of reach of a demo; the starter model is the one whose weights are here.
    return next(model.name for model in models if model.WhichOneof("weights") == "stored")


def train(client: Atelier, starter: str, plan: Plan) -> TrainingJob:
    """The completed job. Raises AtelierError when it fails."""
    dataset = client.datasets.create("demo icons", description="Forty black line icons")
    uploaded = client.datasets.upload(dataset, plan.images)
    if uploaded.refused:
        raise AtelierError(f"refused: {uploaded.refused[0].filename}: {uploaded.refused[0].message}")
    out.print(f"Uploaded {uploaded.dataset.num_items} captioned images. Training a LoRA on {starter!r}:", markup=False)
    job = client.training.create(dataset, starter, output_name="Line icons", config=plan.training, start=True)
    job = watch_job(client, job.id, out)
    if job.status != JobStatus.JOB_STATUS_COMPLETED:
        raise AtelierError(f"the job did not complete: {job.failure.message or 'cancelled'}")
    return job


def draw(client: Atelier, model: ModelRef, plan: Plan, *, lora_weight: float | None = None) -> list[Picture]:
    """One picture a prompt, in the plan's order."""

    def draw_one(prompt: str, seed: int) -> Picture:
        return client.generate(prompt, model=model, seed=seed, lora_weight=lora_weight, **plan.drawing)[0]

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(draw_one, plan.prompts, plan.seeds))


def style_score(pictures: Sequence[Picture]) -> float:
    """Mean probability of the learnt style, by a classifier that has seen neither these nor the demo's images."""
    from assets import style_check

    return statistics.fmean(style_check.score([picture.to_pillow() for picture in pictures]))


def write_pictures(
    plan: Plan,
    job: TrainingJob,
    before: Sequence[Picture],
    after: Sequence[Picture],
    before_score: float,
    after_score: float,
    points: Sequence[Any],
) -> Path:
    """Writes the sheet, the loss curve and every picture; gives the sheet's path."""
    from PIL import Image

    from atelier_client.demo.loss import draw_loss
    from atelier_client.demo.sheet import Row, draw_sheet

    for name, pictures in (("before", before), ("after", after)):
        for index, (picture, prompt) in enumerate(zip(pictures, plan.prompts, strict=True)):
            picture.save(OUT / name / f"{index + 1:02d}-{prompt.replace(' ', '-')}.png")
    learnt = [Image.open(file) for file in sorted(plan.images.glob("*.png"))]
    chosen = learnt[:: max(1, len(learnt) // STYLE_IMAGES)][:STYLE_IMAGES]
    seconds = (job.finished_at.ToMilliseconds() - job.started_at.ToMilliseconds()) / 1000
    rank, steps = job.config.lora.rank, job.progress.total_steps
    draw_loss(OUT / "loss.png", points, title=f"A rank-{rank} LoRA on {job.num_items} images, {steps} steps")
    return draw_sheet(
        OUT / "before-after.png",
        title="The same prompts and seeds, before and after fine-tuning",
        subtitle=(
            f"A rank-{rank} LoRA, {steps} steps on {job.num_items} line icons in {seconds:.0f} s; no prompt here was "
            f"among them. Style score: {before_score:.2f} before, {after_score:.2f} after (1 = line icon)."
        ),
        learnt=Row("Learnt from", f"{STYLE_IMAGES} of the {len(learnt)}\nimages", chosen),
        prompts=plan.prompts,
        before=Row("Before", "starter model", [picture.to_pillow() for picture in before]),
        after=Row("After", "with the LoRA", [picture.to_pillow() for picture in after]),
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AtelierError as error:
        err.print(f"error: {error.message}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
