"""The training loop on a tiny model: what it learns, what it leaves alone, and that it does the same twice."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import DDPMScheduler

from services.diffusion.encode import encode_prompts
from services.diffusion.load import Components
from services.diffusion.objective import schedule_of
from services.trainer.domain import DreamBoothConfig, LoraConfig, Method, Progress, TrainingConfig
from services.trainer.worker.loop import batch_loss, step_batches, train
from services.trainer.worker.meter import LossNotFinite, Meter
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.plan import make_plan
from services.trainer.worker.state import make_learner
from tests.trainer.worker.conftest import CAPTIONS, make_config, make_set, run, weights_of

if TYPE_CHECKING:
    from accelerate import Accelerator

Load = Callable[[], Components]


def fixed_loss(components: Components, pixels: torch.Tensor, config: TrainingConfig) -> float:
    """The loss over always the same draws, without training."""
    pictures = make_set(components, pixels, config)
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    schedule, plan = schedule_of(components.scheduler_config), make_plan(config, len(pixels))
    with torch.no_grad():
        batches = [
            batch for step in (901, 902, 903, 904) for batch in step_batches(step, pictures, schedule, config, plan)
        ]
        return sum(float(batch_loss(trainee, pictures, batch)) for batch in batches) / 4


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_loss_falls_when_a_few_pictures_are_learnt_by_heart(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator", method: Method
) -> None:
    rank = LoraConfig(rank=16, target_modules=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"))
    config = make_config(learning_rate=3e-3, batch_size=6, max_steps=60, lora=rank)
    components = load()
    before = fixed_loss(load(), pixels, config)
    _, progress = run(components, pixels, config, accelerator, method)
    after = fixed_loss(components, pixels, config)
    assert after < 0.85 * before
    assert progress[-1].smoothed_loss < progress[0].smoothed_loss


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    config = make_config(
        max_steps=4, random_flip=True, caption_dropout=0.3, noise_offset=0.1, lora=LoraConfig(rank=4, dropout=0.2)
    )
    torch.manual_seed(1)
    first = weights_of(run(load(), pixels, config, accelerator)[0])
    torch.manual_seed(2)
    again = weights_of(run(load(), pixels, config, accelerator)[0])
    other = weights_of(run(load(), pixels, replace(config, seed=8), accelerator)[0])
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_accumulated_batches_equal_the_bigger_batch(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    whole = make_config(batch_size=4, max_steps=3, snr_gamma=5.0, random_flip=True, caption_dropout=0.5)
    parts = replace(whole, batch_size=2, gradient_accumulation_steps=2)
    together, big = run(load(), pixels, whole, accelerator)
    accumulated, small = run(load(), pixels, parts, accelerator)
    for one, two in zip(big, small, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for first, second in zip(weights_of(together), weights_of(accumulated), strict=True):
        torch.testing.assert_close(first, second, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("method", "text_encoder", "learns"),
    [
        (Method.LORA, False, ("unet lora",)),
        (Method.LORA, True, ("unet lora", "text_encoder lora")),
        (Method.FULL, False, ("unet",)),
        (Method.FULL, True, ("unet", "text_encoder")),
    ],
)
def test_only_the_chosen_parameters_change(
    load: Load,
    pixels: torch.Tensor,
    accelerator: "Accelerator",
    method: Method,
    text_encoder: bool,
    learns: tuple[str, ...],
) -> None:
    components, fresh = load(), load()
    config = make_config(max_steps=2, train_text_encoder=text_encoder, batch_size=6, learning_rate=1e-2)
    trainee, _ = run(components, pixels, config, accelerator, method)
    changed = set()
    for name in ("unet", "text_encoder", "vae"):
        before = dict(fresh.parts[name].named_parameters())
        for key, parameter in components.parts[name].named_parameters():
            if ".lora_" in key:
                if "lora_B" in key and bool(parameter.abs().max() > 0):
                    changed.add(f"{name} lora")
            elif not torch.equal(parameter, before[key.replace(".base_layer", "")]):
                changed.add(name)
    assert changed == set(learns)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in trainee.parameters)


def test_cached_latents_and_words_give_the_loss_of_encoding_each_time(load: Load, pixels: torch.Tensor) -> None:
    components = load()
    config = make_config(random_flip=True, batch_size=6)
    pictures = make_set(components, pixels, config)
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    schedule = schedule_of(components.scheduler_config)
    ddpm = DDPMScheduler.from_config(components.scheduler_config)
    plan = make_plan(config, 6)
    for step in (1, 2):
        (batch,) = step_batches(step, pictures, schedule, config, plan)
        from services.trainer.worker.draws import draw_step

        draws = draw_step(7, step, 6, pictures.latents[0].shape, flip=True, caption_dropout=0, noise_offset=0)
        rows = batch.rows.tolist()
        images = torch.stack(
            [pixels[row].flip(-1) if flip else pixels[row] for row, flip in zip(rows, draws.flipped, strict=True)]
        )
        assert draws.flipped.any()
        assert not draws.flipped.all()
        with torch.no_grad():
            posterior = components.vae.encode(images).latent_dist
            latents = (posterior.mean + posterior.std * draws.jitter) * components.vae.config.scaling_factor
            timesteps = schedule.times(draws.where)
            noisy = ddpm.add_noise(latents, draws.noise, timesteps)
            embeddings = encode_prompts(components, [CAPTIONS[row] for row in rows])["words"]
            prediction = components.denoiser(noisy, timesteps, encoder_hidden_states=embeddings).sample
            target = ddpm.get_velocity(latents, draws.noise, timesteps)
            expected = torch.nn.functional.mse_loss(prediction, target)
            cached = batch_loss(trainee, pictures, batch)
        assert float(cached) == pytest.approx(float(expected), rel=1e-4)


def test_prior_preservation_adds_the_weighted_loss_of_the_class(load: Load, pixels: torch.Tensor) -> None:
    components = load()
    dreambooth = DreamBoothConfig("photo of sks dog", "a dog", prior_preservation=True, prior_loss_weight=0.3)
    config = make_config(batch_size=4, dreambooth=dreambooth)
    pictures = make_set(components, pixels, config, num_class_images=2)
    trainee = make_trainee(components, Method.DREAMBOOTH, config, frozen=torch.float32)
    schedule, plan = schedule_of(components.scheduler_config), make_plan(config, 4)
    (batch,) = step_batches(1, pictures, schedule, config, plan)
    assert sorted(batch.rows[:4].tolist()) == [0, 1, 2, 3]
    assert batch.rows[4:].tolist() == [4, 5, 4, 5]
    with torch.no_grad():
        loss = float(batch_loss(trainee, pictures, batch))
        embeddings = pictures.captions(batch.rows, batch.captionless, batch.wording)["words"]
        prediction = components.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=embeddings).sample
    errors = (prediction - batch.target) ** 2
    assert loss == pytest.approx(float(errors[:4].mean() + 0.3 * errors[4:].mean()), rel=1e-5)


def test_a_step_of_an_epochs_rest_takes_the_mean_over_what_is_left(load: Load, pixels: torch.Tensor) -> None:
    components = load()
    config = make_config(batch_size=4)
    pictures = make_set(components, pixels, config)
    schedule, plan = schedule_of(components.scheduler_config), make_plan(config, 6)
    first, second = (list(step_batches(step, pictures, schedule, config, plan)) for step in (1, 2))
    assert [len(batch.rows) for batch in (*first, *second)] == [4, 2]
    assert sorted(torch.cat([first[0].rows, second[0].rows]).tolist()) == list(range(6))
    assert second[0].weights.tolist() == pytest.approx([0.5, 0.5])


def test_leaving_the_generator_ends_training_within_one_step(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    components = load()
    config = make_config(max_steps=1000)
    pictures = make_set(components, pixels, config)
    trainee = make_trainee(components, Method.LORA, config, frozen=torch.float32)
    plan, passes = make_plan(config, 6), []
    components.denoiser.register_forward_hook(lambda *_: passes.append(1))
    schedule = schedule_of(components.scheduler_config)
    steps = train(
        trainee,
        make_learner(trainee, config, plan, accelerator),
        pictures,
        schedule,
        config,
        plan,
        accelerator=accelerator,
        meter=Meter(plan, memory=lambda: (1, 2)),
        settle_at=lambda step: True,
    )
    for _ in range(3):
        next(steps)
    steps.close()  # type: ignore[attr-defined]  # an Iterator by its type, a generator by nature
    assert len(passes) == 3


@pytest.mark.parametrize("poison", ["weights", "gradient"])
def test_a_loss_that_is_not_finite_fails_at_once_naming_the_step(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator", poison: str
) -> None:
    components = load()
    config = make_config(max_steps=50)
    pictures = make_set(components, pixels, config)
    trainee = make_trainee(components, Method.LORA, config, frozen=torch.float32)
    plan, schedule = make_plan(config, 6), schedule_of(components.scheduler_config)
    meter = Meter(plan, memory=lambda: (1, 2))
    steps = train(
        trainee,
        make_learner(trainee, config, plan, accelerator),
        pictures,
        schedule,
        config,
        plan,
        accelerator=accelerator,
        meter=meter,
        settle_at=lambda step: True,
    )
    assert isinstance(next(steps), Progress)
    if poison == "weights":
        trainee.parameters[0].data.fill_(math.nan)
    else:
        trainee.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(LossNotFinite, match="step 2 "):
        next(steps)


def test_gradient_checkpointing_changes_memory_and_not_the_weights(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    config = make_config(max_steps=2, train_text_encoder=True)
    plain, _ = run(load(), pixels, config, accelerator)
    components = load()
    checkpointed, _ = run(components, pixels, replace(config, gradient_checkpointing=True), accelerator)
    assert components.denoiser.is_gradient_checkpointing
    assert components.text_encoders[0].is_gradient_checkpointing
    for one, two in zip(weights_of(plain), weights_of(checkpointed), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_progress_counts_steps_epochs_and_images(load: Load, pixels: torch.Tensor, accelerator: "Accelerator") -> None:
    config = make_config(batch_size=4, epochs=3)
    _, progress = run(load(), pixels, config, accelerator)
    assert [each.step for each in progress] == [1, 2, 3, 4, 5, 6]
    assert [each.epoch for each in progress] == [1, 1, 2, 2, 3, 3]
    assert {(each.total_steps, each.total_epochs) for each in progress} == {(6, 3)}
    assert all(each.images_per_second > 0 and each.grad_norm > 0 for each in progress)
    assert progress[-1].remaining_millis == 0
    assert progress[0].remaining_millis > 0
    elapsed = [each.elapsed_millis for each in progress]
    assert elapsed == sorted(elapsed)
