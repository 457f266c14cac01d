"""lora_swap: how long a LoRA that is not in memory takes from being asked for until it acts, and one that is.

What each is, on the same base and of the same files, which the system has in its cache of the disk:
- cold: the Generator's `Pool` in this process, as the engine calls it, from asking for a plan with the LoRA until it is
  on the base and gathered for a row; its own thread reads it. Without gRPC and without a picture, which the limit and
  the peers do without as well.
- lookup: what comes before it: the plan is asked of a Catalog in its own process, over gRPC, and the files are found.
- warm: lookup left out, the LoRA on the base already and gathered anew, another having acted last.
- load_lora_weights: diffusers' pipeline, the LoRA added to its layers and made the one that acts; those before it are
  taken out between measurements.
- hotswap: the same into the layers of the one before it, whose rank it must have.
- the limit: the file read with safetensors and every tensor copied once, garbage collected before as unloading does.

The lookup and both together are told with 10, 100 and 1,000 registered LoRAs, each time of another one; a base keeps 16
in memory. Two sizes of file: rank 4 on the starter model, and rank 64 on a model of the same classes, seven times as
large. Before anything is timed, it is checked that a LoRA acts the same through all of them.

Usage: python -m benchmarks.lora_swap [--rounds 15] [--registered 10 100 1000]
"""

import argparse
import asyncio
import contextlib
import gc
import os
import random
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch reads it
os.environ["HF_HUB_OFFLINE"] = "1"

import grpc
import torch
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from benchmarks.harness import Row, report, run_rounds, spread, timed
from benchmarks.house import open_catalog, register
from benchmarks.models import STARTER, make_larger, make_lora
from services.common.blobs import BlobStore
from services.common.clients import CHANNEL_OPTIONS, open_channel
from services.common.telemetry import get_logger
from services.generator.catalog import Catalog
from services.generator.domain import Folders, LoraChoice, Plan
from services.generator.engine.base import Base
from services.generator.engine.pool import Pool, lora_names
from services.generator.engine.reading import Reader
from services.generator.weights import WeightsFinder

SIZES = {"starter, rank 4": 4, "larger, rank 64": 64}
MAX_LORAS = 16
OF_LIMIT, OF_STEP, OF_TEN, APART = 1.2, 1.0, 1.1, 2e-4  # to reach; and the most that outputs may differ


class House:
    """A Catalog with registered LoRAs, and a Pool as the Generator has one."""

    def __init__(self, data: Path, address: str, model: Path, loras: list[Path]) -> None:
        self._blobs = BlobStore(data / "blobs")
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            stub = CatalogServiceStub(channel)
            self.base = register(stub, self._blobs, model)
            self.loras = [register(stub, self._blobs, path.parent, base=self.base) for path in loras]
        self._address = address
        self._finder = WeightsFinder(self._blobs, data / "cache", None)
        reader = Reader("cpu", torch.float32, compiles=False, log=get_logger("benchmark"))
        self.pool = Pool(reader, device="cpu", memory_bytes=8 << 30, max_loras=MAX_LORAS)
        self._woken = threading.Event()

    async def connect(self) -> None:
        self._channel = open_channel(self._address)
        self._catalog = Catalog(self._channel)

    async def close(self) -> None:
        await self._channel.close()
        self.pool.close()

    async def look_up(self, lora: int) -> tuple[Plan, Folders]:
        plan = await self._catalog.plan(self.base, None, (LoraChoice(lora),))
        folders = await asyncio.to_thread(self._finder.find, plan)
        if folders is None:
            raise RuntimeError("weights are not there")
        return plan, folders

    def act(self, found: tuple[Plan, Folders]) -> Base:
        """Until the plan's LoRA acts."""
        plan, folders = found
        ready = None
        for _ in range(1000):
            self._woken.clear()
            ready = self.pool.ready(plan, folders, on_load=lambda _: None, wake=self._woken.set)
            if ready is not None:
                break
            self._woken.wait(60)
        if ready is None:
            raise RuntimeError("the LoRA does not come")
        base = ready.base
        with base.denoiser_rows.rows([{lora_names(plan)[0]: 1.0}]):
            pass
        return base


def read_and_copy(path: Path) -> None:
    for tensor in load_file(path).values():
        tensor.clone()


class Peer:
    """diffusers' pipeline."""

    def __init__(self, model: Path) -> None:
        self.pipeline: Any = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
        self._number = 0

    def load(self, path: Path) -> None:
        self._number += 1
        name = f"lora{self._number}"
        self.pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
        self.pipeline.set_adapters(name)

    def leave(self) -> None:
        self.pipeline.unload_lora_weights()

    def swap(self, path: Path) -> None:
        there = "swapped" in getattr(self.pipeline.unet, "peft_config", {})
        self.pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="swapped", hotswap=there)


def a_pass(unet: Any, rows: int = 1) -> torch.Tensor:
    config = unet.config
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(rows, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    words = torch.randn(rows, 16, config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        answer: torch.Tensor = unet(latents, torch.full((rows,), 500), words, return_dict=False)[0]
    return answer


def check(base: Base, found: tuple[Plan, Folders], peers: list[tuple[Peer, Callable[[], None]]]) -> float:
    """The largest difference of what the denoiser says."""
    without = a_pass(base.components.denoiser)
    with base.denoiser_rows.rows([{lora_names(found[0])[0]: 1.0}]):
        mine = a_pass(base.components.denoiser)
    apart = 0.0
    for peer, load in peers:
        load()
        apart = max(apart, float((a_pass(peer.pipeline.unet) - mine).abs().max()))
    if apart > APART or float((mine - without).abs().max()) < 100 * APART:
        raise RuntimeError(f"outputs differ by {apart}")
    return apart


def measure_swaps(
    size: str, house: House, found: list[tuple[Plan, Folders]], rounds: int
) -> tuple[list[Row], dict[str, list[float]], float]:
    """Of LoRAs that are found already."""
    model = found[0][1].pipeline[0]
    base = house.act(found[0])
    loader, swapper = Peer(model), Peer(model)
    swapper.swap(found[1][1].loras[0])
    path = found[0][1].loras[0]
    apart = check(base, found[0], [(loader, partial(loader.load, path)), (swapper, partial(swapper.swap, path))])
    turn = iter(range(10**6))

    def another() -> tuple[Plan, Folders]:
        return found[1 + next(turn) % (len(found) - 1)]

    def cold() -> float:
        plan, folders = another()
        house.pool.unload(plan.loras[0].source.model_id)
        return timed(lambda: house.act((plan, folders)))()

    def warm() -> float:
        one, other = another(), another()
        house.act(one)
        house.act(other)
        return timed(lambda: house.act(one))()

    def load() -> float:
        loader.leave()
        path = another()[1].loras[0]
        return timed(lambda: loader.load(path))()

    def read() -> float:
        path = another()[1].loras[0]
        gc.collect()  # as unloading does, which leaves the processor's caches empty
        return timed(lambda: read_and_copy(path))()

    contenders = {
        "the limit": read,
        "cold": cold,
        "warm": warm,
        "load_lora_weights": load,
        "hotswap": lambda: timed(partial(swapper.swap, another()[1].loras[0]))(),
        "a step": timed(lambda: a_pass(base.components.denoiser)),
    }
    figures = run_rounds(contenders, rounds=rounds, warmups=2)
    limit, step = median(figures["the limit"]), median(figures["a step"])
    lines = {"cold": (limit, "the limit", OF_LIMIT), "warm": (step, "a step", OF_STEP)}
    rows = []
    for name, seconds in figures.items():
        against, text, target = lines.get(name, (limit, "the limit", None))
        ratio = median(seconds) / against
        rows.append(
            Row(
                f"{size}: {name}",
                median(seconds) * 1e3,
                "ms",
                spread(seconds) * 1e3,
                ratio=None if name in ("the limit", "a step") else ratio,
                against="" if name in ("the limit", "a step") else text,
                target="" if target is None else f"{target}",
                reached=None if target is None else ratio <= target,
            )
        )
    return rows, {f"{size}: {name}": values for name, values in figures.items()}, apart


def measure_lookups(
    houses: dict[int, House], loop: asyncio.AbstractEventLoop, rounds: int
) -> tuple[list[Row], dict[str, list[float]]]:
    """With few and many registered."""
    rng = random.Random(5)

    def look_up(house: House) -> float:
        lora = rng.choice(house.loras)
        return timed(lambda: loop.run_until_complete(house.look_up(lora)))()

    def whole(house: House) -> float:
        lora = rng.choice(house.loras)
        house.pool.unload(lora)
        return timed(lambda: house.act(loop.run_until_complete(house.look_up(lora))))()

    contenders: dict[str, Callable[[], float]] = {}
    for count, house in houses.items():
        house.act(loop.run_until_complete(house.look_up(house.loras[0])))
        contenders[f"lookup, {count} registered"] = partial(look_up, house)
        contenders[f"lookup and cold, {count} registered"] = partial(whole, house)
    figures = run_rounds(contenders, rounds=2 * rounds, warmups=3)
    rows = []
    fewest, most = min(houses), max(houses)
    for count in houses:
        for what in ("lookup", "lookup and cold"):
            seconds = figures[f"{what}, {count} registered"]
            ratio = median(seconds) / median(figures[f"{what}, {fewest} registered"])
            judged = count == most
            rows.append(
                Row(
                    f"{what}, {count} registered",
                    median(seconds) * 1e3,
                    "ms",
                    spread(seconds) * 1e3,
                    ratio=None if count == fewest else ratio,
                    against="" if count == fewest else f"{fewest} registered",
                    target=f"{OF_TEN}" if judged else "",
                    reached=ratio <= OF_TEN if judged else None,
                )
            )
    return rows, figures


def make_loras(root: Path, model: Path, rank: int, count: int) -> list[Path]:
    """LoRAs that differ from one another."""
    unet: Any = UNet2DConditionModel
    unet = unet.from_pretrained(model / "unet")
    return [make_lora(root / f"lora{number}", unet, rank=rank, seed=number) for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--registered", type=int, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()
    rows: list[Row] = []
    figures: dict[str, list[float]] = {}
    apart: dict[str, float] = {}
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="atelier-lora-swap-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)

        def open_one(name: str, model: Path, loras: list[Path]) -> House:
            data = root / "data" / name
            house = House(data, stack.enter_context(open_catalog(data)), model, loras)
            loop.run_until_complete(house.connect())
            stack.callback(lambda: loop.run_until_complete(house.close()))
            return house

        small, many = SIZES.items()
        files = make_loras(root / "small", STARTER, small[1], max(options.registered))
        houses = {count: open_one(f"{count}", STARTER, files[:count]) for count in options.registered}
        larger = make_larger(root / "larger")
        large = open_one("large", larger, make_loras(root / "large", larger, many[1], 10))
        for size, house in ((small[0], houses[min(houses)]), (many[0], large)):
            found = [loop.run_until_complete(house.look_up(lora)) for lora in house.loras]
            more, seconds, apart[size] = measure_swaps(size, house, found, options.rounds)
            rows += more
            figures |= seconds
        more, seconds = measure_lookups(houses, loop, options.rounds)
        rows += more
        figures |= seconds
    report("lora_swap", rows, figures=figures, extra={"ranks": SIZES, "largest_difference": apart})


if __name__ == "__main__":
    main()
