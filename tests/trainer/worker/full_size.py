"""One short job on a model of real size, in a process of its own so that its peak of memory is its own.

`python -m tests.trainer.worker.full_size PIPELINE FAMILY BLOBS METHOD OPTIMIZER HOW` prints a line of JSON.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy
import torch
from safetensors import safe_open

from services.common.blobs import BlobStore
from services.common.clips import encode_webp_animation
from services.diffusion.families import get_family
from services.trainer.domain import (
    LoraConfig,
    Method,
    Optimizer,
    Progress,
    Sample,
    SampleConfig,
    Trained,
    TrainingConfig,
    VideoConfig,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.data import Item
from services.trainer.worker.hardware import memory_gauge
from services.trainer.worker.job import run_job
from services.trainer.worker.prepare import Places
from services.trainer.worker.samples import to_png

SIDE, STEPS, FRAMES = 128, 2, 4


def main(arguments: list[str]) -> None:
    pipeline, family, store, method, optimizer, how = arguments
    draws_clips = get_family(family).draws_clips
    blobs = BlobStore(Path(store))
    config = TrainingConfig(
        learning_rate=1e-5,
        batch_size=1,
        max_steps=STEPS,
        resolution=SIDE,
        seed=7,
        optimizer=Optimizer(optimizer),
        gradient_checkpointing=how == "checkpointing",
        max_grad_norm=0.0 if how == "unclipped" else 1.0,
        lora=LoraConfig(rank=8) if method == "lora" else None,
        samples=SampleConfig(clips=1, steps=STEPS) if draws_clips else SampleConfig(("a cat",), steps=STEPS),
        video=VideoConfig(num_frames=FRAMES),
    )
    folder = Path(pipeline)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    bases = (BaseModel(1, folder.name, family, "", files),)
    places = Places(blobs, blobs.root / "scratch", blobs.root / "models", blobs.root / "hub", None)
    pixels = numpy.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=numpy.uint8)
    if draws_clips:
        item = Item(blobs.put(encode_webp_animation(pixels, 7)), "noise.webp", "", SIDE, SIDE, FRAMES, 7.0)
    else:
        item = Item(blobs.put(to_png(torch.from_numpy(pixels[0]))), "noise.png", "a cat", SIDE, SIDE)
    began = time.monotonic()
    reports = list(run_job(Assignment("1" * 36, Method(method), config, "ab" * 32, bases), [item], places))
    (trained,) = [report for report in reports if isinstance(report, Trained)]
    steps = [report for report in reports if isinstance(report, Progress)]
    (sample,) = [report for report in reports if isinstance(report, Sample)]
    answer = {
        "losses": [step.loss for step in steps],
        "sample": [sample.width, sample.height],
        "weights_bytes": sum(file.size_bytes for file in trained.files),
        "peak_bytes": memory_gauge("cpu")()[1],
        "parameters": _parameters(folder / get_family(family).denoiser),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(answer))  # noqa: T201  # what the test reads


def _parameters(folder: Path) -> int:
    """Of a part as it lies on disk, by the headers alone."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                count += math.prod(weights.get_slice(name).get_shape())
    return count


if __name__ == "__main__":
    main(sys.argv[1:])
