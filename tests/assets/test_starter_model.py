"""The starter model loads as what it says it is, and is small enough to ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

MODEL = Path(__file__).parents[2] / "assets" / "starter-model"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_folder_is_at_most_24_mebibytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 24 * 2**20


def test_every_weight_is_half_precision() -> None:
    files = sorted(MODEL.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        with safe_open(file, framework="pt") as weights:
            kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118 - not a mapping
        assert kinds == {torch.float16}


def test_the_tokenizer_gives_a_caption_back(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer("A red apple").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red apple"


def test_the_vocabulary_is_in_clips_layout() -> None:
    vocab = json.loads((MODEL / "tokenizer" / "vocab.json").read_text())
    merges = (MODEL / "tokenizer" / "merges.txt").read_text().splitlines()
    assert len(vocab) == 512 + len(merges) - 1 + 2
    assert vocab["<|endoftext|>"] == len(vocab) - 1


def test_unknown_words_are_spelt_and_not_lost(pipeline: StableDiffusionPipeline) -> None:
    ids = pipeline.tokenizer("zyx ωλ").input_ids
    assert pipeline.tokenizer.decode(ids, skip_special_tokens=True) == "zyx ωλ"


def test_the_same_seed_draws_the_same_picture_of_64_pixels(pipeline: StableDiffusionPipeline) -> None:
    def draw() -> torch.Tensor:
        seed = torch.Generator().manual_seed(3)
        images = pipeline(
            "red heart", num_inference_steps=4, guidance_scale=3.0, generator=seed, output_type="pt"
        ).images
        return torch.as_tensor(images)

    first = draw()
    assert first.shape == (1, 3, 64, 64)
    assert torch.equal(first, draw())


def test_a_red_heart_is_red_on_white(pipeline: StableDiffusionPipeline) -> None:
    seed = torch.Generator().manual_seed(0)
    images = pipeline("red heart", num_inference_steps=12, guidance_scale=3.0, generator=seed, output_type="pt").images
    image = torch.as_tensor(images)[0]
    red, green, blue = image[:, 24:40, 24:40].mean(dim=(1, 2)).tolist()
    assert red > 0.6 > 0.5 > max(green, blue)
    assert image[:, :3, :3].mean() > 0.8
