"""Every family is trained by the same loop: what is learnt, going on to the very bytes, and that diffusers loads it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from services.common.blobs import BlobStore
from services.diffusion.families import get_family
from services.diffusion.geometry import middle_of
from services.diffusion.load import Components, load_components
from services.trainer.domain import (
    Checkpoint,
    CheckpointConfig,
    LoraConfig,
    Method,
    Progress,
    Sample,
    SampleConfig,
    Trained,
    ValidationConfig,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.dry_run import measure
from services.trainer.worker.loop import batch_loss, step_batches
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.plan import make_plan
from services.trainer.worker.prepare import Places, make_training_set
from services.trainer.worker.seeds import derive_seed
from tests.tiny_families import MAKERS
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, digests, last, picture

pytestmark = pytest.mark.usefixtures("accelerator")


@pytest.fixture(scope="module", params=sorted(MAKERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[family](tmp_path_factory.mktemp(family) / "pipeline")


@pytest.fixture
def house(family: str, folder: Path, blobs: BlobStore, tmp_path: Path) -> House:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    base = BaseModel(7, "tiny", family, "cd" * 32, files)
    places = Places(blobs, tmp_path / "scratch", tmp_path / "models", tmp_path / "hub", None)
    return House(places, base, tuple(picture(blobs, place) for place in range(5)))


def load(folder: Path, family: str) -> Components:
    return load_components([folder], family=family, device="cpu", dtype=torch.float32)


CASES: dict[str, tuple[Method, dict[str, object]]] = {
    "lora": (Method.LORA, {"random_flip": True, "caption_dropout": 0.2}),
    "text encoders too": (Method.LORA, {"train_text_encoder": True}),
    "full": (Method.FULL, {"ema_decay": 0.9, "gradient_checkpointing": True}),
    "buckets": (Method.LORA, {"aspect_buckets": True, "validation": ValidationConfig(share=0.2, interval_steps=2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(house: House, case: str) -> None:
    method, changes = CASES[case]
    config = make_config(max_steps=4, checkpoints=CheckpointConfig(interval_steps=2), **changes)
    whole = house.reports(config, method)
    steps = [report for report in whole if isinstance(report, Progress)]
    assert len(steps) == 4
    assert all(math.isfinite(step.loss) and step.grad_norm > 0 for step in steps)
    checkpoints = [report for report in whole if isinstance(report, Checkpoint)]
    resumed = [each for each in house.run(config, method, checkpoints=checkpoints[:1]) if each is not None]
    assert [report.step for report in resumed if isinstance(report, Progress)] == [3, 4]
    assert digests(last(resumed)) == digests(last(whole))


@pytest.mark.parametrize("text_encoders", [False, True])
def test_a_trained_lora_draws_in_a_plain_pipeline_what_the_job_drew(
    house: House, folder: Path, family: str, text_encoders: bool
) -> None:
    config = make_config(
        max_steps=6, learning_rate=3e-2, train_text_encoder=text_encoders, lora=LoraConfig(rank=4, alpha=2.0)
    )
    reports = house.reports(replace(config, samples=SampleConfig(("red apple",), steps=3, guidance_scale=2.0)))
    sample = next(report for report in reports if isinstance(report, Sample))
    plain = plain_of(folder)
    plain.load_lora_weights(house.folder(last(reports)), weight_name="pytorch_lora_weights.safetensors")
    drawn = numpy.array(Image.open(house.places.blobs.path(sample.sha256))).astype(int)
    assert abs(draw_plain(plain) - drawn).max() <= 1
    plain.unload_lora_weights()
    assert abs(draw_plain(plain) - drawn).max() > 8


def test_full_training_leaves_folders_that_draw_in_a_plain_pipeline(house: House, folder: Path, family: str) -> None:
    config = make_config(max_steps=2, learning_rate=1e-2, train_text_encoder=True)
    trained = last(house.reports(config, Method.FULL))
    mine = house.folder(trained)
    learnt = {path.name for path in mine.iterdir()}
    described = get_family(family)
    assert learnt == {described.denoiser, *described.text_encoders}
    parts = {name: getattr(plain_of(folder), name) for name in learnt}
    for name, part in parts.items():
        loaded, info = type(part).from_pretrained(mine / name, output_loading_info=True)
        assert not info["missing_keys"]
        pairs = zip(loaded.parameters(), part.parameters(), strict=True)
        assert not all(torch.equal(one.float(), two) for one, two in pairs)
    assert isinstance(trained, Trained)


def test_an_estimate_makes_steps_of_the_family(house: House) -> None:
    house.places.scratch.mkdir(parents=True)
    config = make_config(epochs=2, samples=SampleConfig(("a cat",), steps=2))
    assignment = Assignment("1" * 36, Method.LORA, config, "ab" * 32, (house.base,))
    found = measure(assignment, house.items, house.places)
    assert (found.num_images, found.total_steps) == (5, 6)
    assert min(found.step_seconds, found.memory_bytes, found.weights_bytes, found.state_bytes) > 0


def plain_of(folder: Path) -> Any:
    without_t5 = {"text_encoder_3": None, "tokenizer_3": None} if (folder / "transformer").exists() else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_plain(pipeline: Any) -> "numpy.ndarray[Any, Any]":
    generator = torch.Generator().manual_seed(derive_seed(7, "sample", 0))
    arguments = {"num_inference_steps": 3, "guidance_scale": 2.0, "width": 32, "height": 32}
    # Nothing said against it: to SDXL that is None, to diffusers' other pipelines the same as an empty text.
    return numpy.array(pipeline("red apple", generator=generator, **arguments).images[0]).astype(int)


def test_the_loss_is_that_of_the_familys_own_formula(house: House, folder: Path, family: str) -> None:
    """As diffusers' training examples have it, written out with its own pipeline."""
    components, config = load(folder, family), make_config(batch_size=5, aspect_buckets=False)
    preparing = make_training_set(
        components, Method.FULL, config, house.items, [item.caption for item in house.items], house.places.blobs,
        "cpu", "no",
    )  # fmt: skip
    try:
        while True:
            next(preparing)
    except StopIteration as end:
        pictures = end.value
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    objective = components.family.objective(components.scheduler_config)
    (batch,) = step_batches(1, pictures, objective, config, make_plan(config, 5))
    plain = plain_of(folder)
    captions = [house.items[row].caption for row in batch.rows.tolist()]
    with torch.no_grad():
        mine = float(batch_loss(trainee, pictures, batch))
        if family == "stable_diffusion_xl":
            words, _, pooled, _ = plain.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
            sizes = [middle_of(36, 40 + row, (32, 32)) for row in batch.rows.tolist()]
            told = {"text_embeds": pooled, "time_ids": torch.tensor(sizes, dtype=torch.float32)}
            answer = plain.unet(batch.noisy, batch.timesteps, words, added_cond_kwargs=told).sample
        else:
            words, _, pooled, _ = plain.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
            answer = plain.transformer(
                batch.noisy, timestep=batch.timesteps, encoder_hidden_states=words, pooled_projections=pooled
            ).sample
    assert mine == pytest.approx(float((answer - batch.target).square().mean()), rel=1e-4)


def test_sdxl_is_told_where_a_picture_was_cut() -> None:
    # 100 x 50 is scaled to 64 x 32 to cover 32 x 32, and 16 columns are left out on each side.
    assert middle_of(100, 50, (32, 32)) == (50, 100, 0, 16, 32, 32)
    assert middle_of(32, 32, (32, 32)) == (32, 32, 0, 0, 32, 32)


def test_flow_matching_goes_straight_from_picture_to_noise() -> None:
    flow = get_family("stable_diffusion_3").objective({"shift": 3.0})
    where = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    times = flow.times(where)
    assert bool(((times > 0) & (times < 1000)).all())
    # The middle of the logit-normal distribution, shifted: 3 * 0.5 / (1 + 2 * 0.5).
    assert times.median().item() == pytest.approx(750, abs=5)
    latents, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    there = torch.tensor([0.0, 500.0, 1000.0])
    noisy = flow.diffuse(latents, noise, there)
    torch.testing.assert_close(noisy[0], latents[0])
    torch.testing.assert_close(noisy[2], noise[2])
    back = get_family("stable_diffusion_3").original(None, noisy[1], flow.target(latents, noise, there)[1], there[1])
    torch.testing.assert_close(back, latents[1])
