"""train_full: every weight of a UNet is trained, the building of the caches included.

The peer is the plain loop of `train_lora` with every weight learning: AdamW in 32 bits, VAE and text encoder in every
step, `.item()` in every step. Atelier trains with 8-bit AdamW and without clipping, so that each gradient is applied
and freed inside the backward pass; neither clips, though the peer, as diffusers' example, asks for the norm. Beside
them, Atelier with gradient checkpointing too, with AdamW in 32 bits, also inside the backward pass, and with Adafactor.

Each contender has a process of its own, and they take turns. All get the same pictures and the same draws, so their
losses are compared step by step. Memory is the process's peak less what it held before the model was loaded, the same
contender having trained a UNet of 32 channels for two steps: what libraries take by themselves is no model's. Time is
that of all steps and caches, loading left out.

Two sizes: the starter model, and with --sd15 Stable Diffusion 1.5's configuration with random weights at 128 pixels.

Usage: python -m benchmarks.train_full [--rounds 5] [--sd15]
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as a worker finds it where Atelier starts it

import torch
from diffusers import UNet2DConditionModel

from benchmarks.harness import Row, report, run_rounds, spread
from benchmarks.models import STARTER, make_sd15
from benchmarks.train_lora import Work, atelier, load, peer, read_items, same_chance
from services.common.blobs import BlobStore
from services.diffusion.device import without_bitsandbytes
from services.diffusion.load import Components
from services.trainer.domain import Method, Optimizer, Schedule, TrainingConfig
from services.trainer.worker.hardware import memory_gauge

MEMORY, TIME, LOSSES = 0.6, 1.15, 0.01  # to reach; and the most that losses may differ in the median
CONTENDERS = {
    "Atelier": ("atelier", Optimizer.ADAMW_8BIT, False),
    "peer": ("peer", Optimizer.ADAMW, False),
    "Atelier, checkpointing": ("atelier", Optimizer.ADAMW_8BIT, True),
    "Atelier, AdamW": ("atelier", Optimizer.ADAMW, False),
    "Atelier, Adafactor": ("atelier", Optimizer.ADAFACTOR, False),
}


@dataclass(frozen=True)
class Size:
    """What is trained."""

    images: int
    batch: int
    side: int
    steps: int


SIZES = {"train_full": Size(32, 4, 64, 40), "train_full_sd15": Size(4, 1, 128, 8)}


def contend(name: str, size: Size, model: Path, store: Path) -> None:
    """One contender's work, in this process: prints a line of JSON."""
    kind, optimizer, checkpointing = CONTENDERS[name]
    without_bitsandbytes()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    blobs = BlobStore(store)
    items = read_items(blobs, size.images)
    config = TrainingConfig(
        learning_rate=1e-5,
        batch_size=size.batch,
        max_steps=size.steps,
        resolution=size.side,
        seed=11,
        optimizer=optimizer,
        schedule=Schedule.CONSTANT,
        max_grad_norm=0.0,
        gradient_checkpointing=checkpointing,
    )

    def start(components: Components, config: TrainingConfig) -> Iterator[float]:
        work = Work(components, items, blobs, config, Method.FULL, is_shared=False)
        steps = peer(work, *same_chance(work)) if kind == "peer" else atelier(work)
        next(steps)
        return steps

    list(start(load(STARTER).with_parts(unet=make_smallest()), replace(config, max_steps=2)))
    give_back_memory()
    before = memory_gauge("cpu")()[0]
    steps = start(load(model), config)
    began = time.perf_counter()
    losses = list(steps)
    answer = {
        "seconds": time.perf_counter() - began,
        "bytes": memory_gauge("cpu")()[1] - before,
        "before": before,
        "losses": losses,
    }
    print(json.dumps(answer))


def make_smallest() -> UNet2DConditionModel:
    """Of the starter model's classes."""
    make: Any = UNet2DConditionModel
    unet: UNet2DConditionModel = make(
        sample_size=16,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=load(STARTER).denoiser.config.cross_attention_dim,
    )
    return unet


def give_back_memory() -> None:
    """What is free goes back to the system, where that can be asked for (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5's configuration, random weights")
    parser.add_argument("--contend", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    title = "train_full_sd15" if arguments.sd15 else "train_full"
    if arguments.contend:
        name, model, store = arguments.contend
        contend(name, SIZES[title], Path(model), Path(store))
        return
    memory: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_sd15(Path(folder) / "sd15") if arguments.sd15 else STARTER

        def measure(name: str) -> float:
            command = [sys.executable, "-m", "benchmarks.train_full", *(["--sd15"] if arguments.sd15 else [])]
            command += ["--contend", name, str(model), str(Path(folder) / "blobs")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            memory[name].append(found["bytes"])
            losses[name] = found["losses"]
            return float(found["seconds"])

        contenders = {name: lambda name=name: measure(name) for name in CONTENDERS}
        seconds = run_rounds(contenders, rounds=arguments.rounds, warmups=0)
    show(title, seconds, memory, losses)


def show(
    title: str, seconds: dict[str, list[float]], memory: dict[str, list[float]], losses: dict[str, list[float]]
) -> None:
    """Ratios of time are medians over the rounds of each round's own."""
    rows = []
    apart = {
        name: statistics.median(abs(one - two) / two for one, two in zip(told, losses["peer"], strict=True))
        for name, told in losses.items()
    }
    for name in CONTENDERS:
        peak, least = statistics.median(memory[name]), statistics.median(memory["peer"])
        slower = statistics.median(one / two for one, two in zip(seconds[name], seconds["peer"], strict=True))
        judged = name == "Atelier"
        rows += [
            Row(
                f"{name}: memory",
                peak / 1e6,
                "MB",
                spread(memory[name]) / 1e6,
                peak / least,
                "peer",
                f"{MEMORY}" if judged else "",
                peak / least <= MEMORY if judged else None,
            ),
            Row(
                f"{name}: time",
                statistics.median(seconds[name]),
                "s",
                spread(seconds[name]),
                slower,
                "peer",
                f"{TIME}" if judged else "",
                slower <= TIME if judged else None,
            ),
            Row(
                f"{name}: losses apart",
                apart[name],
                "of them",
                target=f"{LOSSES}" if judged else "",
                reached=apart[name] <= LOSSES if judged else None,
            ),
        ]
    report(title, rows, figures=seconds, extra={"bytes": memory, "losses": losses, "steps": SIZES[title].steps})


if __name__ == "__main__":
    main()
