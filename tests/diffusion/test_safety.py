"""The safety checker finds what diffusers' finds, and says which concepts it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.diffusion.safety import load_safety_checker
from services.diffusion.weights import WeightsUnavailable
from tests.tiny import make_tiny_safety_checker

PICTURES = [np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8) for seed in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_safety_checker(tmp_path_factory.mktemp("safety") / "safety_checker")


def load(folder: Path) -> Any:
    return load_safety_checker(folder, device="cpu", dtype=torch.float32)


def plain_verdicts(folder: Path) -> list[bool]:
    """diffusers' own, on pictures prepared as its pipelines do."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    model = StableDiffusionSafetyChecker.from_pretrained(folder)
    prepare = CLIPImageProcessorPil.from_pretrained(folder)
    seen = prepare([Image.fromarray(each) for each in PICTURES], return_tensors="pt").pixel_values
    return list(model(clip_input=seen, images=np.stack(PICTURES).astype(float))[1])


def test_what_is_flagged_is_what_diffusers_flags(folder: Path) -> None:
    found = load(folder).judge(PICTURES)
    assert [bool(each) for each in found] == plain_verdicts(folder)
    assert 0 < sum(bool(each) for each in found) < len(PICTURES)  # there is something to agree on
    assert all(list(each) == sorted(set(each)) and all(0 <= number < 17 for number in each) for each in found)


def test_special_care_makes_the_rest_stricter_as_in_diffusers(folder: Path, tmp_path: Path) -> None:
    """With all special concepts crossed, and others just below their thresholds."""
    from safetensors.torch import load_file, save_file

    home = tmp_path / "checker"
    home.mkdir()
    for path in folder.iterdir():
        (home / path.name).write_bytes(path.read_bytes())
    tensors = load_file(home / "model.safetensors")
    verdicts = {}
    for special in (-1.0, 2.0):
        tensors["special_care_embeds_weights"] = torch.full((3,), special)
        save_file(tensors, home / "model.safetensors", metadata={"format": "pt"})
        verdicts[special] = load(home).judge(PICTURES)
        assert [bool(each) for each in verdicts[special]] == plain_verdicts(home)
    assert all(set(strict) >= set(plain) for strict, plain in zip(verdicts[-1.0], verdicts[2.0], strict=True))
    assert verdicts[-1.0] != verdicts[2.0]


def test_each_picture_is_judged_by_itself(folder: Path) -> None:
    checker = load(folder)
    assert [checker.judge([each])[0] for each in PICTURES] == checker.judge(PICTURES)
    assert checker.judge([]) == []


def test_a_preparation_beside_the_folder_is_found(folder: Path, tmp_path: Path) -> None:
    home, beside = tmp_path / "safety_checker", tmp_path / "feature_extractor"
    home.mkdir()
    beside.mkdir()
    for path in folder.iterdir():
        ((beside if path.name == "preprocessor_config.json" else home) / path.name).write_bytes(path.read_bytes())
    assert load(home).judge(PICTURES) == load(folder).judge(PICTURES)
    (beside / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsUnavailable, match="preprocessor_config"):
        load(home)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder: Path, tmp_path: Path, file: str) -> None:
    for path in folder.iterdir():
        whole = path.read_bytes()
        (tmp_path / path.name).write_bytes(whole if path.name != file else whole[: len(whole) // 2])
    with pytest.raises(WeightsUnavailable, match="safety_checker"):
        load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(WeightsUnavailable, match=file):
        load(tmp_path)
