"""Each technique does what its paper says, on a tiny model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from services.common.errors import InvalidArgument
from services.diffusion.load import Components
from services.diffusion.objective import schedule_of
from services.trainer.domain import LoraConfig, Method, Optimizer, Prediction
from services.trainer.worker.average import Average
from services.trainer.worker.cache import reworded
from services.trainer.worker.data import Pictures
from services.trainer.worker.loop import batch_loss, step_batches
from services.trainer.worker.methods import captions_for, make_trainee, save_weights
from services.trainer.worker.plan import make_plan
from services.trainer.worker.state import make_learner
from tests.tiny import make_tiny_pipeline
from tests.trainer.worker.conftest import make_config, make_set, run, weights_of
from tests.trainer.worker.test_loop import fixed_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

Load = Callable[[], Components]

RATES = {Optimizer.ADAMW: 3e-3, Optimizer.ADAMW_8BIT: 3e-3, Optimizer.PRODIGY: 1.0, Optimizer.ADAFACTOR: 3e-3}


STEPS = dict.fromkeys(Optimizer, 60) | {Optimizer.PRODIGY: 300}  # which begins with a step size of 1e-6


@pytest.mark.parametrize("optimizer", RATES)
def test_every_optimizer_learns(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator", optimizer: Optimizer
) -> None:
    config = make_config(batch_size=6, max_steps=STEPS[optimizer], optimizer=optimizer, learning_rate=RATES[optimizer])
    components = load()
    before = fixed_loss(load(), pixels, config)
    run(components, pixels, config, accelerator, Method.FULL)
    assert fixed_loss(components, pixels, config) < 0.9 * before


def test_eight_bits_take_a_quarter_of_the_memory(load: Load, pixels: torch.Tensor, accelerator: "Accelerator") -> None:
    def held(optimizer: Optimizer) -> int:
        components = load()
        config = make_config(max_steps=1, optimizer=optimizer)
        trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
        learner = make_learner(trainee, config, make_plan(config, 6), accelerator)
        for parameter in learner.parameters:
            parameter.grad = torch.ones_like(parameter)
        learner.optimizer.step()
        state = learner.optimizer.state.values()
        large = [memory for memory in state if any(getattr(each, "numel", int)() >= 4096 for each in memory.values())]
        tensors = {id(each): each for memory in large for each in memory.values() if isinstance(each, torch.Tensor)}
        return sum(each.nbytes for each in tensors.values())

    assert held(Optimizer.ADAMW_8BIT) < 0.3 * held(Optimizer.ADAMW)


def test_lora_plus_moves_the_second_matrix_faster(load: Load, accelerator: "Accelerator") -> None:
    config = make_config(lora=LoraConfig(rank=2, plus_ratio=16.0), weight_decay=0.0)
    trainee = make_trainee(load(), Method.LORA, config, frozen=torch.float32)
    learner = make_learner(trainee, config, make_plan(config, 6), accelerator)
    named = [(name, each) for name, each in trainee.components.denoiser.named_parameters() if ".lora_" in name]
    before = {name: each.detach().clone() for name, each in named}
    for group in learner.optimizer.param_groups:
        group["lr"] = 1e-3 * group["ratio"]
    for parameter in learner.parameters:
        parameter.grad.fill_(1.0)  # type: ignore[union-attr]  # a flat parameter's is always there
    learner.optimizer.step()
    for name, each in named:
        # Adam's first step is the learning rate, whatever the gradient.
        torch.testing.assert_close((each - before[name]).abs().mean().item(), 16e-3 if ".lora_B." in name else 1e-3)


@pytest.mark.parametrize("kind", [{"dora": True}, {"rslora": True}, {"dora": True, "rslora": True, "alpha": 2.0}])
def test_dora_and_rslora_draw_in_plain_diffusers_what_they_draw_here(
    load: Load,
    pipeline: Path,
    pixels: torch.Tensor,
    accelerator: "Accelerator",
    tmp_path: Path,
    kind: dict[str, object],
) -> None:
    config = make_config(max_steps=6, learning_rate=2e-2, lora=LoraConfig(rank=4, **kind))  # type: ignore[arg-type]
    trainee, _ = run(load(), pixels, config, accelerator)
    trainee.set_mode(training=False)
    (file,) = save_weights(trainee, tmp_path, {})
    plain = StableDiffusionPipeline.from_pretrained(pipeline)
    plain.load_lora_weights(tmp_path, weight_name=file.name)
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 32))
    with torch.no_grad():
        ours = trainee.components.denoiser(*inputs).sample
        theirs = plain.unet(*inputs).sample
        untrained = load().denoiser(*inputs).sample
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    assert float((ours - untrained).abs().max()) > 1e-2


def test_rslora_scales_by_the_root_of_the_rank(load: Load) -> None:
    scalings = []
    for rslora in (False, True):
        config = make_config(lora=LoraConfig(rank=16, alpha=8.0, rslora=rslora))
        unet = make_trainee(load(), Method.LORA, config, frozen=torch.float32).components.denoiser
        scalings.append({layer.scaling["default"] for layer in unet.modules() if hasattr(layer, "scaling")})
    assert scalings == [{0.5}, {2.0}]


def test_the_average_follows_the_weights_and_gives_them_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    average = Average([parameter], decay=0.9)
    expected = torch.zeros(3)
    for step in range(1, 200):
        parameter.data.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    own = parameter.detach().clone()
    with average.applied():
        torch.testing.assert_close(parameter.detach(), expected)
    assert torch.equal(parameter, own)


def test_the_saved_model_is_the_average(
    load: Load, pixels: torch.Tensor, accelerator: "Accelerator", tmp_path: Path
) -> None:
    config = make_config(max_steps=1, ema_decay=0.5)
    trainee = make_trainee(load(), Method.LORA, config, frozen=torch.float32)
    learner = make_learner(trainee, config, make_plan(config, 6), accelerator)
    before = weights_of(trainee)
    with learner.averaged():
        assert all(torch.equal(one, two) for one, two in zip(before, weights_of(trainee), strict=True))
    for parameter in learner.parameters:
        parameter.data.add_(1.0)
    assert learner.average is not None
    learner.average.update(100)
    with learner.averaged():
        # Every tensor of the LoRA is a view of the one that is averaged.
        for one, two in zip(before, weights_of(trainee), strict=True):
            torch.testing.assert_close(two, one + 0.5)
    for one, two in zip(before, weights_of(trainee), strict=True):
        torch.testing.assert_close(two, one + 1.0)


def test_zero_terminal_snr_is_learnt_and_saved_with_the_weights(
    tmp_path: Path, pixels: torch.Tensor, accelerator: "Accelerator"
) -> None:
    from services.diffusion.load import load_components

    base = make_tiny_pipeline(tmp_path / "base", prediction_type="epsilon", zero_terminal_snr=False)

    def loaded() -> Components:
        return load_components([base], family="stable_diffusion", device="cpu", dtype=torch.float32)

    config = make_config(max_steps=2, prediction_type=Prediction.V_PREDICTION, zero_terminal_snr=True)
    trainee, _ = run(loaded(), pixels, config, accelerator, Method.FULL)
    schedule = schedule_of(trainee.components.scheduler_config)
    assert schedule.prediction == "v_prediction"
    assert float(schedule.signal[-1]) == 0.0, "the last step is pure noise"
    saved = save_weights(trainee, tmp_path / "trained", {})
    assert Path("scheduler/scheduler_config.json") in saved
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "trained/scheduler")
    assert (scheduler.config.prediction_type, scheduler.config.timestep_spacing) == ("v_prediction", "trailing")
    assert float(scheduler.alphas_cumprod[-1]) == 0.0
    drawn = load_components([tmp_path / "trained", base], family="stable_diffusion", device="cpu", dtype=torch.float32)
    assert drawn.scheduler_config["rescale_betas_zero_snr"], "the generator draws with it"
    with pytest.raises(InvalidArgument, match=r"config\.zero_terminal_snr"):
        make_trainee(loaded(), Method.FULL, make_config(zero_terminal_snr=True), frozen=torch.float32)
    untouched = make_trainee(loaded(), Method.FULL, make_config(), frozen=torch.float32)
    assert not untouched.has_own_schedule


def test_a_masked_place_teaches_nothing(load: Load, pixels: torch.Tensor, accelerator: "Accelerator") -> None:
    from services.trainer.worker.cache import LatentsBuilder

    config = make_config(batch_size=6, random_flip=True)
    masks = torch.zeros(6, 1, *pixels.shape[2:])
    masks[:, :, :, : pixels.shape[3] // 2] = 1.0
    masks[5] = 0.0  # transparent all over
    components = load()
    builder = LatentsBuilder(components, flip=True)
    builder.add(range(6), Pictures(pixels, masks))
    plain = make_set(components, pixels, config)
    latents, homes, places = builder.build()
    pictures = replace(plain, latents=latents, homes=homes, places=places)
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    (batch,) = step_batches(1, pictures, schedule_of(components.scheduler_config), config, make_plan(config, 6))
    assert batch.mask is not None
    torch.testing.assert_close(batch.mask.mean(dim=(1, 2, 3)), torch.ones(6), msg="each picture counts the same")
    with torch.no_grad():
        loss = batch_loss(trainee, pictures, batch)
        spoilt = torch.where(batch.mask > 0, batch.target, batch.target + 100)
        assert torch.equal(batch_loss(trainee, pictures, replace(batch, target=spoilt)), loss)
        inside = torch.where(batch.mask > 0, batch.target + 100, batch.target)
        assert batch_loss(trainee, pictures, replace(batch, target=inside)) > 1000
    row = batch.rows.tolist().index(5)
    assert torch.equal(batch.mask[row], torch.ones_like(batch.mask[row])), (
        "what is transparent all over counts all over"
    )
    flips = {bool(mask[0, 0, 0] > 0) for row, mask in zip(batch.rows.tolist(), batch.mask, strict=True) if row != 5}
    assert flips == {True, False}, "a mirrored picture has its mask mirrored"


def test_pictures_of_several_sizes_are_learnt_as_if_each_size_were_alone(
    load: Load, accelerator: "Accelerator"
) -> None:
    from services.trainer.worker.cache import LatentsBuilder

    components = load()
    config = make_config(batch_size=2, epochs=1)
    builder = LatentsBuilder(components, flip=False)
    generator = torch.Generator().manual_seed(0)
    square, wide = (torch.rand((3, 3, *size), generator=generator) * 2 - 1 for size in ((32, 32), (16, 48)))
    builder.add([0, 2, 4], Pictures(square))
    builder.add([1, 3, 5], Pictures(wide))
    latents, homes, places = builder.build()
    plain = make_set(components, torch.zeros(6, 3, 32, 32), config)
    pictures = replace(plain, latents=latents, homes=homes, places=places)
    plan = make_plan(config, 6, pictures.buckets)
    schedule = schedule_of(components.scheduler_config)
    seen: list[int] = []
    for step in range(1, plan.total_steps + 1):
        for batch in step_batches(step, pictures, schedule, config, plan):
            assert batch.noisy.shape[2:] == ((8, 8) if batch.rows[0] % 2 == 0 else (4, 12))
            seen += batch.rows.tolist()
    assert sorted(seen) == list(range(6))
    trainee = make_trainee(components, Method.FULL, config, frozen=torch.float32)
    with torch.no_grad():
        assert all(
            batch_loss(trainee, pictures, batch) > 0 for batch in step_batches(1, pictures, schedule, config, plan)
        )


def test_tags_are_shuffled_and_the_first_ones_stay() -> None:
    caption = "inkstyle, a cat, red, small, on a mat"
    said = {reworded(caption, number, keep=2) for number in range(200)}
    assert len(said) == 6
    assert all(each.startswith("inkstyle, a cat, ") for each in said)
    assert {tuple(sorted(each.split(", "))) for each in said} == {tuple(sorted(caption.split(", ")))}
    assert {reworded("one\ntwo, three", number, keep=9) for number in range(50)} == {"one", "two, three"}
    assert reworded("", 3, keep=0) == ""


def test_each_line_of_a_caption_is_a_caption_of_its_own(load: Load, pixels: torch.Tensor) -> None:
    components = load()
    config = make_config(batch_size=6)
    pictures = make_set(components, pixels, config, ("red apple\nblue cat\n\nline art", *(["dog"] * 5)))
    alone = make_set(components, pixels, config, ("red apple", "blue cat", "line art", "dog", "dog", "dog"))
    rows, said = torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(
        pictures.captions(rows, said, torch.tensor([0, 1, 5])),
        alone.captions(torch.tensor([0, 1, 2]), said, torch.tensor([7, 8, 9])),
    )
    lines = captions_for(Method.LORA, make_config(trigger_word="ink"), ["red apple\nblue cat"])
    assert lines == ["ink, red apple\nink, blue cat"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler at work
def test_compiled_blocks_learn_the_same(load: Load, pixels: torch.Tensor, accelerator: "Accelerator") -> None:
    config = make_config(max_steps=2)
    plain, _ = run(load(), pixels, config, accelerator)
    compiled, _ = run(load(), pixels, replace(config, compile=True), accelerator)
    block = next(
        each for each in compiled.components.denoiser.modules() if type(each).__name__ == "BasicTransformerBlock"
    )
    assert block._compiled_call_impl is not None
    for one, two in zip(weights_of(plain), weights_of(compiled), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
