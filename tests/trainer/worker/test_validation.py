"""Pictures held out: which, what is measured on them, and what follows."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.common.errors import FailedPrecondition
from services.diffusion.load import Components
from services.diffusion.objective import schedule_of
from services.trainer.domain import (
    Checkpoint,
    CheckpointConfig,
    Loading,
    LoadingStage,
    Log,
    LoraConfig,
    Method,
    Progress,
    Report,
    Trained,
    Validation,
    ValidationConfig,
)
from services.trainer.worker.data import Item
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.validation import Judge, hold_out, validation_loss
from tests.trainer.worker.conftest import make_config, make_set
from tests.trainer.worker.test_job import House, house, last, tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["house"]  # a fixture


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.floats(0.01, 0.5), st.integers(0, 100))
def test_what_looks_alike_stays_on_one_side(likeness: list[int], share: float, seed: int) -> None:
    if len(set(likeness)) < 2:
        with pytest.raises(FailedPrecondition, match="near-duplicates"):
            hold_out(likeness, share, seed)
        return
    held = hold_out(likeness, share, seed)
    assert 0 < len(held) < len(likeness)
    assert not {likeness[row] for row in held} & {group for row, group in enumerate(likeness) if row not in held}
    smallest = min(likeness.count(group) for group in likeness)
    assert len(held) <= max(1, round(share * len(likeness)), smallest)
    assert held == hold_out(likeness, share, seed)


def test_a_share_of_different_pictures_is_held_out() -> None:
    assert len(hold_out(range(100), 0.2, 7)) == 20
    assert hold_out(range(100), 0.2, 7) != hold_out(range(100), 0.2, 8)


def measured(components: Components, pixels: torch.Tensor, accelerator: "Accelerator", **changes: object) -> float:
    config = make_config(random_flip=True, caption_dropout=0.5, noise_offset=0.1, snr_gamma=5.0, **changes)
    pictures = replace(make_set(components, pixels, config), num_images=4, num_held_out=2)
    trainee = make_trainee(components, Method.LORA, config, frozen=torch.float32)
    passes = validation_loss(trainee, pictures, schedule_of(components.scheduler_config), config, accelerator)
    while True:
        try:
            next(passes)
        except StopIteration as end:
            return float(end.value)


def test_equal_weights_have_equal_losses_whatever_the_batches(
    load: Callable[[], Components], pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    torch.manual_seed(1)
    first = measured(load(), pixels, accelerator, batch_size=8)
    torch.manual_seed(2)
    assert measured(load(), pixels, accelerator, batch_size=8) == first
    assert measured(load(), pixels, accelerator, batch_size=3) == pytest.approx(first, rel=1e-5)
    spoilt = pixels.clone()
    spoilt[:4] = 0
    assert measured(load(), spoilt, accelerator, batch_size=8) == first, "only those held out are measured"
    spoilt[5] = 0
    assert measured(load(), spoilt, accelerator, batch_size=8) != first


def test_the_judge_knows_the_best_and_loses_patience() -> None:
    judge = Judge(patience=2)
    said = [judge.note(step, loss, 4).is_best for step, loss in [(1, 0.5), (2, 0.4), (3, 0.4), (4, 0.6)]]
    assert said == [True, True, False, False]
    assert judge.best == (2, 0.4)
    assert judge.is_exhausted
    assert not Judge(2, [(1, 0.5), (2, 0.6)]).is_exhausted
    assert not Judge(0, [(step, float(step)) for step in range(50)]).is_exhausted


def reports_of(house: House, *, rate: float, warmup: int = 0, **validation: object) -> list[Report]:
    config = make_config(
        max_steps=12,
        learning_rate=rate,
        warmup_steps=warmup,
        checkpoints=CheckpointConfig(interval_steps=100),
        validation=ValidationConfig(share=0.4, **validation),  # type: ignore[arg-type]  # a test's choice
        lora=LoraConfig(rank=8, target_modules=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")),
    )
    return [report for report in house.run(config) if report is not None]


def test_training_ends_early_and_the_model_is_the_best_checkpoint(house: House) -> None:
    # A rate that rises so high spoils the model after a few good steps.
    reports = reports_of(house, rate=0.3, warmup=6, interval_steps=1, patience=3, use_best=True)
    losses = {report.step: report.loss for report in reports if isinstance(report, Validation)}
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 3 < 12, "three measurements since the best"
    assert [report.step for report in reports if isinstance(report, Progress)][-1] == max(losses)
    saved = {report.step: report for report in reports if isinstance(report, Checkpoint)}
    assert saved[best].validation_loss == losses[best]
    trained = last(reports)
    assert (trained.step, trained.files) == (best, saved[best].files)
    marked = [report.step for report in reports if isinstance(report, Validation) and report.is_best]
    assert marked[-1] == best
    assert set(saved) == set(marked), "every best so far is kept"
    logs = [report.message for report in reports if isinstance(report, Log)]
    assert any("held out" in line for line in logs)
    assert any(f"the checkpoint of step {best}" in line for line in logs)


def test_without_patience_and_best_the_last_step_is_the_model(house: House) -> None:
    reports = reports_of(house, rate=0.3, interval_steps=5)
    assert [report.step for report in reports if isinstance(report, Validation)] == [5, 10, 12]
    assert last(reports).step == 12
    again = last(reports_of(house, rate=0.3, interval_steps=1, use_best=False))
    assert tensors(house, again) == tensors(house, last(reports)), "measuring changes nothing that is trained"


def test_the_last_step_is_the_model_where_it_is_the_best(house: House) -> None:
    reports = reports_of(house, rate=1e-3, interval_steps=6, use_best=True)
    losses = {report.step: report.loss for report in reports if isinstance(report, Validation)}
    if losses[12] < losses[6]:
        assert last(reports).step == 12
        assert not [report for report in reports if isinstance(report, Checkpoint) and report.step == 12]
    else:
        assert last(reports).step == 6


def test_copies_of_one_picture_cannot_be_validated_on(house: House) -> None:
    def copy(quality: int) -> Item:
        data = io.BytesIO()
        blots = Image.frombytes("RGB", (4, 4), random.Random(3).randbytes(48))
        blots.resize((64, 64), Image.Resampling.BICUBIC).save(data, "JPEG", quality=quality)
        return Item(house.places.blobs.put(data.getvalue()), f"{quality}.jpg", "a cat", 64, 64)

    alike = replace(house, items=tuple(copy(quality) for quality in (60, 70, 80, 90)))
    config = make_config(max_steps=1, validation=ValidationConfig(share=0.25))
    with pytest.raises(FailedPrecondition, match="all 4 are near-duplicates") as raised:
        list(alike.run(config))
    assert raised.value.reason == "NOTHING_TO_HOLD_OUT"
    stages = [report.stage for report in house.run(replace(config, max_steps=1)) if isinstance(report, Loading)]
    assert stages.index(LoadingStage.COMPARING_IMAGES) < stages.index(LoadingStage.CACHING_LATENTS)
    assert isinstance(list(house.run(config))[-1], Trained)
