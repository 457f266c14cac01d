"""ControlNets steer here as in diffusers' own pipelines, and those that cannot be used say why."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from services.common.errors import FailedPrecondition
from services.diffusion.control import Control, check_control, control_residuals, load_control
from services.diffusion.encode import decode_latents, encode_prompts, some_of
from services.diffusion.load import Components, load_components
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import make_scheduler
from services.diffusion.weights import WeightsUnavailable
from tests.diffusion.drawing import HEIGHT, NEGATIVE, PROMPT, SEEDS, WIDTH
from tests.tiny import make_tiny_control, make_tiny_pipeline
from tests.tiny_families import MAKERS

PIPELINES = {
    "stable_diffusion": "StableDiffusionControlNetPipeline",
    "stable_diffusion_xl": "StableDiffusionXLControlNetPipeline",
}


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = {"stable_diffusion": make_tiny_pipeline, **MAKERS}[family]
    return make(tmp_path_factory.mktemp(family) / "pipeline")


@pytest.fixture(scope="module")
def homes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two ControlNets."""
    place = tmp_path_factory.mktemp("controls")
    return [make_tiny_control(place / str(seed), folder, seed=seed) for seed in (1, 2)]


def load(folder: Path, family: str) -> Components:
    return load_components([folder], family=family, device="cpu", dtype=torch.float32)


def load_one(home: Path, family: str = "stable_diffusion") -> Any:
    return load_control(home, family=family, device="cpu", dtype=torch.float32)


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(4)
    return [Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for _ in range(2)]


def shown(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def draw(components: Components, controls: list[Control], *, guidance: float = 5.0, steps: int = 5) -> np.ndarray:
    words = encode_prompts(components, [PROMPT, NEGATIVE])
    samples = [
        Sample(
            components,
            make_scheduler(components),
            said=some_of(words, slice(0, 1)),
            unsaid=some_of(words, slice(1, 2)),
            seed=seed,
            width=WIDTH,
            height=HEIGHT,
            steps=steps,
            guidance_scale=guidance,
            controls=controls,
        )
        for seed in SEEDS
    ]
    for _ in range(steps):
        step_together(samples)
    return decode_latents(components, torch.cat([each.latents for each in samples])).numpy().astype(int)


def draw_plain(folder: Path, family: str, homes: list[Path], *, guidance: float = 5.0, **options: Any) -> np.ndarray:
    nets = [diffusers.ControlNetModel.from_pretrained(home) for home in homes]
    one = len(nets) == 1
    kind = getattr(diffusers, PIPELINES[family])
    pipeline = kind.from_pretrained(folder, controlnet=nets[0] if one else nets)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        PROMPT,
        image=pictures()[0] if one else pictures(),
        negative_prompt=NEGATIVE,
        num_images_per_prompt=len(SEEDS),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        num_inference_steps=5,
        guidance_scale=guidance,
        width=WIDTH,
        height=HEIGHT,
        **{name: value[0] if one else value for name, value in options.items()},
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_one_steers_as_in_diffusers(folder: Path, family: str, homes: list[Path], guidance: float) -> None:
    theirs = draw_plain(folder, family, homes[:1], guidance=guidance, controlnet_conditioning_scale=[0.8])
    components = load(folder, family)
    control = Control(load_one(homes[0], family), shown(pictures()[0]), 0.8)
    check_control(components, control.model)
    mine = draw(components, [control], guidance=guidance)
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - draw(components, [], guidance=guidance)).max() > 10  # it does something


def test_two_steer_together_each_in_its_own_part_of_the_steps(folder: Path, family: str, homes: list[Path]) -> None:
    weights, starts, ends = [0.7, 1.2], [0.0, 0.4], [0.6, 1.0]
    theirs = draw_plain(
        folder, family, homes,
        controlnet_conditioning_scale=weights, control_guidance_start=starts, control_guidance_end=ends,
    )  # fmt: skip
    models = [load_one(home, family) for home in homes]
    controls = [
        Control(model, shown(picture), weight, start, end)
        for model, picture, weight, start, end in zip(models, pictures(), weights, starts, ends, strict=True)
    ]
    components = load(folder, family)
    mine = draw(components, controls)
    assert np.abs(mine - theirs).max() <= 1
    for changed in (controls[:1], controls[1:], [Control(each.model, each.images, each.weight) for each in controls]):
        assert np.abs(mine - draw(components, changed)).max() > 1


def test_one_that_sees_pictures_as_a_whole_steers_as_in_diffusers(folder: Path, family: str, tmp_path: Path) -> None:
    home = make_tiny_control(tmp_path / "whole", folder, seed=3)
    config = json.loads((home / "config.json").read_text(encoding="utf-8"))
    (home / "config.json").write_text(json.dumps({**config, "global_pool_conditions": True}), encoding="utf-8")
    theirs = draw_plain(folder, family, [home])
    mine = draw(load(folder, family), [Control(load_one(home, family), shown(pictures()[0]))])
    assert np.abs(mine - theirs).max() <= 1


def test_weight_nought_in_a_row_leaves_the_row_alone(folder: Path, family: str, homes: list[Path]) -> None:
    components, model = load(folder, family), load_one(homes[0], family)
    told = dict(encode_prompts(components, [PROMPT] * 3))
    told["geometry"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 3)
    noisy = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([10, 400, 900])
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([0.0, 1.0, 0.5])
    added = control_residuals([model], [images], [weights], noisy, times, told)
    with torch.no_grad():
        plain = components.family.predict(components, noisy, times, told)
        steered = components.family.predict(components, noisy, times, {**told, **added})
    assert torch.equal(steered[0], plain[0])
    assert not torch.allclose(steered[1], plain[1])
    alone = {name: value[2:] for name, value in told.items()}
    single = control_residuals([model], [images[2:]], [weights[2:]], noisy[2:], times[2:], alone)
    for name, value in single.items():
        torch.testing.assert_close(added[name][2:], value, atol=1e-5, rtol=1e-4)
    assert control_residuals([], [], [], noisy, times, told) == {}


def test_families_without_controls_and_other_kinds_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    home = make_tiny_control(tmp_path / "control", tiny_folder)
    with pytest.raises(FailedPrecondition, match="stable_diffusion, stable_diffusion_xl") as caught:
        load_one(home, "stable_diffusion_3")
    assert caught.value.reason == "CONTROL_UNSUPPORTED"
    config = json.loads((home / "config.json").read_text(encoding="utf-8"))
    (home / "config.json").write_text(json.dumps({**config, "_class_name": "ControlNetUnionModel"}), encoding="utf-8")
    with pytest.raises(FailedPrecondition, match="ControlNetUnionModel") as caught:
        load_one(home)
    assert caught.value.reason == "CONTROL_UNSUPPORTED"


def test_a_missing_or_damaged_file_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    home = make_tiny_control(tmp_path / "control", tiny_folder)
    weights = home / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsUnavailable, match=weights.name):
        load_one(home)
    weights.unlink()
    with pytest.raises(WeightsUnavailable, match=weights.name):
        load_one(home)
    weights.write_bytes(whole)
    (home / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsUnavailable, match=r"config\.json"):
        load_one(home)
    (home / "config.json").unlink()
    with pytest.raises(WeightsUnavailable, match=r"config\.json"):
        load_one(home)


def test_one_of_another_base_says_so(tmp_path: Path, tiny_folder: Path) -> None:
    other = MAKERS["stable_diffusion_xl"](tmp_path / "xl")
    model = load_one(make_tiny_control(tmp_path / "control", other), "stable_diffusion_xl")
    with pytest.raises(FailedPrecondition, match="another base") as caught:
        check_control(load(tiny_folder, "stable_diffusion"), model)
    assert caught.value.reason == "CONTROL_MISMATCH"
    three = MAKERS["stable_diffusion_3"](tmp_path / "three")
    with pytest.raises(FailedPrecondition) as caught:
        check_control(load(three, "stable_diffusion_3"), model)
    assert caught.value.reason == "CONTROL_UNSUPPORTED"
