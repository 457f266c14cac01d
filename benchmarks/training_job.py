"""training_job: what a job costs beside its steps, on the starter model through the whole system.

* From a worker's start to its first step: importing torch and diffusers, loading, encoding 40 pictures. Beside it, one
  bare process that imports what the worker needs and loads the model: nobody starts earlier. Files are in the page
  cache.
* A checkpoint, weights and state, fsynced: what the step after it waits longer than others, and the share of the time
  that this is at the default interval (once a minute, or as often as costs 2 %, whichever is rarer).
* What an estimate says of memory, against the peak that its job then had.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from atelier.trainer.v1 import training_pb2 as tr
from atelier_client.client import Atelier
from atelier_client.stack import OPENMP, Stack

import assets
from benchmarks.harness import Row, report, spread

ASSETS = Path(assets.__file__).parent
ROUNDS = 5
FIRST_STEP_SECONDS, CHECKPOINT_SHARE, MEMORY_OFF = 8.0, 0.02, 0.1  # to reach
LEAST_INTERVAL_SECONDS = 60.0
BARE = f"""
import accelerate, peft, torch
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained({str(ASSETS / "starter-model")!r}, torch_dtype=torch.float32)
"""
LORA: dict[str, Any] = {"max_steps": 12, "batch_size": 4, "seed": 7}
SAVING: dict[str, Any] = {"max_steps": 60, "batch_size": 4, "seed": 7, "checkpoints": {"interval_steps": 6}}


def run(client: Atelier, dataset: int, base: int, method: str, config: dict[str, Any]) -> list[tr.TrainingEvent]:
    """The events of a job that is trained to its end; its model is deleted."""
    job = client.training.create(dataset, base, method=method, config=config, start=True)
    events = list(client.training.watch(job.id))
    client.models.delete(client.training.get(job.id).model_id)
    return events


def seconds(event: tr.TrainingEvent) -> float:
    return event.created_at.ToNanoseconds() / 1e9


def to_first_step(events: list[tr.TrainingEvent]) -> float:
    """From the moment the worker was started to its first step's end."""
    starting = tr.LOADING_STAGE_STARTING_WORKER
    begun = next(each for each in events if each.HasField("loading") and each.loading.stage == starting)
    return seconds(next(each for each in events if each.HasField("step"))) - seconds(begun)


def checkpoint_seconds(events: list[tr.TrainingEvent]) -> float:
    """What a step that follows a checkpoint is later than one that follows a step."""
    told = [each for each in events if each.HasField("step") or each.HasField("checkpoint")]
    steps = [(place, each) for place, each in enumerate(told) if each.HasField("step")]
    saved = [seconds(two) - seconds(one) for (at, one), (then, two) in pairwise(steps) if then > at + 1]
    plain = [seconds(two) - seconds(one) for (at, one), (then, two) in pairwise(steps) if then == at + 1]
    return statistics.median(saved) - statistics.median(plain)


def bare() -> float:
    began = time.perf_counter()
    environment = {**OPENMP, **os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    figures: dict[str, list[float]] = {}

    def note(name: str, figure: float) -> None:
        figures.setdefault(name, []).append(figure)

    with (
        tempfile.TemporaryDirectory(prefix="atelier-training-job-") as folder,
        Stack(Path(folder)) as stack,
        stack.client() as client,
    ):
        models = client.models.seed().models
        base = next(model.id for model in models if model.WhichOneof("weights") == "stored")
        dataset = client.datasets.create("benchmark").id
        client.datasets.upload(dataset, ASSETS / "demo-images")
        run(client, dataset, base, "lora", LORA)  # does not count
        for _ in range(ROUNDS):
            note("first step", to_first_step(run(client, dataset, base, "lora", LORA)))
            note("bare", bare())
            for method in ("lora", "full"):
                events = run(client, dataset, base, method, SAVING)
                note(f"checkpoint, {method}", checkpoint_seconds(events))
                peak = max(each.step.peak_memory_bytes for each in events if each.HasField("step"))
                estimate = client.training.estimate(dataset, base, method=method, config=SAVING)
                note(f"memory, {method}", estimate.memory_bytes / peak)
    show(figures)


def show(figures: dict[str, list[float]]) -> None:
    median = {name: statistics.median(values) for name, values in figures.items()}
    rows = [
        Row(
            "worker's start to its first step",
            median["first step"],
            "s",
            spread(figures["first step"]),
            median["first step"] / median["bare"],
            "bare process",
            f"{FIRST_STEP_SECONDS:.0f} s",
            median["first step"] <= FIRST_STEP_SECONDS,
        ),
        Row("bare process: imports and the model", median["bare"], "s", spread(figures["bare"])),
    ]
    for method in ("lora", "full"):
        name = f"checkpoint, {method}"
        share = median[name] / max(LEAST_INTERVAL_SECONDS, median[name] / CHECKPOINT_SHARE)
        target = f"{CHECKPOINT_SHARE:g} of the time"
        rows.append(
            Row(name, median[name], "s", spread(figures[name]), share, "time", target, share <= CHECKPOINT_SHARE)
        )
    for method in ("lora", "full"):
        name = f"memory, {method}"
        off = abs(median[name] - 1)
        rows.append(
            Row(
                f"estimate of memory, {method}",
                median[name],
                "of the peak",
                spread(figures[name]),
                median[name],
                "peak",
                "0.9 to 1.1",
                off <= MEMORY_OFF,
            )
        )
    report("training_job", rows, figures=figures, extra={"lora": LORA, "saving": SAVING, "page_cache": "warm"})


if __name__ == "__main__":
    main()
