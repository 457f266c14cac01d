"""Steps, orders, learning rates, and what chance decides."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from services.diffusion.objective import schedule_of
from services.trainer.domain import Method, Schedule
from services.trainer.worker.data import Item, crop, needs_enlarging
from services.trainer.worker.draws import draw_step
from services.trainer.worker.methods import captions_for
from services.trainer.worker.plan import make_plan
from tests.trainer.worker.conftest import make_config


@pytest.mark.parametrize(
    ("images", "batch", "accumulation", "epochs", "max_steps", "expected"),
    [(10, 4, 1, 3, None, 9), (10, 4, 2, 3, None, 6), (1, 4, 1, 2, None, 2), (8, 4, 1, 1, None, 2), (10, 4, 1, 3, 5, 5)],
)
def test_steps_are_the_epochs_batches_unless_a_number_is_asked_for(
    images: int, batch: int, accumulation: int, epochs: int, max_steps: int | None, expected: int
) -> None:
    config = make_config(batch_size=batch, gradient_accumulation_steps=accumulation, epochs=epochs, max_steps=max_steps)
    plan = make_plan(config, images)
    assert plan.total_steps == expected
    assert plan.epoch_of(plan.total_steps) == plan.total_epochs


def test_every_epoch_sees_every_picture_once_in_an_order_of_its_own() -> None:
    plan = make_plan(make_config(batch_size=4, epochs=3), 10)
    epochs: dict[int, list[int]] = {}
    for step in range(1, plan.total_steps + 1):
        epochs.setdefault(plan.epoch_of(step), []).extend(plan.images_of(step))
    assert [sorted(seen) for seen in epochs.values()] == [list(range(10))] * 3
    assert epochs[1] != epochs[2]
    again = make_plan(make_config(batch_size=4, epochs=3), 10)
    assert [row for step in (4, 5, 6) for row in again.images_of(step)] == epochs[2]


def test_each_batch_comes_out_of_one_bucket_and_every_picture_once_an_epoch() -> None:
    buckets = (0, 1, 1, 0, 2, 1, 0, 0, 1, 0)
    plan = make_plan(make_config(batch_size=3, gradient_accumulation_steps=2, epochs=4), 10, buckets)
    assert plan.steps_per_epoch == 3, "2 + 2 + 1 batches, two a step"
    orders = []
    for epoch in range(4):
        batches = [batch for step in range(3) for batch in plan.batches_of(epoch * 3 + step + 1)]
        assert all(len({buckets[row] for row in batch}) == 1 for batch in batches)
        assert sorted(row for batch in batches for row in batch) == list(range(10))
        orders.append([buckets[batch[0]] for batch in batches])
    assert len({tuple(order) for order in orders}) > 1, "the buckets' order is random, too"


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_learning_rate_rises_over_the_warm_up_and_then_follows_its_schedule(schedule: Schedule) -> None:
    plan = make_plan(make_config(learning_rate=0.1, max_steps=12, warmup_steps=4, schedule=schedule), 10)
    rates = [plan.learning_rate_at(step) for step in range(1, 14)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    middle, end = {Schedule.CONSTANT: (0.1, 0.1), Schedule.LINEAR: (0.05, 0.0), Schedule.COSINE: (0.05, 0.0)}[schedule]
    assert rates[8] == pytest.approx(middle)
    assert rates[12] == pytest.approx(end, abs=1e-12)
    if schedule is Schedule.COSINE:
        assert rates[6] == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_and_noisy_latents_are_those_of_diffusers(prediction: str) -> None:
    ddpm = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    schedule = schedule_of(ddpm.config)
    latents, noise = torch.randn(2, 4, 4, 8, 8).unbind(0)
    timesteps = torch.tensor([0, 10, 500, 999])
    expected = {"epsilon": noise, "v_prediction": ddpm.get_velocity(latents, noise, timesteps), "sample": latents}
    torch.testing.assert_close(schedule.diffuse(latents, noise, timesteps), ddpm.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), expected[prediction])


def test_min_snr_weights_are_the_papers() -> None:
    timesteps = torch.arange(0, 1000, 37)
    for prediction in ("epsilon", "v_prediction", "sample"):
        ddpm = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
        snr = compute_snr(ddpm, timesteps)
        clipped = torch.minimum(snr, torch.full_like(snr, 5.0))
        expected = {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}[prediction]
        weights = schedule_of(ddpm.config).min_snr_weights(timesteps, 5.0)
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
        assert schedule_of(ddpm.config).min_snr_weights(timesteps, 0.0).eq(1).all()


@pytest.mark.parametrize(("prediction", "expected"), [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)])
def test_min_snr_weights_are_finite_where_the_schedule_ends_in_pure_noise(prediction: str, expected: float) -> None:
    ddpm = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, rescale_betas_zero_snr=True)
    schedule = schedule_of(ddpm.config)
    assert float(schedule.signal[999]) < 1e-6
    assert float(schedule.min_snr_weights(torch.tensor([999]), 5.0)) == pytest.approx(expected, abs=1e-6)


def test_half_of_the_pictures_are_mirrored_and_the_asked_share_of_captions_left_out() -> None:
    draws = draw_step(3, 1, 4000, (1, 2, 2), flip=True, caption_dropout=0.2, noise_offset=0.0)
    assert draws.flipped.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.captionless.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert draws.where.mean().item() == pytest.approx(0.5, abs=0.02)
    both = (draws.flipped & draws.captionless).float().mean().item()
    assert both == pytest.approx(0.1, abs=0.03)
    plain = draw_step(3, 1, 4000, (1, 2, 2), flip=False, caption_dropout=0.0, noise_offset=0.0)
    assert not plain.flipped.any()
    assert not plain.captionless.any()
    assert torch.equal(plain.noise, draws.noise)
    assert torch.equal(plain.where, draws.where)


def test_offset_noise_shifts_whole_channels() -> None:
    plain = draw_step(3, 1, 64, (4, 16, 16), flip=False, caption_dropout=0, noise_offset=0.0)
    shifted = draw_step(3, 1, 64, (4, 16, 16), flip=False, caption_dropout=0, noise_offset=0.1)
    shift = shifted.noise - plain.noise
    assert float(shift.std(dim=(2, 3)).max()) < 1e-6
    assert float(shift.mean(dim=(2, 3)).std()) == pytest.approx(0.1, rel=0.2)


def test_the_trigger_word_stands_before_every_caption_that_lacks_it() -> None:
    config = make_config(trigger_word="inkstyle")
    captions = captions_for(Method.LORA, config, ["red apple", "", "an inkstyle cat"])
    assert captions == ["inkstyle, red apple", "inkstyle", "an inkstyle cat"]
    assert captions_for(Method.LORA, make_config(), ["red apple"]) == ["red apple"]


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (63, 200), (301, 200), (32, 40), (1000, 65)])
def test_pictures_become_the_middle_square_of_the_wanted_side(size: tuple[int, int]) -> None:
    from PIL import Image

    picture = Image.new("RGB", size, (10, 20, 30))
    square = crop(picture, 64, 64)
    assert square.size == (64, 64)
    assert square.getpixel((32, 32)) == (10, 20, 30)
    assert needs_enlarging(Item("", "", "", *size), 64) == (min(size) < 64)


def test_a_picture_that_fits_keeps_its_pixels() -> None:
    import numpy
    from PIL import Image

    pixels = numpy.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=numpy.uint8)
    square = numpy.array(crop(Image.fromarray(pixels), 64, 64))
    assert (square == pixels[:, 16:80]).all()
