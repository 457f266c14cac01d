"""The optimizer's step inside the backward pass, and its memory in eight bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from services.diffusion.load import Components
from services.trainer.domain import Method, Optimizer
from services.trainer.worker import fused
from services.trainer.worker.eight_bit import BLOCK, LEAST, EightBitAdamW, dynamic_code, pack, unpack
from services.trainer.worker.methods import make_trainee
from services.trainer.worker.plan import make_plan
from services.trainer.worker.state import make_learner
from tests.trainer.worker.conftest import make_config, run, weights_of

if TYPE_CHECKING:
    from accelerate import Accelerator

Load = Callable[[], Components]

OFF = 1e9  # a norm that clips nothing, and still wants all gradients


@pytest.mark.parametrize("optimizer", [Optimizer.ADAMW, Optimizer.ADAMW_8BIT, Optimizer.ADAFACTOR])
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}])
def test_a_step_inside_the_backward_pass_learns_what_one_behind_it_does(
    load: Load,
    pixels: torch.Tensor,
    accelerator: "Accelerator",
    monkeypatch: pytest.MonkeyPatch,
    optimizer: Optimizer,
    changes: dict[str, object],
) -> None:
    monkeypatch.setattr(fused, "GATHERED", 5000)  # as if the tiny model were large
    config = make_config(max_steps=4, optimizer=optimizer, train_text_encoder=True, **changes)
    behind, expected = run(load(), pixels, replace(config, max_grad_norm=OFF), accelerator, Method.FULL)
    inside, told = run(load(), pixels, replace(config, max_grad_norm=0.0), accelerator, Method.FULL)
    for one, two in zip(told, expected, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-6)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)
    for first, second in zip(weights_of(inside), weights_of(behind), strict=True):
        torch.testing.assert_close(first, second, atol=1e-7, rtol=1e-6)


def test_inside_the_backward_pass_the_gradients_are_never_all_there(
    load: Load, accelerator: "Accelerator", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "GATHERED", 5000)
    config = make_config(max_grad_norm=0.0)
    trainee = make_trainee(load(), Method.FULL, config, frozen=torch.float32)
    there: list[int] = []

    def count(parameter: torch.Tensor) -> None:
        there.append(sum(each.grad.numel() for each in trainee.parameters if each.grad is not None))

    for parameter in trainee.parameters:
        parameter.register_post_accumulate_grad_hook(count)
    learner = make_learner(trainee, config, make_plan(config, 6), accelerator)
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 32))
    loss = trainee.components.denoiser(*inputs).sample.square().mean()
    learner.backward(accelerator, loss, is_last=True)
    assert len(there) == len(trainee.parameters)
    largest = max(each.numel() for each in trainee.parameters)
    assert max(there) < 5000 + 3 * largest < 0.5 * sum(each.numel() for each in trainee.parameters)
    assert all(each.grad is None for each in trainee.parameters)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (Method.FULL, {"max_grad_norm": 1.0}),
        (Method.FULL, {"max_grad_norm": 0.0, "optimizer": Optimizer.PRODIGY}),
        (Method.LORA, {"max_grad_norm": 0.0}),
    ],
)
def test_what_needs_all_gradients_keeps_its_step_behind_the_backward_pass(
    load: Load, accelerator: "Accelerator", method: Method, changes: dict[str, object]
) -> None:
    config = make_config(**changes)
    trainee = make_trainee(load(), method, config, frozen=torch.float32)
    assert make_learner(trainee, config, make_plan(config, 6), accelerator).fused is None


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_stand_for_the_values_that_bitsandbytes_has(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.testing.assert_close(dynamic_code(signed=signed), functional.create_dynamic_map(signed), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_packed_comes_back_as_the_nearest_value(signed: bool) -> None:
    values = torch.randn(BLOCK * 6, generator=torch.Generator().manual_seed(3)) * 1e-3
    values[:BLOCK] = 0.0
    values[BLOCK : 2 * BLOCK] *= 1e-30  # near the smallest floats
    values = values if signed else values.square()
    packed, scales = torch.zeros(len(values), dtype=torch.uint8), torch.zeros(6)
    pack(values, packed, scales, signed=signed)
    found = unpack(packed, scales, signed=signed)
    assert bool(torch.isfinite(found).all())
    assert not found[:BLOCK].any()
    code = dynamic_code(signed=signed)
    blocks = values[2 * BLOCK :].view(-1, BLOCK)
    size = blocks.abs().amax(1, keepdim=True)
    nearest = code[((blocks / size)[..., None] - code).abs().argmin(-1)] * size
    off = (found[2 * BLOCK :].view_as(nearest) - blocks).abs()
    # The rounding to 8 bits of mantissa, 0.4 %, decides between two values that are about as near: twice that.
    assert bool((off <= (nearest - blocks).abs() + 0.008 * blocks.abs() + 4e-7 * size).all())


@pytest.mark.parametrize("count", [100, LEAST, 5 * LEAST + 77, (1 << 20) + 300])
def test_the_eight_bit_optimizer_goes_where_adamw_goes(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.nn.Parameter(torch.randn(count, generator=generator))
    two = torch.nn.Parameter(one.detach().clone())
    eight = EightBitAdamW([{"params": [one]}], lr=1e-2, weight_decay=0.1)
    whole = torch.optim.AdamW([two], lr=1e-2, weight_decay=0.1)
    start = one.detach().clone()
    direction = torch.randn(count, generator=generator)
    for _ in range(20):
        gradient = direction + torch.randn(count, generator=generator)
        one.grad, two.grad = gradient.clone(), gradient
        eight.step()
        whole.step()
    moved, expected = one.detach() - start, two.detach() - start
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.995
    assert float((moved - expected).norm() / expected.norm()) < (1e-6 if count < LEAST else 0.1)


def test_the_eight_bit_optimizer_goes_on_exactly_where_its_state_was_taken() -> None:
    gradients = [torch.randn(3, LEAST, generator=torch.Generator().manual_seed(place)) for place in range(4)]

    def steps(parameter: torch.nn.Parameter, optimizer: EightBitAdamW, some: list[torch.Tensor]) -> None:
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    one = torch.nn.Parameter(torch.zeros(3, LEAST))
    first = EightBitAdamW([{"params": [one]}], lr=1e-2, weight_decay=0.0)
    steps(one, first, gradients[:2])
    two = torch.nn.Parameter(one.detach().clone())
    second = EightBitAdamW([{"params": [two]}], lr=1e-2, weight_decay=0.0)
    second.load_state_dict(first.state_dict())
    steps(one, first, gradients[2:])
    steps(two, second, gradients[2:])
    assert torch.equal(one, two)
