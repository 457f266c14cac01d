"""What every benchmark does alike: rounds of A B A B, medians and spread, one table, one JSON file."""

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Path("out/bench")
PACKAGES = ("torch", "diffusers", "peft", "transformers", "accelerate", "grpcio", "protobuf", "sqlalchemy")


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table."""

    name: str
    value: float
    unit: str
    spread: float = 0.0
    """Half of the interquartile range, in `unit`."""
    ratio: float | None = None
    """To the peer or the limit that `against` names."""
    against: str = ""
    target: str = ""
    reached: bool | None = None


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """`work` as a measurement: seconds of wall clock, collection of garbage left out."""

    def measure() -> float:
        gc.collect()
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def run_rounds(
    contenders: Mapping[str, Callable[[], float]], *, rounds: int = 5, warmups: int = 1
) -> dict[str, list[float]]:
    """Measures every contender in turn, `rounds` times over, after `warmups` rounds that do not count.

    A contender returns its own figure, seconds as a rule (`timed` makes one of plain work). Taking turns spreads what
    else the machine does over all of them.
    """
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmups + rounds):
        for name, measure in contenders.items():
            figure = measure()
            if number >= warmups:
                results[name].append(figure)
    return results


def spread(figures: Sequence[float]) -> float:
    """Half of the interquartile range; 0 for fewer than four figures."""
    if len(figures) < 4:
        return 0.0
    low, _, high = statistics.quantiles(figures, n=4)
    return (high - low) / 2


def percentile(figures: Sequence[float], share: float) -> float:
    """The smallest figure that `share` (0 to 1) of all do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "system": platform.platform(),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def report(
    name: str,
    rows: Sequence[Row],
    *,
    figures: Mapping[str, Sequence[float]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Prints one table and writes out/bench/<name>.json. Returns the file's path."""
    table = Table("", "median", "spread", "ratio", "against", "to reach", "", title=name)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:.4g} {row.unit}",
            f"{row.spread:.2g}" if row.spread else "",
            f"{row.ratio:.3f}" if row.ratio is not None else "",
            row.against,
            row.target,
            {True: "reached", False: "not reached", None: ""}[row.reached],
        )
    Console(width=max(Console().width, 120)).print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{name}.json"
    record = {
        "name": name,
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
        "figures": {key: list(values) for key, values in (figures or {}).items()},
        **(extra or {}),
    }
    file.write_text(json.dumps(record, indent=2) + "\n")
    return file
