"""Random requests of all kinds against a real Generator in its own process, for minutes, on a small memory budget.

Several people at once ask for pictures from noise and from a picture, with none, one or three of many LoRAs, on two
base models that do not fit into memory together, and for grids; some cancel, some leave. Then it is checked that

- every request was answered exactly once: all its pictures and one end, or CANCELLED where somebody cancelled or left;
- pictures are right: of a share of them, the same is drawn `deterministic` by itself and compared; requests that are
  deterministic anyway give the same bytes each time;
- nobody starved: no answer took longer than --patience;
- the Generator lists what was asked and nothing else, and nothing is left waiting;
- the models in memory were within the budget whenever looked at, and the process's memory stayed flat after its first
  third.

Prints a summary; the exit status is 1 where something was violated.

Usage: python -m tests.soak [--minutes 10] [--requests N] [--loras 100] [--clients 10] [--seed 0] [--patience 60]
"""

import argparse
import io
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import psutil
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from PIL import Image

from benchmarks.harness import percentile
from benchmarks.house import House, open_house
from services.common.principal import PRINCIPAL_KEY
from tests.tiny import make_tiny_lora, make_tiny_pipeline

KINDS = {"noise": 5, "one LoRA": 6, "three LoRAs": 3, "picture": 3, "grid": 1, "known": 2, "cancel": 2, "leave": 2}
PRINCIPALS = 4
KNOWN = 8  # requests that are deterministic and come again and again
REDRAWN = 0.08
"""Share of the finished requests that is drawn again."""
APART = 4
"""Levels (of 255) by which pixels may differ that were drawn in company."""
STRENGTH = 0.5
"""Of the LoRAs, where 1 adds all of B A."""
GROWTH = 0.10
"""Of the process's memory, what it may grow after its first third."""
LOOK_SECONDS, TELL_SECONDS = 1.0, 30.0


@dataclass
class Tally:
    """What was seen, and what was wrong."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    wrong: list[str] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)
    """Generations' ids, and the status that each ought to have."""
    kinds: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    compared: int = 0
    apart: int = 0
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    models: list[int] = field(default_factory=list)
    loras: set[int] = field(default_factory=set)
    digests: dict[int, str] = field(default_factory=dict)

    def violation(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)


class Client:
    """Somebody who asks, again and again."""

    def __init__(self, number: int, soak: "Soak") -> None:
        self._soak = soak
        self._tally = soak.tally
        self._stub = soak.house.generator
        self._rng = random.Random(f"{soak.seed}/{number}")
        self._metadata = ((PRINCIPAL_KEY, f"person {number % PRINCIPALS}"),)

    def run(self) -> None:
        while self._soak.more():
            kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
            try:
                self._ask(kind)
            except Exception as error:
                self._tally.violation(f"{kind}: {type(error).__name__}: {error}")

    def _ask(self, kind: str) -> None:
        known = self._rng.randrange(KNOWN)
        settings = self._soak.known[known] if kind == "known" else self._settings(kind)
        request = rpc.GenerateRequest(request_id=str(uuid.uuid4()), settings=settings)
        if self._rng.random() < 0.2:
            request.preview_interval = 2
        began = time.monotonic()
        stream = self._stub.Generate(request, metadata=self._metadata, timeout=self._soak.give_up)
        stops = kind in ("cancel", "leave")
        stop_at = self._rng.randrange(1, 6)
        id, ends, images = "", 0, dict[int, bytes]()
        try:
            for place, event in enumerate(stream, start=1):
                id = event.generation_id or id
                if event.HasField("image"):
                    if event.image.image.index in images:
                        self._tally.violation(f"{kind}: picture {event.image.image.index} came twice")
                    images[event.image.image.index] = event.image.data
                ends += event.HasField("done")
                if stops and place == stop_at and not ends:
                    if kind == "leave":
                        stream.cancel()
                    else:
                        self._cancel(id)
        except grpc.RpcError as error:
            if not stops or error.code() != grpc.StatusCode.CANCELLED:
                raise
            self._note(kind, id, "LEFT" if kind == "leave" else "CANCELLED")
            return
        seconds = time.monotonic() - began
        # A grid of two by two has its sheet behind it.
        count = 5 if settings.HasField("grid") else settings.count or 1
        if ends != 1 or sorted(images) != list(range(count)):
            self._tally.violation(f"{kind}: {ends} ends and the pictures {sorted(images)} of {count}")
        self._note(kind, id, "COMPLETED", pictures=len(images), seconds=seconds)
        if kind == "known":
            self._compare_digest(known, images[0])
        elif not settings.HasField("grid") and self._rng.random() < REDRAWN:
            self._compare(kind, settings, images)

    def _cancel(self, id: str) -> None:
        try:
            self._stub.CancelGeneration(rpc.CancelGenerationRequest(generation_id=id), metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:  # it had ended
                raise

    def _note(self, kind: str, id: str, status: str, *, pictures: int = 0, seconds: float | None = None) -> None:
        with self._tally.lock:
            self._tally.kinds[f"{kind}, {status.lower()}"] += 1
            self._tally.pictures += pictures
            if seconds is not None:
                self._tally.seconds.append(seconds)
            if id in self._tally.asked:
                self._tally.wrong.append(f"generation {id} was given to two requests")
            if id:
                self._tally.asked[id] = status

    def _settings(self, kind: str) -> pb.GenerationSettings:
        rng, soak = self._rng, self._soak
        settings = pb.GenerationSettings(
            model_id=soak.bases[0] if rng.random() < 0.85 else soak.bases[1],
            prompt=rng.choice(("a cat", "a red apple", "the blue cup", "")),
            steps=rng.choice((2, 3, 5, 9, 14)),
            guidance_scale=rng.choice((1.0, 3.0, 7.0)),
            seed=rng.randrange(2**31),
        )
        if rng.random() < 0.2:
            settings.count = rng.randrange(2, 4)
        num = {"one LoRA": 1, "three LoRAs": 3, "cancel": 1}.get(kind, 0)
        if num:
            settings.model_id = soak.bases[0]
            for id in rng.sample(soak.loras, num):
                settings.loras.add(model_id=id, weight=rng.choice((-0.5, 0.4, 1.0)))
                with self._tally.lock:
                    self._tally.loras.add(id)
        if kind == "picture":
            settings.image_to_image.image.data = soak.picture
            settings.image_to_image.strength = rng.choice((0.4, 0.8, 1.0))
        if kind == "grid":
            settings.ClearField("count")
            settings.ClearField("seed")
            settings.grid.prompts.extend(("a cat", "a cup"))
            settings.grid.seeds.extend(rng.sample(range(1000), 2))
        return settings

    def _compare(self, kind: str, settings: pb.GenerationSettings, images: dict[int, bytes]) -> None:
        again = pb.GenerationSettings()
        again.CopyFrom(settings)
        again.deterministic = True
        answer = self._stub.GenerateImages(
            rpc.GenerateImagesRequest(settings=again), metadata=self._metadata, timeout=self._soak.give_up
        )
        self._note("drawn again", answer.generation.id, "COMPLETED", pictures=len(answer.images))
        for place, picture in enumerate(answer.images):
            apart = int(np.abs(pixels(picture.data) - pixels(images[place])).max())
            with self._tally.lock:
                self._tally.compared += 1
                self._tally.apart = max(self._tally.apart, apart)
            if apart > APART:
                self._tally.violation(f"{kind}: pixels differ by {apart} from {settings}")

    def _compare_digest(self, known: int, data: bytes) -> None:
        # What a PNG says beside its pixels (ids, times) is not compared.
        digest = str(hash(pixels(data).tobytes()))
        with self._tally.lock:
            first = self._tally.digests.setdefault(known, digest)
            self._tally.compared += 1
        if first != digest:
            self._tally.violation(f"known request {known} was drawn differently")


class Soak:
    """One run."""

    def __init__(self, house: House, root: Path, options: argparse.Namespace) -> None:
        self.house = house
        self.seed = options.seed
        self.give_up = 3 * options.patience
        self.tally = Tally()
        pipelines = [make_tiny_pipeline(root / f"tiny{seed}", seed=seed) for seed in (0, 1)]
        self.bases = [house.register(folder) for folder in pipelines]
        self.loras = []
        for number in range(options.loras):
            folder = root / f"lora{number}"
            rank = (2, 4, 8, 16)[number % 4]
            # Three stronger ones make so small a model chaotic: what rounding changes then shows.
            make_tiny_lora(folder, pipelines[0], rank=rank, alpha=STRENGTH * rank, seed=number)
            self.loras.append(house.register(folder, base=self.bases[0]))
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        self.picture = buffer.getvalue()
        rng = random.Random(options.seed)
        self.known = [
            pb.GenerationSettings(
                model_id=self.bases[0],
                prompt="a cup",
                steps=rng.randrange(2, 9),
                seed=number,
                loras=[pb.LoraWeight(model_id=self.loras[number % len(self.loras)], weight=0.7)] if number % 2 else [],
                deterministic=True,
            )
            for number in range(KNOWN)
        ]
        self._minutes = options.minutes
        self._left = options.requests
        self._lock = threading.Lock()
        self.began = time.monotonic()

    def more(self) -> bool:
        """Whether another request is to be made."""
        with self._lock:
            if self._left is not None:
                self._left -= 1
                return bool(self._left >= 0)
        return time.monotonic() - self.began < self._minutes * 60

    def run(self, clients: int) -> None:
        self.began = time.monotonic()
        threads = [threading.Thread(target=Client(number, self).run) for number in range(clients)]
        for thread in threads:
            thread.start()
        told = self.began
        process = psutil.Process(self.house.generator_pid)
        while any(thread.is_alive() for thread in threads):
            self.tally.memory.append((time.monotonic() - self.began, process.memory_info().rss))
            loaded = self.house.generator.ListLoadedModels(rpc.ListLoadedModelsRequest()).models
            self.tally.models.append(sum(each.memory_bytes for each in loaded))
            if time.monotonic() > told + TELL_SECONDS:
                told = time.monotonic()
                print(f"{told - self.began:.0f} s: {sum(self.tally.kinds.values())} requests", flush=True)
            time.sleep(LOOK_SECONDS)
        for thread in threads:
            thread.join()

    def check_list(self) -> None:
        """The Generator's own list against what was asked."""
        listed: dict[str, str] = {}
        token = ""
        for _ in range(10_000):
            answer = self.house.generator.ListGenerations(rpc.ListGenerationsRequest(page_size=1000, page_token=token))
            listed |= {
                each.id: pb.GenerationStatus.Name(each.status).removeprefix("GENERATION_STATUS_")
                for each in answer.generations
            }
            token = answer.next_page_token
            if not token:
                break
        for id, status in self.tally.asked.items():
            # Who leaves at the last moment has left a whole generation.
            if listed.get(id) not in (("CANCELLED", "COMPLETED") if status == "LEFT" else (status,)):
                self.tally.violation(f"generation {id} is {listed.get(id, 'not listed')} instead of {status}")
        for id in listed.keys() - self.tally.asked.keys():
            # Who left before the first event does not know it.
            if listed[id] not in ("CANCELLED", "COMPLETED"):
                self.tally.violation(f"generation {id}, which nobody knows, is {listed[id]}")


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def growth(memory: list[tuple[float, int]]) -> float:
    """Of the process's memory, from the end of the first third on: the fitted line's rise by its median."""
    late = [each for each in memory if each[0] > memory[-1][0] / 3]
    if len(late) < 10:
        return 0.0
    times, sizes = np.array([each[0] for each in late]), np.array([each[1] for each in late], dtype=float)
    slope = float(np.polyfit(times, sizes, 1)[0])
    return slope * float(times[-1] - times[0]) / float(np.median(sizes))


def settled(holds: Callable[[], bool]) -> bool:
    for _ in range(300):
        if holds():
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests", type=int, help="as many instead of minutes")
    parser.add_argument("--loras", type=int, default=100)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that an answer may take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atelier-soak-") as folder:
        root = Path(folder)
        size = sum(path.stat().st_size for path in make_tiny_pipeline(root / "measured").rglob("*.safetensors"))
        budget = int(1.6 * size)
        with open_house(root / "data", generator={"MEMORY_BYTES": str(budget)}) as house:
            soak = Soak(house, root, options)
            soak.run(options.clients)
            idle = settled(
                lambda: (
                    not any(
                        each.num_drawing
                        for each in house.generator.ListLoadedModels(rpc.ListLoadedModelsRequest()).models
                    )
                )
            )
            soak.check_list()
    tally = soak.tally
    if not idle:
        tally.violation("something is still being drawn")
    if max(tally.models) > budget:
        tally.violation(f"models took {max(tally.models)} bytes of {budget}")
    if (grown := growth(tally.memory)) > GROWTH:
        tally.violation(f"the process grew by {grown:.1%} after its first third")
    if not tally.seconds or max(tally.seconds) > options.patience:
        tally.violation(f"an answer took {max(tally.seconds, default=0):.1f} s")
    tell(tally, budget, grown)
    return 1 if tally.wrong else 0


def tell(tally: Tally, budget: int, grown: float) -> None:
    sizes = [size for _, size in tally.memory]
    print(f"{sum(tally.kinds.values())} requests in {tally.memory[-1][0]:.0f} s, {tally.pictures} pictures:")
    for kind, count in sorted(tally.kinds.items()):
        print(f"  {count:6} {kind}")
    waits = {"median": median(tally.seconds), "p99": percentile(tally.seconds, 0.99), "longest": max(tally.seconds)}
    print("answers: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in waits.items()))
    print(f"compared: {tally.compared} pictures, {tally.apart} levels apart at most")
    print(f"LoRAs asked for: {len(tally.loras)}")
    print(f"models in memory: {max(tally.models) >> 10} KiB at most, of {budget >> 10}")
    print(f"process: {sizes[0] >> 20} MiB at first, {median(sizes) / 2**20:.0f} median, {max(sizes) >> 20} at most,")
    print(f"  {grown:+.1%} after its first third")
    for text in tally.wrong[:50]:
        print(f"VIOLATED: {text}")
    print("violated" if tally.wrong else "all held")


if __name__ == "__main__":
    sys.exit(main())
