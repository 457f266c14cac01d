"""lora_mix: passes of the denoiser for eight pictures with 1, 4 and 8 LoRAs among them, ranks 4 to 64.

What each is, all on the same UNet with the same inputs and order of axes, a timestep of its own for each row:
- plain UNet: no LoRA anywhere. The limit.
- Atelier: `RowAdapters`, every row with a weight of its own, which LoRA ever it has; the rows are those of the last
  pass, as in most steps.
- Atelier, one row anew: the same where in every pass one row's LoRA has another weight than in the last, as when
  somebody joins at each step; and all rows anew.
- peft mixed: peft's layers with `adapter_names`, a name a row, handed to them by hooks since no PeftModel wraps a UNet.
  A weight of its own is an adapter's there, not a row's.
- set_adapters: diffusers' one LoRA after the other, the rows of each in one pass.

The starter model, where the number of calls counts, and a model of the same classes with random weights that is bound
by arithmetic. Before anything is timed, the rows are compared with one another and with passes of a single row.

Usage: python -m benchmarks.lora_mix [--rounds 11] [--sizes starter larger] [--profile]
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch reads it
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from benchmarks.harness import Row, report, run_rounds, spread, timed
from benchmarks.models import STARTER, make_larger, make_lora
from services.diffusion.adapters import load_loras
from services.diffusion.load import Components, load_components
from services.diffusion.mixed import RowAdapters, read_adapter

ROWS = 8
RANKS = (4, 64, 8, 16, 32, 4, 16, 64)
COUNTS = (1, 4, 8)
WEIGHTS = tuple(0.5 + 0.1 * row for row in range(ROWS))
OVER_PLAIN, UNDER_PEFT, APART = 1.10, 0.5, 2e-4  # to reach; and the most that outputs may differ
PASSES = {"starter": 3, "larger": 1}  # in a measurement


class Bench:
    """One model twice: with Atelier's hooks, and with peft's layers."""

    def __init__(self, folder: Path, loras: Path) -> None:
        self.plain, mine, self.theirs = load(folder), load(folder), load(folder)
        config = mine.denoiser.config
        paths = [
            make_lora(loras / str(place), mine.denoiser, rank=rank, seed=place) for place, rank in enumerate(RANKS)
        ]
        self.mine = mine.denoiser
        self.rows = RowAdapters(mine.denoiser)
        for place, path in enumerate(paths):
            adapter = read_adapter(mine, path)
            if adapter is None:
                raise RuntimeError("a LoRA that does not act row by row")
            self.rows.add(name(place), adapter.layers["unet"])
        load_loras(self.theirs, [(name(place), path) for place, path in enumerate(paths)])
        self.theirs.denoiser.enable_lora()
        self.names = _hand_names_in(self.theirs.denoiser)
        self.scaled: dict[str, float] = {}
        generator = torch.Generator().manual_seed(1)
        side, words = config.sample_size, config.cross_attention_dim
        self.latents = torch.randn(ROWS, config.in_channels, side, side, generator=generator)
        self.times = torch.arange(1, ROWS + 1) * 100
        self.words = torch.randn(ROWS, 16, words, generator=generator)

    def without(self) -> torch.Tensor:
        return self._pass(self.plain.denoiser, slice(None))

    def atelier(self, rows: Sequence[Mapping[str, float]]) -> torch.Tensor:
        with self.rows.rows(rows):
            return self._pass(self.mine, slice(None))

    def gather(self, rows: Sequence[Mapping[str, float]]) -> None:
        with self.rows.rows(rows):
            pass

    def peft_mixed(self, rows: Sequence[Mapping[str, float]]) -> torch.Tensor:
        """With one weight an adapter."""
        wanted = {each: weight for row in rows for each, weight in row.items()}
        if wanted != self.scaled:
            for module in self.theirs.denoiser.modules():
                if isinstance(module, BaseTunerLayer):
                    for each, weight in wanted.items():
                        module.set_scale(each, weight)
            self.scaled = wanted
        self.names[:] = [each for row in rows for each in row]
        try:
            return self._pass(self.theirs.denoiser, slice(None))
        finally:
            self.names.clear()

    def one_by_one(self, rows: Sequence[Mapping[str, float]]) -> torch.Tensor:
        """Neighbours that have the same LoRA and weight share a pass."""
        answers, start = [], 0
        while start < len(rows):
            stop = start + 1
            while stop < len(rows) and rows[stop] == rows[start]:
                stop += 1
            ((each, weight),) = rows[start].items()
            self.theirs.denoiser.set_adapters(each, weight)
            self.scaled = {}
            answers.append(self._pass(self.theirs.denoiser, slice(start, stop)))
            start = stop
        return torch.cat(answers)

    def _pass(self, unet: Any, some: slice) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = unet(self.latents[some], self.times[some], self.words[some], return_dict=False)[0]
        return answer


def load(folder: Path) -> Components:
    """As the Generator loads it."""
    components = load_components([folder], family="stable_diffusion", device="cpu", dtype=torch.float32)
    components.denoiser.to(memory_format=torch.channels_last)
    return components


def name(place: int) -> str:
    return f"lora{place}"


def rows_of(num: int, weights: Sequence[float] = WEIGHTS) -> list[dict[str, float]]:
    """Rows with `num` LoRAs among them, equal ones side by side, each row with its own weight."""
    return [{name(row * num // ROWS): weights[row]} for row in range(ROWS)]


def of_adapters(num: int) -> list[dict[str, float]]:
    """The same with one weight a LoRA."""
    return [{each: WEIGHTS[int(each[-1])] for each in row} for row in rows_of(num)]


def _hand_names_in(unet: torch.nn.Module) -> list[str]:
    """What peft's layers are told is this list, while it is not empty."""
    names: list[str] = []

    def tell(module: Any, inputs: Any, more: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        return (inputs, {**more, "adapter_names": names}) if names else None

    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_pre_hook(tell, with_kwargs=True)
    return names


def check(bench: Bench) -> float:
    """The largest difference of outputs that ought to be the same, of values up to 4 or so."""
    apart = 0.0
    for num in COUNTS:
        own, shared = rows_of(num), of_adapters(num)
        pairs = [
            (bench.atelier(own), bench.one_by_one(own)),
            (bench.atelier(shared), bench.peft_mixed(shared)),
            (bench.atelier(shared), bench.one_by_one(shared)),
        ]
        for one, other in pairs:
            apart = max(apart, float((one - other).abs().max()))
        changed = (pairs[0][0] - bench.without()).abs().amax(dim=(1, 2, 3))
        if float(changed.min()) < 100 * APART:
            raise RuntimeError(f"a LoRA changes nothing: {changed}")
    if apart > APART:
        raise RuntimeError(f"outputs differ by {apart}")
    return apart


def measure(size: str, bench: Bench, rounds: int) -> tuple[list[Row], dict[str, list[float]]]:
    """Rows, and figures in seconds a pass."""
    passes = PASSES[size]

    def of(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Callable[[], float]:
        def several() -> None:
            for _ in range(passes):
                work()

        clock = timed(several)

        def seconds() -> float:
            prepare()
            return clock() / passes

        return seconds

    fresh = count(1)

    def anew(rows: int) -> object:
        return bench.atelier(
            rows_of(8, [weight + next(fresh) * 1e-6 * (row < rows) for row, weight in enumerate(WEIGHTS)])
        )

    contenders = {"plain UNet": of(bench.without)}
    for num in COUNTS:
        own, shared = rows_of(num), of_adapters(num)
        ready = partial(bench.gather, own)  # what the other contenders have displaced
        contenders[f"Atelier, {num}"] = of(partial(bench.atelier, own), ready)
        contenders[f"peft mixed, {num}"] = of(partial(bench.peft_mixed, shared))
        contenders[f"set_adapters, {num}"] = of(partial(bench.one_by_one, shared))
    contenders["Atelier, 8, one row anew"] = of(partial(anew, 1))
    contenders["Atelier, 8, all rows anew"] = of(partial(anew, ROWS))
    figures = run_rounds(contenders, rounds=rounds if size == "starter" else max(5, rounds // 2))
    plain = figures["plain UNet"]
    rows = [Row(f"{size}: plain UNet", median(plain) * 1e3, "ms", spread(plain) * 1e3)]
    for contender in list(contenders)[1:]:
        seconds = figures[contender]
        ratio = median(seconds) / median(plain)
        judged = contender in {f"Atelier, {num}" for num in COUNTS}
        rows.append(
            Row(
                f"{size}: {contender}",
                median(seconds) * 1e3,
                "ms",
                spread(seconds) * 1e3,
                ratio=ratio,
                against="plain UNet",
                target=f"{OVER_PLAIN:.2f}" if judged else "",
                reached=ratio <= OVER_PLAIN if judged else None,
            )
        )
    for num in COUNTS:
        mine, theirs = figures[f"Atelier, {num}"], figures[f"peft mixed, {num}"]
        ratio = median(mine) / median(theirs)
        judged = size == "starter" and num > 1
        rows.append(
            Row(
                f"{size}: Atelier against peft mixed, {num}",
                median(mine) * 1e3,
                "ms",
                ratio=ratio,
                against="peft mixed",
                target=f"{UNDER_PEFT:.2f}" if judged else "",
                reached=ratio <= UNDER_PEFT if judged else None,
            )
        )
    return rows, {f"{size}: {key}": values for key, values in figures.items()}


def profile(bench: Bench) -> None:
    """Prints where a pass with eight LoRAs spends its time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for what, work in (("plain", bench.without), ("Atelier, 8", lambda: bench.atelier(rows_of(8)))):
        work()
        with profiled(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(5):
                work()
        print(what)
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=14))


@contextlib.contextmanager
def benches(sizes: Sequence[str]) -> Iterator[Iterator[tuple[str, Bench]]]:
    with tempfile.TemporaryDirectory(prefix="atelier-lora-mix-") as root:
        home = Path(root)

        def each() -> Iterator[tuple[str, Bench]]:
            if "starter" in sizes:
                yield "starter", Bench(STARTER, home / "starter-loras")
            if "larger" in sizes:
                yield "larger", Bench(make_larger(home / "larger"), home / "larger-loras")

        yield each()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--sizes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--profile", action="store_true", help="print where the time goes, and measure nothing")
    options = parser.parse_args()
    rows: list[Row] = []
    figures: dict[str, list[float]] = {}
    apart: dict[str, float] = {}
    with benches(options.sizes) as each:
        for size, bench in each:
            if options.profile:
                print(size)
                profile(bench)
                continue
            apart[size] = check(bench)
            more, seconds = measure(size, bench, options.rounds)
            rows += more
            figures |= seconds
    if not options.profile:
        about = {"ranks": RANKS, "weights": WEIGHTS, "threads": torch.get_num_threads(), "largest_difference": apart}
        report("lora_mix", rows, figures=figures, extra=about)


if __name__ == "__main__":
    main()
