"""cold_start: from `atelier up` on an empty data folder to all services healthy, and to the first picture.

Beside it, what nothing can be quicker than here: one bare process that imports diffusers, loads the starter model and
draws the same picture. Files are in the page cache in all rounds (nothing here may drop it): a first start after boot
is slower by the time the disk needs.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from atelier_client.addresses import read_addresses
from atelier_client.client import Atelier
from atelier_client.stack import OPENMP

import assets
from benchmarks.harness import Row, report, run_rounds, spread

STARTER = Path(assets.__file__).parent / "starter-model"
PROMPT, SEED, STEPS = "red apple", 0, 25
HEALTHY_SECONDS, PICTURE_SECONDS = 15.0, 20.0  # to reach
GIVE_UP_SECONDS = 120.0
BARE = f"""
import torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(STARTER)!r}, torch_dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
pipeline({PROMPT!r}, num_inference_steps={STEPS}, generator=torch.Generator().manual_seed({SEED})).images[0]
"""


@contextlib.contextmanager
def running(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`atelier up` on free ports, stopped on leaving."""
    command = [sys.executable, "-m", "atelier_client.cli", "--data", str(data), "up", "--free-ports"]
    with (data / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def cold_start() -> tuple[float, float]:
    """(seconds to healthy, seconds to the first picture), on a data folder of its own."""
    with tempfile.TemporaryDirectory(prefix="atelier-cold-start-") as folder:
        data = Path(folder)
        began = time.perf_counter()
        with running(data) as process:
            # `up` writes the addresses once the health service of each says SERVING.
            while not (found := read_addresses(data)):
                if process.poll() is not None or time.perf_counter() - began > GIVE_UP_SECONDS:
                    raise RuntimeError(f"`atelier up` did not come up:\n{(data / 'up.log').read_text()}")
                time.sleep(0.005)
            healthy = time.perf_counter() - began
            with Atelier(**found) as client:
                models = client.models.seed().models  # idempotent: `up` does the same at this moment
                starter = next(model for model in models if model.WhichOneof("weights") == "stored")
                client.generate(PROMPT, model=starter, seed=SEED, steps=STEPS)
            return healthy, time.perf_counter() - began


def bare() -> float:
    """Seconds of a process that does nothing but draw the picture with diffusers."""
    began = time.perf_counter()
    environment = {**OPENMP, **os.environ, "HF_HUB_OFFLINE": "1"}  # as `up` starts its services
    subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    healthy: list[float] = []

    def picture() -> float:
        first, second = cold_start()
        healthy.append(first)
        return second

    figures = run_rounds({"first picture": picture, "bare process": bare}, rounds=5, warmups=1)
    figures["healthy"] = healthy[1:]  # without the round that does not count
    to_healthy, to_picture, alone = (
        sorted(figures[name])[len(figures[name]) // 2] for name in ("healthy", "first picture", "bare process")
    )
    report(
        "cold_start",
        [
            Row(
                "healthy",
                to_healthy,
                "s",
                spread(figures["healthy"]),
                target=f"{HEALTHY_SECONDS:.0f} s",
                reached=to_healthy <= HEALTHY_SECONDS,
            ),
            Row(
                "first picture",
                to_picture,
                "s",
                spread(figures["first picture"]),
                ratio=to_picture / alone,
                against="bare process",
                target=f"{PICTURE_SECONDS:.0f} s",
                reached=to_picture <= PICTURE_SECONDS,
            ),
            Row("bare process", alone, "s", spread(figures["bare process"])),
        ],
        figures=figures,
        extra={"prompt": PROMPT, "seed": SEED, "steps": STEPS, "page_cache": "warm"},
    )


if __name__ == "__main__":
    main()
