"""A few steps of a job, on its own pictures and with its own shapes."""

import io
from dataclasses import replace

import numpy
import pytest
from PIL import Image

from services.trainer.domain import DreamBoothConfig, LoraConfig, Method, Optimizer, SampleConfig, ValidationConfig
from services.trainer.worker import dry_run, hardware
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.data import Item
from services.trainer.worker.dry_run import DoesNotFit, measure
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import JOB_ID, House, house

__all__ = ["house"]  # a fixture
pytestmark = pytest.mark.usefixtures("accelerator")


def assignment(house: House, method: Method = Method.LORA, **changes: object) -> Assignment:
    return Assignment(JOB_ID, method, make_config(**changes), "ab" * 32, (house.base,))


@pytest.fixture
def scratch(house: House) -> House:
    house.places.scratch.mkdir(parents=True, exist_ok=True)
    return house


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (Method.LORA, {"aspect_buckets": True, "masked_loss": True, "caption_shuffle": True}),
        (Method.LORA, {"samples": SampleConfig(("a cat",)), "train_text_encoder": True}),
        (Method.FULL, {"optimizer": Optimizer.ADAMW_8BIT, "ema_decay": 0.9, "gradient_checkpointing": True}),
        (
            Method.DREAMBOOTH,
            {"dreambooth": DreamBoothConfig("a sks dog", "a dog", prior_preservation=True, num_class_images=4)},
        ),
    ],
)
def test_every_kind_of_job_is_measured(scratch: House, method: Method, changes: dict[str, object]) -> None:
    wide = numpy.random.default_rng(9).integers(0, 256, (32, 64, 3), dtype=numpy.uint8)
    data = io.BytesIO()
    Image.fromarray(wide).save(data, "PNG")
    items = (*scratch.items, Item(scratch.places.blobs.put(data.getvalue()), "wide.png", "a cat", 64, 32))
    found = measure(assignment(scratch, method, epochs=2, **changes), items, scratch.places)
    assert (found.num_images, found.total_epochs) == (6, 2)
    assert found.total_steps == (2 * (3 + 1) if changes.get("aspect_buckets") else 2 * 3)
    assert 0 < found.memory_bytes < found.memory_total_bytes
    assert min(found.step_seconds, found.preparing_seconds, found.weights_bytes, found.state_bytes) > 0
    assert not list(scratch.places.scratch.iterdir()), "what was saved to be weighed is gone"


def test_a_class_that_is_a_dataset_takes_no_time_to_draw(scratch: House) -> None:
    class_of = DreamBoothConfig("a sks dog", "a dog", prior_preservation=True, num_class_images=1000)
    drawn = measure(assignment(scratch, Method.DREAMBOOTH, dreambooth=class_of), scratch.items, scratch.places)
    given = replace(class_of, class_dataset_id=9)
    read = measure(
        assignment(scratch, Method.DREAMBOOTH, dreambooth=given), scratch.items, scratch.places, scratch.items * 2
    )
    assert read.preparing_seconds < drawn.preparing_seconds / 10
    assert read.total_steps == drawn.total_steps


@pytest.mark.parametrize(("share", "images", "steps"), [(0.4, 3, 2), (0.01, 4, 2), (0.0, 5, 3)])
def test_pictures_held_out_are_no_steps(scratch: House, share: float, images: int, steps: int) -> None:
    config = {"epochs": 1, "validation": ValidationConfig(share=share), "lora": LoraConfig(rank=1)}
    found = measure(assignment(scratch, **config), scratch.items, scratch.places)
    assert (found.num_images, found.total_steps) == (images, steps)


def test_what_does_not_fit_is_refused_with_the_figures(scratch: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory_total", lambda device: 3_000_000)
    whole = assignment(scratch, Method.FULL)
    with pytest.raises(DoesNotFit, match=r"at least 0\.0 GB of memory on cpu, which has 0\.0 GB: train a LoRA"):
        measure(whole, scratch.items, scratch.places)
    monkeypatch.setattr(hardware, "memory_total", lambda device: 100_000_000)
    with pytest.raises(DoesNotFit, match=r"training needs [0-9]+\.[0-9] GB of memory on cpu, which has 0\.1 GB"):
        measure(whole, scratch.items, scratch.places)


def test_a_dry_step_changes_no_weight(scratch: House, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def remember(*arguments: object, **named: object) -> object:
        trainee = make(*arguments, **named)  # type: ignore[arg-type]  # handed on
        kept.append((trainee, [each.detach().clone() for each in trainee.parameters]))
        return trainee

    make = dry_run.make_trainee
    monkeypatch.setattr(dry_run, "make_trainee", remember)
    measure(assignment(scratch, weight_decay=0.0), replace(scratch).items, scratch.places)
    ((trainee, before),) = kept
    assert all(bool((one == two).all()) for one, two in zip(before, trainee.parameters, strict=True))
