"""prepare_snapshot: a snapshot's pictures and captions become latents and embeddings, on the starter model.

Of every ten pictures nine are PNGs of 64 pixels and one is a JPEG of 512, each with a caption of its own; all are
trained at 64 pixels. Beside the whole: reading the files' bytes and nothing else, and decoding, scaling and cropping
them with as many threads as the worker decodes with. Each contender does 1,000 pictures in turn, in a process of its
own; then the whole is done once with --images of them, for its memory: what the process has of its own (anonymous
memory; what is mapped from a file is the system's to drop) at its peak, against 1,000.

Usage: python -m benchmarks.prepare_snapshot [--rounds 5] [--images 10000]
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as a worker finds it where Atelier starts it

import numpy
import torch
from PIL import Image

from benchmarks.harness import Row, report, run_rounds, spread
from benchmarks.models import STARTER
from benchmarks.train_lora import load
from services.common.blobs import BlobStore
from services.trainer.domain import Method, TrainingConfig
from services.trainer.worker.data import DECODERS, Item, crop, decode_item
from services.trainer.worker.prepare import make_training_set

SIDE, LARGE, FEW = 64, 512, 1000
CONTENDERS = ("Atelier", "decoding alone", "reading alone")


def make_items(blobs: BlobStore, count: int) -> None:
    """The pictures, smooth as photographs are, and their manifest beside the blobs."""
    lines = []
    for place in range(count):
        large = place % 10 == 0
        side = LARGE if large else SIDE
        coarse = numpy.random.default_rng(place).integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
        data = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(data, "JPEG" if large else "PNG")
        lines.append([blobs.put(data.getvalue()), f"{place}.{'jpg' if large else 'png'}", f"picture {place}", side])
    (blobs.root / "manifest.json").write_text(json.dumps(lines))


def read_items(blobs: BlobStore, count: int) -> list[Item]:
    lines = json.loads((blobs.root / "manifest.json").read_text())[:count]
    return [Item(sha256, name, caption, side, side) for sha256, name, caption, side in lines]


def own_bytes() -> int:
    """Anonymous memory of this process, or where the system does not tell it apart, 0."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


@contextmanager
def watched(peak: list[int]) -> Iterator[None]:
    """Notes the most own memory, asked for fifty times a second."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], own_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def prepare(items: list[Item], blobs: BlobStore, scratch: Path) -> tuple[float, int]:
    """The worker's own way: seconds, and the bytes that it took at its peak."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    components = load(STARTER)
    config = TrainingConfig(resolution=SIDE, seed=11)
    captions = [item.caption for item in items]
    before = own_bytes()
    peak = [before]
    began = time.perf_counter()
    with watched(peak):
        for _ in make_training_set(
            components, Method.LORA, config, items, captions, blobs, "cpu", "no", scratch=scratch
        ):
            pass
        seconds = time.perf_counter() - began
    return seconds, peak[0] - before


def decode(items: list[Item], blobs: BlobStore) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(DECODERS) as threads:
        for _ in threads.map(lambda item: crop(decode_item(item, blobs)[0], SIDE, SIDE), items):
            pass
    return time.perf_counter() - began


def read(items: list[Item], blobs: BlobStore) -> float:
    began = time.perf_counter()
    for item in items:
        blobs.get(item.sha256)
    return time.perf_counter() - began


def contend(name: str, folder: Path, count: int) -> None:
    """One contender's work, in this process: prints a line of JSON."""
    blobs = BlobStore(folder / "blobs")
    items = read_items(blobs, count)
    seconds, peak = 0.0, 0
    match name:
        case "Atelier":
            seconds, peak = prepare(items, blobs, folder / "scratch")
        case "decoding alone":
            seconds = decode(items, blobs)
        case _:
            seconds = read(items, blobs)
    print(json.dumps({"seconds": seconds, "bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--contend", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        name, place, count = arguments.contend
        contend(name, Path(place), int(count))
        return
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        make_items(BlobStore(Path(folder) / "blobs"), arguments.images)

        def measure(name: str, count: int = FEW) -> float:
            command = [sys.executable, "-m", "benchmarks.prepare_snapshot", "--contend", name, folder, str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if name == "Atelier":
                memory.append(found["bytes"])
            return count / float(found["seconds"])

        contenders = {name: lambda name=name: measure(name) for name in CONTENDERS}
        rates = run_rounds(contenders, rounds=arguments.rounds, warmups=0)
        few = statistics.median(memory)
        rate = measure("Atelier", arguments.images)
    show(rates, few, memory[-1], rate, arguments.images)


def show(rates: dict[str, list[float]], few: float, many: float, rate: float, count: int) -> None:
    """Ratios of rates are medians over the rounds of each round's own."""
    rows = []
    for name in CONTENDERS:
        against = "" if name == "Atelier" else name
        share = statistics.median(one / two for one, two in zip(rates["Atelier"], rates[name], strict=True))
        ratio = share if against else None
        note = f"{against}: Atelier's share" if against else ""
        rows.append(Row(name, statistics.median(rates[name]), "images/s", spread(rates[name]), ratio, note))
    slower = rate / statistics.median(rates["Atelier"])
    rows.append(Row(f"Atelier, {count:,} pictures", rate, "images/s", ratio=slower, against=f"{FEW:,} pictures"))
    rows.append(Row(f"memory for {FEW:,} pictures", few / 1e6, "MB"))
    growth = many / few if few else 0.0
    rows.append(Row(f"memory for {count:,} pictures", many / 1e6, "MB", ratio=growth, against=f"{FEW:,} pictures"))
    report("prepare_snapshot", rows, figures=rates, extra={"images": count, "decoders": DECODERS})


if __name__ == "__main__":
    main()
