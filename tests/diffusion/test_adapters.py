"""LoRA files: written in diffusers' layout, read back, weighted, and taken out without a trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from services.common.errors import FailedPrecondition, InvalidArgument
from services.diffusion.adapters import (
    FILE_NAME,
    adaptable_modules,
    add_lora,
    load_loras,
    remove_lora,
    save_lora,
    set_lora_weights,
)
from services.diffusion.load import Components
from services.diffusion.weights import WeightsUnavailable
from tests.diffusion.drawing import draw, draw_plain


def unet_of(folder: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def fill(parameters: list[torch.nn.Parameter], seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def test_a_fresh_lora_changes_nothing_and_only_it_trains(tiny_folder: Path) -> None:
    unet = unet_of(tiny_folder).eval()
    latents, words = torch.randn(1, 4, 16, 16), torch.randn(1, 16, 32)
    with torch.no_grad():
        before = unet(latents, 10, words).sample
    parameters = add_lora(unet, rank=2)
    with torch.no_grad():
        assert torch.equal(unet(latents, 10, words).sample, before)
    trainable = {id(parameter) for parameter in unet.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters}
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_an_unknown_target_module_names_what_exists(tiny_folder: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        add_lora(unet_of(tiny_folder), rank=2, target_modules=["to_q", "to_x"])
    (rule,) = caught.value.violations.values()
    assert list(caught.value.violations) == ["config.lora.target_modules"]
    assert "'to_x'" in rule
    assert "to_out.0" in rule
    assert "ff.net.0.proj" in rule


def test_every_module_that_is_said_to_exist_can_be_adapted(tiny_folder: Path) -> None:
    unet = unet_of(tiny_folder)
    names = adaptable_modules(unet)
    assert {"to_q", "to_out.0", "conv1", "proj_in", "ff.net.2"} <= set(names)
    assert add_lora(unet, rank=1, target_modules=names)


@pytest.mark.parametrize("alpha", [2.0, 8.0])
@pytest.mark.parametrize("text_too", [False, True])
def test_diffusers_loads_the_file_and_draws_the_same(
    tiny_folder: Path, components: Components, plain: Any, tmp_path: Path, alpha: float, text_too: bool
) -> None:
    unet = unet_of(tiny_folder)
    adapted = {"unet": unet}
    if text_too:
        adapted["text_encoder"] = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder")
    targets = ["to_q", "to_out.0", "conv1", "proj_in"]
    fill(add_lora(unet, rank=4, alpha=alpha, target_modules=targets, text_encoders=list(adapted.values())[1:]))
    file = save_lora(tmp_path, metadata={"made_by": "a test"}, **adapted)
    assert file.name == FILE_NAME
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
        prefixes = {key.split(".")[0] for key in opened.keys()}  # noqa: SIM118  # not a dict
    assert header["made_by"] == "a test"
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == alpha
    assert prefixes == ({"unet", "text_encoder"} if text_too else {"unet"})
    load_loras(components, [("mine", file)])
    set_lora_weights(components, {"mine": 0.6})
    plain.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="mine")
    plain.set_adapters(["mine"], [0.6])
    assert np.abs(draw(components) - draw_plain(plain)).max() <= 1


def test_weights_zero_and_removal_leave_the_base(components: Components, tiny_lora: Path) -> None:
    base = draw(components)
    load_loras(components, [("one", tiny_lora)])
    assert np.array_equal(draw(components), base)  # loaded, not yet acting
    set_lora_weights(components, {"one": 1.0})
    strong = draw(components)
    assert np.abs(strong - base).mean() > 5
    set_lora_weights(components, {"one": 0.0})
    assert np.array_equal(draw(components), base)
    remove_lora(components, "one")
    remove_lora(components, "one")
    assert np.array_equal(draw(components), base)
    load_loras(components, [("one", tiny_lora)])
    set_lora_weights(components, {"one": 1.0})
    assert np.array_equal(draw(components), strong)


def test_two_loras_add_up_as_in_diffusers(
    tiny_folder: Path, components: Components, plain: Any, tiny_lora: Path, tmp_path: Path
) -> None:
    unet = unet_of(tiny_folder)
    fill(add_lora(unet, rank=2, target_modules=["to_v", "conv2"]), seed=9)
    other = save_lora(tmp_path, unet=unet)
    load_loras(components, [("one", tiny_lora), ("two", other)])
    set_lora_weights(components, {"one": 0.5, "two": -0.3})
    for name, file in (("one", tiny_lora), ("two", other)):
        plain.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    plain.set_adapters(["one", "two"], [0.5, -0.3])
    assert np.abs(draw(components) - draw_plain(plain)).max() <= 1


def test_a_lora_of_another_architecture_is_refused_and_leaves_no_trace(
    components: Components, tiny_lora: Path, tmp_path: Path
) -> None:
    base = draw(components)
    tensors = load_file(tiny_lora)
    wider = {key: torch.cat([value, value], 1) if "lora_A" in key else value for key, value in tensors.items()}
    renamed = {key.replace("down_blocks.1", "down_blocks.7"): value for key, value in tensors.items()}
    for name, changed in (("wider", wider), ("renamed", renamed), ("alien", {"conv.weight": torch.ones(2)})):
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(FailedPrecondition) as caught:
            load_loras(components, [(name, tmp_path / f"{name}.safetensors")])
        assert caught.value.reason == "LORA_MISMATCH"
    assert np.array_equal(draw(components), base)


def test_a_missing_or_damaged_lora_names_its_file(components: Components, tiny_lora: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"gone\.safetensors"):
        load_loras(components, [("gone", tmp_path / "gone.safetensors")])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_lora.read_bytes()[:500])
    with pytest.raises(WeightsUnavailable, match=r"cut\.safetensors"):
        load_loras(components, [("cut", cut)])
