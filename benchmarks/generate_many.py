"""generate_many: requests of many people at once, at loads from half of what one pipeline can do to half more.

Each request has its own prompt, seed, number of steps, guidance (or none) and LoRA (or none), out of four on one base.
The same requests arrive at the same moments, drawn from a Poisson process, at each of:
- Atelier: `Generate` over loopback to a Generator in its own process, as generate_one describes it. The time of a
  request ends with the stream, so with the picture kept and its PNG received.
- serial: diffusers' pipeline in a process of its own, one request after the other, `set_adapters` between them. Its
  picture comes through a pipe, as pixels: no PNG, nothing kept, nobody told.
- batches: the same process, gathering for 50 ms from the first one that waits, then drawing all that are there with
  equal steps, guidance and LoRA in one call, eight at most.
The load is in rates of what serial does in this run with the same requests.

The limit: B pictures of which each wants s steps take s x t(B), t(B) being the time of a plain UNet pass of their rows
(two where guidance is on). With everybody there at once, Atelier's steps a second, for as long as enough are under way
to fill passes, are held against B / t(B).

Admission counts the passes that end between a request's arrival and its first own one: 1 is who waits for the pass that
is under way and no other. Those of the load nearest to 0.8 are told.

Then two figures alone: a request of 4 steps that comes when eight of 50 are being drawn, and what previews cost.

Usage: python -m benchmarks.generate_many [--rounds 5] [--requests 30] [--loads 0.5 0.8 1.0 1.5]
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import queue
import random
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch reads it
os.environ["HF_HUB_OFFLINE"] = "1"

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from PIL import Image

from benchmarks.harness import OUT, Row, percentile, report, run_rounds, spread, timed
from benchmarks.house import House, open_house
from benchmarks.models import STARTER, make_lora

BATCH = 8
GATHER_SECONDS = 0.05
STEPS, GUIDANCES = (4, 8, 12, 20), (1.0, 4.0, 7.5)
RANKS = (4, 8, 16, 32)
PROMPTS = ("red apple", "a blue cup", "green leaf", "a yellow star", "a lamp", "two keys")
LONG_STEPS, SHORT_STEPS, LONG_ONES = 50, 4, 8
PREVIEW_STEPS, PREVIEW_INTERVAL = 20, 5
SAME_PASS_SECONDS = 0.008
"""Events of one pass arrive together; passes last longer than this."""
OF_LIMIT, OF_BATCHES, WAITED, ALONE_TIMES, PREVIEWS = 0.9, 0.5, 1, 3.0, 1.05  # to reach


@dataclass(frozen=True)
class Wanted:
    """A request."""

    number: int
    steps: int
    guidance: float
    lora: int | None
    weight: float

    @property
    def prompt(self) -> str:
        return PROMPTS[self.number % len(PROMPTS)]

    @property
    def rows(self) -> int:
        return 2 if self.guidance > 1 else 1


@dataclass
class Seen:
    """What came of one, in seconds of the monotonic clock."""

    arrived: float
    ended: float = 0.0
    steps: list[float] = field(default_factory=list)
    picture: Any = None

    @property
    def seconds(self) -> float:
        return self.ended - self.arrived


Draw = Callable[[Wanted], Seen]


def wanted(count: int) -> list[Wanted]:
    rng = random.Random(7)
    return [
        Wanted(
            number,
            rng.choice(STEPS),
            rng.choice(GUIDANCES),
            rng.choice((None, *range(len(RANKS)))),
            rng.choice((0.6, 0.8, 1.0)),
        )
        for number in range(count)
    ]


def arrivals(count: int, rate: float, turn: int) -> list[float]:
    """Seconds from the start, of a Poisson process; the same but for its scale whatever the rate."""
    rng, at, times = random.Random(11 + turn), 0.0, []
    for _ in range(count):
        times.append(at)
        at += rng.expovariate(1.0) / rate
    return times


# The peers, in their own process.


def peer(connection: Any, loras: Sequence[Path]) -> None:
    """Draws what comes through the pipe, until it is closed: ("serial" or "batches", a request)."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(STARTER, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    for number, path in enumerate(loras):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"lora{number}")
    waiting: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                waiting.put((*connection.recv(), time.monotonic()))
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    kept: list[Any] = []  # what came while others were gathered
    connection.send("ready")
    while (first := kept.pop(0) if kept else waiting.get()) is not None:
        how, request, came = first
        if how == "limit":
            connection.send(_seconds_of_passes(pipeline.unet, request))
            continue
        together = [request]
        if how == "batches":
            time.sleep(max(0.0, came + GATHER_SECONDS - time.monotonic()))
            while not waiting.empty():
                kept.append(waiting.get())
            alike = [each for each in kept if each is not None and _key(each[1]) == _key(request)][: BATCH - 1]
            kept = [each for each in kept if not any(each is other for other in alike)]
            together += [each[1] for each in alike]
        pictures = _draw(pipeline, together)
        for each, picture in zip(together, pictures, strict=True):
            connection.send((each.number, picture, time.monotonic()))


def _key(request: Wanted) -> object:
    return request.steps, request.guidance, request.lora, request.weight if request.lora is not None else None


def _draw(pipeline: Any, together: Sequence[Wanted]) -> Any:
    import torch

    first = together[0]
    if first.lora is None:
        pipeline.disable_lora()
    else:
        pipeline.enable_lora()
        pipeline.set_adapters(f"lora{first.lora}", first.weight)
    return pipeline(
        [each.prompt for each in together],
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        generator=[torch.Generator("cpu").manual_seed(each.number) for each in together],
        output_type="np",
    ).images


def _seconds_of_passes(unet: Any, rows: int) -> list[float]:
    """Of plain passes of so many rows."""
    import torch

    unet.disable_lora()
    config = unet.config
    latents = torch.randn(rows, config.in_channels, config.sample_size, config.sample_size)
    words = torch.randn(rows, 16, config.cross_attention_dim)
    times = torch.arange(1, rows + 1) * 10

    def one() -> None:
        with torch.no_grad():
            unet(latents, times, words)

    seconds = [timed(one)() for _ in range(13)]
    unet.enable_lora()
    return seconds[2:]


class Peer:
    """The other end of the pipe."""

    def __init__(self, loras: Sequence[Path]) -> None:
        context = multiprocessing.get_context("spawn")
        self._mine, theirs = context.Pipe()
        self._process = context.Process(target=peer, args=(theirs, list(loras)), daemon=True)
        self._process.start()
        theirs.close()
        self._mine.recv()
        self._lock = threading.Lock()

    def limit(self, rows: int) -> list[float]:
        self._mine.send(("limit", rows))
        seconds: list[float] = self._mine.recv()
        return seconds

    def run(self, how: str, requests: Sequence[Wanted], times: Sequence[float]) -> list[Seen]:
        seen: dict[int, Seen] = {}

        def read() -> None:
            for _ in requests:
                number, picture, _ = self._mine.recv()
                seen[number].picture, seen[number].ended = picture, time.monotonic()

        reader = threading.Thread(target=read)
        began = time.monotonic()
        for request, at in zip(requests, times, strict=True):
            time.sleep(max(0.0, began + at - time.monotonic()))
            seen[request.number] = Seen(time.monotonic())
            self._mine.send((how, request))
            if reader.ident is None:
                reader.start()
        reader.join()
        return [seen[request.number] for request in requests]

    def close(self) -> None:
        self._mine.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()


# Atelier.


class Atelier:
    """A client of the Generator: a thread for each request under way."""

    def __init__(self, house: House, base: int, loras: Sequence[int]) -> None:
        self._house = house
        self._base = base
        self._loras = loras

    def settings(self, request: Wanted) -> pb.GenerationSettings:
        loras = (
            [] if request.lora is None else [pb.LoraWeight(model_id=self._loras[request.lora], weight=request.weight)]
        )
        return pb.GenerationSettings(
            model_id=self._base,
            prompt=request.prompt,
            steps=request.steps,
            guidance_scale=request.guidance,
            seed=request.number,
            loras=loras,
        )

    def draw(self, request: Wanted, seen: Seen, *, preview_interval: int | None = None) -> None:
        stream = self._house.generator.Generate(
            rpc.GenerateRequest(settings=self.settings(request), preview_interval=preview_interval)
        )
        for event in stream:
            what = event.WhichOneof("event")
            if what == "step":
                seen.steps.append(time.monotonic())
            elif what == "image":
                seen.picture = event.image.data
        seen.ended = time.monotonic()

    def run(self, requests: Sequence[Wanted], times: Sequence[float]) -> list[Seen]:
        seen, threads = [], []
        began = time.monotonic()
        for request, at in zip(requests, times, strict=True):
            time.sleep(max(0.0, began + at - time.monotonic()))
            one = Seen(time.monotonic())
            thread = threading.Thread(target=self.draw, args=(request, one))
            thread.start()
            seen.append(one)
            threads.append(thread)
        for thread in threads:
            thread.join()
        if any(not each.ended for each in seen):
            raise RuntimeError("a request was not answered")
        return seen

    @contextlib.contextmanager
    def long_ones(self) -> Iterator[Callable[[], int]]:
        """Eight requests of 50 steps, each at work; gives how many have ended. They are left at the end."""
        requests = [Wanted(1000 + number, LONG_STEPS, GUIDANCES[-1], None, 1.0) for number in range(LONG_ONES)]
        streams = [
            self._house.generator.Generate(rpc.GenerateRequest(settings=self.settings(each))) for each in requests
        ]
        started, ended = threading.Semaphore(0), threading.Semaphore(0)
        ends: list[int] = []

        def read(stream: Any) -> None:
            seen_step = False
            with contextlib.suppress(Exception):  # cancelled below
                for event in stream:
                    if event.HasField("step") and not seen_step:
                        seen_step = True
                        started.release()
                ends.append(1)
            ended.release()

        for stream in streams:
            threading.Thread(target=read, args=(stream,), daemon=True).start()
        for _ in streams:
            if not started.acquire(timeout=120):
                raise RuntimeError("long requests did not start")
        try:
            yield lambda: len(ends)
        finally:
            for stream in streams:
                stream.cancel()
            for _ in streams:
                ended.acquire(timeout=120)


# What is measured.


def check(atelier: Atelier, peer: Peer, requests: Sequence[Wanted]) -> int:
    """The largest difference of pixels (0 to 255) between the three, drawn together and apart."""
    import numpy as np

    at_once = [0.0] * len(requests)
    mine = [np.asarray(Image.open(io.BytesIO(each.picture))).astype(int) for each in atelier.run(requests, at_once)]
    apart = 0
    for how in ("serial", "batches"):
        theirs = [(each.picture * 255).round().astype(int) for each in peer.run(how, requests, at_once)]
        apart = max(apart, *(int(np.abs(one - other).max()) for one, other in zip(mine, theirs, strict=True)))
    if apart > 2:
        raise RuntimeError(f"pictures differ by {apart}")
    return apart


def rate(seen: Sequence[Seen]) -> float:
    """Pictures a second, of requests that were there together."""
    return len(seen) / (max(each.ended for each in seen) - min(each.arrived for each in seen))


def steps_a_second(seen: Sequence[Seen]) -> float:
    """From the first step for as long as a pass can be full."""
    every = sorted(step for each in seen for step in each.steps)
    stop = sorted(each.steps[-1] for each in seen)[-BATCH]
    return bisect_right(every, stop) / (stop - every[0])


def admissions(seen: Sequence[Seen]) -> list[int]:
    """Passes that ended between each arrival and the first own one."""
    ends: list[float] = []
    for step in sorted(step for each in seen for step in each.steps):
        if not ends or step - ends[-1] > SAME_PASS_SECONDS:
            ends.append(step)
    return [bisect_right(ends, each.steps[0]) - 1 - bisect_right(ends, each.arrived) for each in seen]


def behind_long_ones(atelier: Atelier, rounds: int) -> tuple[list[Row], dict[str, list[float]]]:
    short = Wanted(2000, SHORT_STEPS, GUIDANCES[-1], None, 1.0)

    def alone() -> float:
        atelier.run([short], [0.0])  # when those that were left before are cleared away
        return atelier.run([short], [0.0])[0].seconds

    ended_first: list[int] = []

    def behind() -> float:
        with atelier.long_ones() as ended:
            seconds = atelier.run([short], [0.0])[0].seconds
            ended_first.append(ended())
        return seconds

    figures = run_rounds({"alone": alone, "behind": behind}, rounds=rounds)
    ratio = median(figures["behind"]) / median(figures["alone"])
    rows = [
        Row("4 steps alone", median(figures["alone"]) * 1e3, "ms", spread(figures["alone"]) * 1e3),
        Row(
            "4 steps behind eight of 50",
            median(figures["behind"]) * 1e3,
            "ms",
            spread(figures["behind"]) * 1e3,
            ratio=ratio,
            against="alone",
            target=f"{ALONE_TIMES:.0f}",
            reached=ratio <= ALONE_TIMES,
        ),
        Row("of those eight, ended before it", sum(ended_first), "", target="0", reached=not any(ended_first)),
    ]
    return rows, {f"4 steps {key}": values for key, values in figures.items()}


def with_previews(atelier: Atelier, rounds: int) -> tuple[list[Row], dict[str, list[float]]]:
    request = Wanted(3000, PREVIEW_STEPS, GUIDANCES[-1], None, 1.0)

    def draw(interval: int | None) -> float:
        seen = Seen(time.monotonic())
        atelier.draw(request, seen, preview_interval=interval)
        return seen.seconds

    figures = run_rounds({"without": lambda: draw(None), "with": lambda: draw(PREVIEW_INTERVAL)}, rounds=rounds)
    ratio = median(figures["with"]) / median(figures["without"])
    row = Row(
        f"{PREVIEW_STEPS} steps with a preview every {PREVIEW_INTERVAL}",
        median(figures["with"]) * 1e3,
        "ms",
        spread(figures["with"]) * 1e3,
        ratio=ratio,
        against="without",
        target=f"{PREVIEWS:.2f}",
        reached=ratio <= PREVIEWS,
    )
    return [row], {f"previews: {key}": values for key, values in figures.items()}


def saturated(
    atelier: Atelier, peer: Peer, requests: Sequence[Wanted], rounds: int
) -> tuple[list[Row], dict[str, list[float]], float]:
    """Everybody at once; also gives serial's rate."""
    at_once = [0.0] * len(requests)
    # Rows a sample has on average, in a pass that takes one step of each.
    rows_each = sum(each.steps * each.rows for each in requests) / sum(each.steps for each in requests)
    full = round(BATCH * rows_each)
    passes: list[float] = []
    rates: dict[str, list[float]] = {"steps": [], "Atelier": [], "serial": [], "batches": []}
    for _ in range(rounds):
        passes += peer.limit(full)
        rates["serial"].append(rate(peer.run("serial", requests, at_once)))
        mine = atelier.run(requests, at_once)
        rates["steps"].append(steps_a_second(mine))
        rates["Atelier"].append(rate(mine))
        rates["batches"].append(rate(peer.run("batches", requests, at_once)))
    limit, serial = BATCH / median(passes), median(rates["serial"])
    ratio = median(rates["steps"]) / limit
    rows = [
        Row(f"UNet pass of {full} rows", median(passes) * 1e3, "ms", spread(passes) * 1e3),
        Row("the limit", limit, "steps/s"),
        Row(
            "Atelier, all at once",
            median(rates["steps"]),
            "steps/s",
            spread(rates["steps"]),
            ratio=ratio,
            against="the limit",
            target=f"{OF_LIMIT}",
            reached=ratio >= OF_LIMIT,
        ),
    ]
    for name in ("serial", "Atelier", "batches"):
        value = median(rates[name])
        row = Row(f"{name}, all at once", value, "pictures/s", spread(rates[name]))
        rows.append(row if name == "serial" else replace(row, ratio=value / serial, against="serial"))
    return rows, {"passes": passes, **{f"all at once: {name}": values for name, values in rates.items()}}, serial


def under_load(
    atelier: Atelier,
    peer: Peer,
    requests: Sequence[Wanted],
    loads: Sequence[float],
    serial_rate: float,
    rounds: int,
) -> tuple[list[Row], dict[str, list[float]]]:
    """Each round with other arrivals, the same for all three; percentiles are of all rounds' requests together."""
    rows: list[Row] = []
    figures: dict[str, list[float]] = {}
    judged = min(loads, key=lambda load: abs(load - 0.8))
    for load in loads:
        seconds: dict[str, list[float]] = {"Atelier": [], "serial": [], "batches": []}
        waited: list[int] = []
        for turn in range(rounds):
            times = arrivals(len(requests), load * serial_rate, turn)
            mine = atelier.run(requests, times)
            waited += admissions(mine)
            runs = {"Atelier": mine} | {how: peer.run(how, requests, times) for how in ("serial", "batches")}
            for name, seen in runs.items():
                seconds[name] += [each.seconds for each in seen]
        figures |= {f"{load}: {name}": values for name, values in seconds.items()}
        for share, text in ((0.5, "p50"), (0.99, "p99")):
            theirs = percentile(seconds["batches"], share)
            for name, values in seconds.items():
                ratio = percentile(values, share) / theirs
                is_judged = (name, load, text) == ("Atelier", judged, "p99")
                rows.append(
                    Row(
                        f"load {load}: {name}, {text}",
                        percentile(values, share),
                        "s",
                        ratio=None if name == "batches" else ratio,
                        against="" if name == "batches" else "batches",
                        target=f"{OF_BATCHES}" if is_judged else "",
                        reached=ratio <= OF_BATCHES if is_judged else None,
                    )
                )
        if load == judged:
            figures[f"{load}: passes before the first own one"] = [float(each) for each in waited]
            for share, text in ((0.5, "p50"), (0.99, "p99")):
                passes = percentile(waited, share)
                rows.append(
                    Row(
                        f"load {load}: passes before the first own one, {text}",
                        passes,
                        "",
                        target=f"{WAITED}" if text == "p99" else "",
                        reached=passes <= WAITED if text == "p99" else None,
                    )
                )
            rows.append(Row(f"load {load}: of those, on average", mean(waited), ""))
    return rows, figures


def plot(figures: dict[str, list[float]], loads: Sequence[float], file: Path) -> None:
    """Latencies against the load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"Atelier": "#1f6f8b", "serial": "#8a8a8a", "batches": "#d08c2a"}
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=150)
    for name, colour in colours.items():
        for share, style in ((0.5, "-"), (0.99, "--")):
            values = [percentile(figures[f"{load}: {name}"], share) for load in loads]
            label = f"{name}, {'median' if share == 0.5 else '99th percentile'}"
            axes.plot(loads, values, style, color=colour, marker="o", markersize=4, label=label)
    axes.set_xlabel("requests a second, in those that one pipeline draws one after the other")
    axes.set_ylabel("seconds from request to picture")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=30, help="of each load [30]")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 1.0, 1.5])
    parser.add_argument("--rounds", type=int, default=5, help="of everything [5]")
    options = parser.parse_args()
    requests = wanted(options.requests)
    rows: list[Row] = []
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="atelier-generate-many-") as root, contextlib.ExitStack() as stack:
        loras = make_loras(Path(root))
        house = stack.enter_context(open_house(Path(root) / "data", generator={"MAX_BATCH": str(BATCH)}))
        base = house.register(STARTER)
        atelier = Atelier(house, base, [house.register(path.parent, base=base) for path in loras])
        other = Peer(loras)
        stack.callback(other.close)
        apart = check(atelier, other, requests[:12])
        for more, seconds in (behind_long_ones(atelier, options.rounds), with_previews(atelier, 4 * options.rounds)):
            rows += more
            figures |= seconds
        more, seconds, serial_rate = saturated(atelier, other, requests, options.rounds)
        rows += more
        figures |= seconds
        more, seconds = under_load(atelier, other, requests, options.loads, serial_rate, options.rounds)
        rows += more
        figures |= seconds
    plot(figures, options.loads, OUT / "generate_many.png")
    about = {
        "requests": [vars(each) for each in requests],
        "loads": options.loads,
        "serial_rate": serial_rate,
        "largest_difference": apart,
    }
    report("generate_many", rows, figures=figures, extra=about)


def make_loras(root: Path) -> list[Path]:
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel
    unet = unet.from_pretrained(STARTER / "unet")
    return [make_lora(root / f"lora{place}", unet, rank=rank, seed=place) for place, rank in enumerate(RANKS)]


if __name__ == "__main__":
    main()
