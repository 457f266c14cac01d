"""Stable Video Diffusion learns from clips: which frames, what it is told, and going on to the very bytes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from services.common.blobs import BlobStore
from services.common.clips import encode_webp_animation
from services.diffusion.load import Components, load_components
from services.trainer.domain import (
    Checkpoint,
    CheckpointConfig,
    Method,
    Progress,
    Sample,
    SampleConfig,
    TrainingConfig,
    ValidationConfig,
    VideoConfig,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.data import ClipTooShort, Item
from services.trainer.worker.dry_run import measure
from services.trainer.worker.loop import batch_loss, step_batches
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.plan import make_plan
from services.trainer.worker.prepare import Places, make_training_set
from tests.tiny_families import make_tiny_svd
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, digests, last

pytestmark = pytest.mark.usefixtures("accelerator")

VIDEO = VideoConfig(num_frames=3, frames_per_second=5, motion_bucket_id=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_svd(tmp_path_factory.mktemp("svd") / "pipeline")


def load(folder: Path) -> Components:
    return load_components([folder], family="stable_video_diffusion", device="cpu", dtype=torch.float32)


def clip(blobs: BlobStore, place: int, num_frames: int = 10) -> Item:
    """`num_frames` at 10 a second, 40 x 36, that slide."""
    still = numpy.random.default_rng(place).integers(0, 256, (36, 80, 3), dtype=numpy.uint8)
    frames = numpy.stack([still[:, 2 * shift : 2 * shift + 40] for shift in range(num_frames)])
    digest = blobs.put(encode_webp_animation(frames, 10))
    return Item(digest, f"{place}.webp", "", 40, 36, num_frames, 10.0)


@pytest.fixture
def house(folder: Path, blobs: BlobStore, tmp_path: Path) -> House:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    base = BaseModel(7, "tiny", "stable_video_diffusion", "cd" * 32, files)
    places = Places(blobs, tmp_path / "scratch", tmp_path / "models", tmp_path / "hub", None)
    return House(places, base, tuple(clip(blobs, place, 8 + place) for place in range(4)))


def config_of(**changes: Any) -> TrainingConfig:
    return make_config(video=VIDEO, **changes)


def set_of(components: Components, config: TrainingConfig, house: House) -> TrainingSet:
    blank = [""] * len(house.items)
    preparing = make_training_set(components, Method.FULL, config, house.items, blank, house.places.blobs, "cpu", "no")
    try:
        while True:
            next(preparing)
    except StopIteration as end:
        made: TrainingSet = end.value
        return made


def test_a_run_of_frames_begins_anywhere_and_is_told_its_first_one(house: House, folder: Path) -> None:
    components, config = load(folder), config_of(batch_size=4)
    pictures = set_of(components, config, house)
    (latents,) = pictures.latents
    # 8 to 11 frames at 10 a second are 4 to 6 at 5.
    assert latents.mean.shape[0] == 4 + 5 + 5 + 6
    rows, plain = torch.arange(4), torch.zeros(4, dtype=torch.bool)
    seen = set()
    for wording in range(8):
        words = torch.full((4,), wording)
        run = latents.sample(pictures.places[rows], plain, torch.zeros(4, *latents.shape), words)
        assert run.shape == (4, 3, *latents.mean.shape[1:])
        first = latents.first(pictures.places[rows], words)
        seen.add(tuple(first.tolist()))
        told = pictures.conditioning(rows, plain, words)
        assert told["motion"].tolist() == [[4.0, 100.0, pytest.approx(0.02)]] * 4
        # What is shown of the first frame is that frame: its latents, unscaled, under a little noise.
        shown = told["first_frame"] * components.vae.config.scaling_factor
        apart = [(shown - run[:, place]).abs().mean() for place in range(3)]
        assert apart[0] < 0.5 * min(apart[1:])
    assert len(seen) > 1
    nothing = pictures.conditioning(rows, ~plain, torch.zeros(4, dtype=torch.long))
    assert nothing["picture"].eq(0).all()
    assert nothing["first_frame"].eq(0).all()


def test_the_loss_is_edms(house: House, folder: Path) -> None:
    """Karras et al. 2022, the error of the denoised clip, weighted; from diffusers' own UNet."""
    components, config = load(folder), config_of(batch_size=4)
    pictures = set_of(components, config, house)
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    objective = components.family.objective(components.scheduler_config)
    (batch,) = step_batches(1, pictures, objective, config, make_plan(config, 4))
    with torch.no_grad():
        mine = float(batch_loss(trainee, pictures, batch))
        told = pictures.conditioning(batch.rows, batch.captionless, batch.wording)
        shown = told["first_frame"][:, None].expand(-1, 3, -1, -1, -1)
        answer = components.denoiser(
            torch.cat([batch.noisy, shown], dim=2), batch.timesteps, told["picture"], told["motion"]
        ).sample
        sigma = (4 * batch.timesteps).exp().view(-1, 1, 1, 1, 1)
        clean = (batch.noisy - sigma * batch.target) / (sigma**2 + 1).sqrt()
        denoised = (batch.noisy - sigma * answer) / (sigma**2 + 1).sqrt()
        expected = ((1 + sigma**2) / sigma**2 * (denoised - clean) ** 2).mean()
    assert mine == pytest.approx(float(expected), rel=1e-3)


CASES: dict[str, tuple[Method, dict[str, object]]] = {
    "lora": (Method.LORA, {"caption_dropout": 0.3}),
    "full": (Method.FULL, {"gradient_checkpointing": True}),
    "validated": (Method.LORA, {"validation": ValidationConfig(share=0.25, interval_steps=2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(house: House, case: str) -> None:
    method, changes = CASES[case]
    config = config_of(max_steps=4, checkpoints=CheckpointConfig(interval_steps=2), **changes)
    whole = house.reports(config, method)
    steps = [report for report in whole if isinstance(report, Progress)]
    assert len(steps) == 4
    assert all(math.isfinite(step.loss) and step.grad_norm > 0 for step in steps)
    checkpoints = [report for report in whole if isinstance(report, Checkpoint)]
    resumed = [each for each in house.run(config, method, checkpoints=checkpoints[:1]) if each is not None]
    assert [report.step for report in resumed if isinstance(report, Progress)] == [3, 4]
    assert digests(last(resumed)) == digests(last(whole))


def test_samples_are_clips_drawn_from_the_first_frames(house: House) -> None:
    config = config_of(max_steps=2, samples=SampleConfig(clips=2, steps=2, guidance_scale=2.0, interval_steps=1))
    samples = [report for report in house.reports(config) if isinstance(report, Sample)]
    assert [(each.step, each.index, each.prompt) for each in samples] == [
        (1, 0, "0.webp"),
        (1, 1, "1.webp"),
        (2, 0, "0.webp"),
        (2, 1, "1.webp"),
    ]
    with Image.open(house.places.blobs.path(samples[0].sha256)) as drawn:
        assert (drawn.format, drawn.size, getattr(drawn, "n_frames", 1)) == ("WEBP", (32, 32), 3)


def test_an_estimate_makes_steps_of_clips_and_draws_one(house: House) -> None:
    house.places.scratch.mkdir(parents=True)
    config = config_of(epochs=2, samples=SampleConfig(clips=1, steps=2))
    assignment = Assignment("1" * 36, Method.LORA, config, "ab" * 32, (house.base,))
    found = measure(assignment, house.items, house.places)
    assert (found.num_images, found.total_steps) == (4, 4)
    assert min(found.step_seconds, found.memory_bytes, found.weights_bytes, found.state_bytes) > 0


def test_a_clip_that_is_too_short_is_named(house: House) -> None:
    config = config_of(max_steps=1)
    config = replace(config, video=replace(VIDEO, num_frames=5))
    with pytest.raises(ClipTooShort, match=r"'0.webp' has 4 frames at 5 a second; 5 are learnt together"):
        list(house.run(config))
