"""Stable Video Diffusion draws what a plain diffusers pipeline draws with the same weights."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from services.common.errors import FailedPrecondition
from services.diffusion.adapters import add_lora, load_loras, save_lora, set_lora_weights
from services.diffusion.clips import begin_clip, draw_clip
from services.diffusion.encode import decode_latents, encode_prompts
from services.diffusion.families import get_family
from services.diffusion.load import Components, load_components
from services.diffusion.schedulers import make_scheduler
from tests.tiny_families import make_tiny_svd

FRAMES, WIDTH, HEIGHT = 4, 64, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_svd(tmp_path_factory.mktemp("svd") / "pipeline")


@pytest.fixture
def components(folder: Path) -> Components:
    return load_components([folder], family="stable_video_diffusion", device="cpu", dtype=torch.float32)


def first_frame() -> "np.ndarray[Any, Any]":
    """(H, W, 3) uint8, something soft."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def draw(components: Components) -> "np.ndarray[Any, Any]":
    """(F, H, W, 3) int."""
    frame = torch.from_numpy(first_frame()).permute(2, 0, 1).float() / 127.5 - 1
    begun = begin_clip(components, frame, seed=5, num_frames=FRAMES, motion_bucket_id=100)
    for step in draw_clip(components, make_scheduler(components), begun, steps=3):
        latents = step.latents
    assert step.total == 3
    return decode_latents(components, latents)[0].numpy().astype(int)


def test_a_clip_is_the_same_as_diffusers_draws(components: Components, folder: Path) -> None:
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        Image.fromarray(first_frame()),
        width=WIDTH,
        height=HEIGHT,
        num_frames=FRAMES,
        motion_bucket_id=100,
        num_inference_steps=3,
        generator=torch.Generator("cpu").manual_seed(5),
    ).frames[0]
    theirs = np.stack([np.asarray(frame) for frame in frames]).astype(int)
    mine = draw(components)
    assert mine.shape == theirs.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert np.abs(mine - theirs).max() <= 1
    assert theirs.std() > 5  # there is something to agree on


def test_the_predicted_original_ends_at_the_clip(components: Components) -> None:
    frame = torch.from_numpy(first_frame()).permute(2, 0, 1).float() / 127.5 - 1
    begun = begin_clip(components, frame, seed=5, num_frames=FRAMES, guidance_scale=1.0)
    steps = list(draw_clip(components, make_scheduler(components), begun, steps=12))
    assert steps[0].predict_original().shape == (1, FRAMES, 4, HEIGHT // 4, WIDTH // 4)
    torch.testing.assert_close(steps[-1].predict_original(), steps[-1].latents, atol=1e-2, rtol=1e-2)


def test_a_lora_goes_into_the_file_and_out_of_it(components: Components, folder: Path, tmp_path: Path) -> None:
    trained = load_components([folder], family="stable_video_diffusion", device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in add_lora(trained.denoiser, rank=4, family="stable_video_diffusion"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    file = save_lora(tmp_path, unet=trained.denoiser)
    before = draw(components)
    load_loras(components, [("mine", file)])
    set_lora_weights(components, {"mine": 1.0})
    after = draw(components)
    assert np.abs(after - before).max() > 5
    assert np.abs(after - draw(trained)).max() <= 1
    set_lora_weights(components, {})
    assert np.abs(draw(components) - before).max() == 0


def test_it_reads_no_words(components: Components) -> None:
    with pytest.raises(FailedPrecondition, match="draw from a picture"):
        encode_prompts(components, ["a cat"])


def test_its_objective_is_edms_with_v_prediction() -> None:
    """Karras et al. 2022, equations 7 and 8 with sigma_data 1: the weighted error of the denoised clip is v's."""
    edm = get_family("stable_video_diffusion").objective({})
    latents, noise = torch.randn(3, 2, 4, 2, 2, dtype=torch.float64), torch.randn(3, 2, 4, 2, 2, dtype=torch.float64)
    times = edm.times(torch.tensor([0.1, 0.5, 0.9])).double()
    sigma = (4 * times).exp().view(3, 1, 1, 1, 1)
    assert sigma[1].item() == pytest.approx(np.exp(0.7), rel=1e-5)
    answer = torch.randn_like(latents)
    skip, out = 1 / (sigma**2 + 1), -sigma / (sigma**2 + 1).sqrt()
    scaled = edm.diffuse(latents, noise, times)
    torch.testing.assert_close(scaled, (latents + sigma * noise) / (sigma**2 + 1).sqrt())
    denoised = skip * (latents + sigma * noise) + out * answer
    weighted = (1 + sigma**2) / sigma**2 * (denoised - latents) ** 2
    torch.testing.assert_close(weighted, (answer - edm.target(latents, noise, times)) ** 2)
    original = get_family("stable_video_diffusion").original(None, scaled[1], answer[1], times[1])
    torch.testing.assert_close(original, denoised[1])
