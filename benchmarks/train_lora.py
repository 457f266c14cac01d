"""train_lora: a LoRA of rank 8 on 32 pictures for 10 epochs, the building of the caches included.

The peer is a plain loop in the manner of diffusers' LoRA example: pictures prepared by workers' code at each access,
VAE and text encoder in every step, accelerate, `clip_grad_norm_`, AdamW as it comes, `.item()` in every step. The
limit is the UNet's forward and backward alone, as many times on the same shapes. Before anything is timed both loops
get the same adapter and the same draws, and must tell the same losses.

Three sizes: the starter model, where dispatch counts; with --compute a wider random UNet of the same class, where
arithmetic does; and with --sd15 Stable Diffusion 1.5's configuration with random weights, 8 pictures at 128 pixels.

Usage: python -m benchmarks.train_lora [--rounds 5] [--epochs 10] [--compute | --sd15]
"""

import argparse
import copy
import gc
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# As a worker finds it where Atelier starts it; read by OpenMP when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image

from benchmarks.harness import Row, report, spread
from benchmarks.models import ASSETS, STARTER, make_sd15
from services.common.blobs import BlobStore
from services.diffusion.load import Components, load_components
from services.diffusion.objective import schedule_of
from services.trainer.domain import LoraConfig, Method, TrainingConfig
from services.trainer.worker.data import Item, crop, to_tensor
from services.trainer.worker.draws import draw_step
from services.trainer.worker.hardware import make_accelerator, memory_gauge
from services.trainer.worker.loop import train
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.plan import Plan, make_plan
from services.trainer.worker.prepare import make_training_set
from services.trainer.worker.state import make_learner

IMAGES, BATCH, RANK, SIDE, SEED = 32, 4, 8, 64, 11
SD15_IMAGES, SD15_BATCH, SD15_SIDE = 8, 2, 128
PARITY_STEPS, PARITY = 6, 2e-4  # steps compared, and the largest relative difference of a loss
FASTER_THAN_PEER, OF_THE_BOUND = 1.6, 0.95  # to reach


@dataclass(frozen=True)
class Work:
    """What all contenders are given."""

    components: Components
    items: tuple[Item, ...]
    blobs: BlobStore
    config: TrainingConfig
    method: Method = Method.LORA
    is_shared: bool = True
    """Other contenders get the same components, and each a UNet of its own."""

    @property
    def plan(self) -> Plan:
        return make_plan(self.config, len(self.items))


def read_items(blobs: BlobStore, count: int = IMAGES) -> tuple[Item, ...]:
    """The first demo pictures and their captions."""
    items = []
    for path in sorted((ASSETS / "demo-images").glob("*.png"))[:count]:
        with Image.open(path) as picture:
            width, height = picture.size
        caption = path.with_suffix(".txt").read_text().strip()
        items.append(Item(blobs.put(path.read_bytes()), path.name, caption, width, height))
    return tuple(items)


def load(folder: Path, *, compute: bool = False) -> Components:
    """A model; with `compute` its UNet is replaced by a wider one of random weights."""
    components = load_components([folder], family="stable_diffusion", device="cpu", dtype=torch.float32)
    if not compute:
        return components
    torch.manual_seed(0)
    wide = {**components.denoiser.config, "block_out_channels": (96, 192, 384), "norm_num_groups": 32}
    return components.with_parts(unet=UNet2DConditionModel.from_config(wide).eval().requires_grad_(False))


def fresh(work: Work) -> Components:
    """With a UNet of the contender's own, to put an adapter into: that, like loading, is before the clock starts."""
    if not work.is_shared:
        return work.components
    return work.components.with_parts(unet=copy.deepcopy(work.components.denoiser))


# --- the contenders: each gets a fresh adapter, then does its work, giving the loss after every step ---


def atelier(work: Work) -> Iterator[float]:
    """The worker's own way: caches, then its loop."""
    components = fresh(work)
    trainee = make_trainee(components, work.method, work.config, frozen=torch.float32)
    yield math.nan
    captions = [item.caption for item in work.items]
    preparing = make_training_set(components, work.method, work.config, work.items, captions, work.blobs, "cpu", "no")
    while True:
        try:
            next(preparing)
        except StopIteration as end:
            pictures = end.value
            break
    accelerator = make_accelerator("cpu", "no")
    steps = train(
        trainee,
        make_learner(trainee, work.config, work.plan, accelerator),
        pictures,
        schedule_of(components.scheduler_config),
        work.config,
        work.plan,
        accelerator=accelerator,
        meter=Meter(work.plan, memory=memory_gauge("cpu")),
        settle_at=lambda step: True,
    )
    for progress in steps:
        assert progress is not None
        yield progress.loss


class Folder(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures prepared at each access and captions tokenised once, as the example has them."""

    def __init__(self, work: Work) -> None:
        self._side = work.config.resolution or SIDE
        self._files = [work.blobs.get(item.sha256) for item in work.items]
        tokenizer = work.components.tokenizers[0]
        self._tokens = tokenizer(
            [item.caption for item in work.items],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(io.BytesIO(self._files[place])) as file:
            picture = file.convert("RGB")
        return to_tensor(crop(picture, self._side, self._side)), self._tokens[place]


Chance = Callable[[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""(step, latents' shape) -> where in the posterior, noise, timesteps."""


def by_torch(step: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(shape), torch.randn(shape), torch.randint(0, 1000, (shape[0],))


def peer(work: Work, chance: Chance = by_torch, order: object = None) -> Iterator[float]:
    """The plain loop. `chance` and `order` (a batch sampler) are given for the comparison of losses alone."""
    components, config = fresh(work), work.config
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    unet, vae, text_encoder = components.denoiser, components.vae, components.text_encoders[0]
    parameters = make_trainee(components, work.method, config, frozen=torch.float32).parameters
    yield math.nan
    if order is None:
        loader = torch.utils.data.DataLoader(Folder(work), batch_size=config.batch_size, shuffle=True)
    else:
        loader = torch.utils.data.DataLoader(Folder(work), batch_sampler=order)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    scheduler = DDPMScheduler.from_config(components.scheduler_config)
    unet.train()
    step, total = 0, work.plan.total_steps
    while step < total:
        for pixels, tokens in loader:
            step += 1
            with accelerator.accumulate(unet):
                with torch.no_grad():
                    posterior = vae.encode(pixels).latent_dist
                    jitter, noise, timesteps = chance(step, tuple(posterior.mean.shape))
                    latents = (posterior.mean + posterior.std * jitter) * vae.config.scaling_factor
                    words = text_encoder(tokens)[0]
                noisy = scheduler.add_noise(latents, noise, timesteps)
                target = scheduler.get_velocity(latents, noise, timesteps)
                prediction = unet(noisy, timesteps, words, return_dict=False)[0]
                loss = torch.nn.functional.mse_loss(prediction.float(), target.float(), reduction="mean")
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(parameters, config.max_grad_norm or float("inf"))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            yield loss.detach().item()
            if step == total:
                break


def limit(work: Work) -> Iterator[float]:
    """Forward and backward of the UNet with the adapter in it, and nothing else."""
    components = fresh(work)
    parameters = make_trainee(components, work.method, work.config, frozen=torch.float32).parameters
    components.denoiser.train()
    side, batch = (work.config.resolution or SIDE) // components.size.vae_factor, work.config.batch_size
    noisy = torch.randn(batch, components.denoiser.config.in_channels, side, side)
    tokens, channels = components.tokenizers[0].model_max_length, components.text_encoders[0].config.hidden_size
    words = torch.randn(batch, tokens, channels)
    timesteps = torch.randint(0, 1000, (batch,))
    yield math.nan
    for _ in range(work.plan.total_steps):
        loss = components.denoiser(noisy, timesteps, words, return_dict=False)[0].square().mean()
        loss.backward()
        for parameter in parameters:
            parameter.grad = None
        yield math.nan


def same_chance(work: Work) -> tuple[Chance, list[list[int]]]:
    """What the worker's own loop draws, and the pictures of each of its steps, for the peer to do the same."""
    schedule, plan = schedule_of(work.components.scheduler_config), work.plan

    def same(step: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        draws = draw_step(
            plan.seed,
            step,
            shape[0],
            (shape[1], shape[2], shape[3]),
            flip=False,
            caption_dropout=0.0,
            noise_offset=0.0,
        )
        return draws.jitter, draws.noise, schedule.times(draws.where)

    return same, [list(plan.images_of(step)) for step in range(1, plan.total_steps + 1)]


def compare_losses(work: Work) -> float:
    """The largest relative difference between the two loops' losses over the first steps, given the same chance."""
    short = replace(work, config=replace(work.config, max_steps=PARITY_STEPS))
    ours = list(atelier(short))[1:]
    theirs = list(peer(short, *same_chance(short)))[1:]
    assert len(ours) == len(theirs) == PARITY_STEPS
    return max(abs(one - two) / two for one, two in zip(ours, theirs, strict=True))


def take_turns(work: Work) -> dict[str, tuple[float, float]]:
    """Wall-clock and processor seconds of each contender's whole work. They take turns step by step, so that what else
    the machine does falls on all of them alike; what lies before a contender's first yield is not counted."""
    contenders = {"Atelier": atelier(work), "peer": peer(work), "limit": limit(work)}
    for steps in contenders.values():
        next(steps)
    gc.collect()
    spent = dict.fromkeys(contenders, (0.0, 0.0))
    while contenders:
        for name, steps in list(contenders.items()):
            wall, processor = time.perf_counter(), time.process_time()
            if next(steps, None) is None:
                del contenders[name]
            spent[name] = (
                spent[name][0] + time.perf_counter() - wall,
                spent[name][1] + time.process_time() - processor,
            )
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--compute", action="store_true", help="a wider UNet instead of the starter model's")
    sizes.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5's configuration, random weights")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    batch, side, count = (SD15_BATCH, SD15_SIDE, SD15_IMAGES) if arguments.sd15 else (BATCH, SIDE, IMAGES)
    config = TrainingConfig(
        batch_size=batch, epochs=arguments.epochs, resolution=side, seed=SEED, lora=LoraConfig(rank=RANK)
    )
    with tempfile.TemporaryDirectory() as folder:
        blobs = BlobStore(Path(folder) / "blobs")
        model = make_sd15(Path(folder) / "sd15") if arguments.sd15 else STARTER
        work = Work(load(model, compute=arguments.compute), read_items(blobs, count), blobs, config)
        difference = compare_losses(work)
        if difference > PARITY:
            raise SystemExit(f"the loops do not learn the same: losses differ by {difference:.2g}")
        take_turns(work)  # does not count
        rounds = [take_turns(work) for _ in range(arguments.rounds)]
    size = "_compute" if arguments.compute else "_sd15" if arguments.sd15 else ""
    show(work, rounds, difference, name=f"train_lora{size}")


def show(work: Work, rounds: list[dict[str, tuple[float, float]]], difference: float, *, name: str) -> None:
    """Ratios are medians over the rounds of each round's own ratio: what else the machine did is in both halves of
    it."""
    wall = {each: [spent[each][0] for spent in rounds] for each in rounds[0]}
    processor = {each: [spent[each][1] for spent in rounds] for each in rounds[0]}

    def ratio(figures: dict[str, list[float]], one: str, two: str) -> float:
        return statistics.median(first / second for first, second in zip(figures[one], figures[two], strict=True))

    faster, of_limit = ratio(wall, "peer", "Atelier"), ratio(wall, "limit", "Atelier")
    bound = ratio(wall, "peer", "limit")
    reached = faster >= FASTER_THAN_PEER or faster >= OF_THE_BOUND * bound
    wanted = f"{FASTER_THAN_PEER} or {OF_THE_BOUND} of {bound:.2f}"
    images = work.plan.num_images * work.plan.total_epochs

    def row(contender: str, ratio: float | None, against: str, target: str = "", reached: bool | None = None) -> Row:
        rates = [images / seconds for seconds in wall[contender]]
        return Row(contender, statistics.median(rates), "images/s", spread(rates), ratio, against, target, reached)

    def processor_row(against: str, ratio: float) -> Row:
        median = statistics.median(processor["Atelier"])
        return Row("Atelier, processor time", median, "s", spread(processor["Atelier"]), ratio, against)

    rows = [
        row("Atelier", faster, "peer", wanted, reached),
        row("Atelier", of_limit, "limit", str(OF_THE_BOUND), of_limit >= OF_THE_BOUND),
        processor_row("peer", ratio(processor, "peer", "Atelier")),
        processor_row("limit", ratio(processor, "limit", "Atelier")),
        row("peer", None, ""),
        row("limit", bound, "peer"),
    ]
    extra = {
        "seeds": [SEED],
        "threads": torch.get_num_threads(),
        "steps": work.plan.total_steps,
        "loss_difference": difference,
        "processor_seconds": processor,
    }
    report(name, rows, figures=wall, extra=extra)


if __name__ == "__main__":
    main()
