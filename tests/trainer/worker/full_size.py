"""One short job on a model of real size, in a process of its own so that its peak of memory is its own.

`python -m tests.trainer.worker.full_size PIPELINE BLOBS METHOD OPTIMIZER HOW` prints a line of JSON.
"""

import io
import json
import sys
import time
from pathlib import Path

import numpy
from PIL import Image

from services.common.blobs import BlobStore
from services.trainer.domain import (
    LoraConfig,
    Method,
    Optimizer,
    Progress,
    Sample,
    SampleConfig,
    Trained,
    TrainingConfig,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.data import Item
from services.trainer.worker.hardware import memory_gauge
from services.trainer.worker.job import run_job
from services.trainer.worker.prepare import Places

SIDE, STEPS = 128, 2


def main(arguments: list[str]) -> None:
    pipeline, store, method, optimizer, how = arguments
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
        samples=SampleConfig(("a cat",), steps=STEPS),
    )
    folder = Path(pipeline)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    bases = (BaseModel(1, folder.name, "stable_diffusion", "", files),)
    places = Places(blobs, blobs.root / "scratch", blobs.root / "models", blobs.root / "hub", None)
    data = io.BytesIO()
    pixels = numpy.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    item = Item(blobs.put(data.getvalue()), "noise.png", "a cat", SIDE, SIDE)
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
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(answer))  # noqa: T201  # what the test reads


if __name__ == "__main__":
    main(sys.argv[1:])
