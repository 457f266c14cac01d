"""Previews look like the pictures that they are of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from services.diffusion.denoise import denoise
from services.diffusion.encode import decode_latents, encode_prompts, some_of
from services.diffusion.load import Components, load_components
from services.diffusion.previews import PreviewMap
from services.diffusion.schedulers import make_scheduler
from tests.tiny_families import MAKERS, make_tiny_svd

STARTER = Path(__file__).parents[2] / "assets" / "starter-model"
PROMPTS = ("red apple", "dog face", "blue heart", "rocket")


@pytest.fixture(scope="module")
def drawn() -> tuple[Components, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The starter model, what it takes four pictures to be half way, their latents at the end, and the pictures."""
    components = load_components([STARTER], family="stable_diffusion", device="cpu", dtype=torch.float32)
    words = encode_prompts(components, [*PROMPTS, ""])
    for step in denoise(
        components,
        make_scheduler(components),
        said=some_of(words, slice(0, len(PROMPTS))),
        unsaid=some_of(words, slice(len(PROMPTS), None)),
        seeds=range(1, len(PROMPTS) + 1),
        width=components.size.native,
        height=components.size.native,
        steps=8,
        guidance_scale=3.0,
    ):
        if step.index == step.total // 2:
            half_way = step.predict_original()
    return components, half_way, step.latents, decode_latents(components, step.latents)


def small(pixels: torch.Tensor, preview: torch.Tensor) -> np.ndarray:
    """(B, h, w, 3) float32: as small as the preview."""
    moved = pixels.permute(0, 3, 1, 2).float()
    averaged = torch.nn.functional.adaptive_avg_pool2d(moved, tuple(preview.shape[1:3]))
    pooled: np.ndarray = averaged.permute(0, 2, 3, 1).numpy()
    return pooled


def likeness(preview: torch.Tensor, pixels: torch.Tensor) -> list[float]:
    """Each picture's correlation with its preview."""
    pairs = zip(preview.numpy(), small(pixels, preview), strict=True)
    return [float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in pairs]


def error(preview: torch.Tensor, pixels: torch.Tensor) -> float:
    return float(np.square(preview.numpy() - small(pixels, preview)).mean())


def test_previews_of_the_starter_model_look_like_its_pictures(
    drawn: tuple[Components, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    components, half_way, latents, pixels = drawn
    preview = PreviewMap(components)
    first = preview(latents)
    assert first.dtype == torch.uint8
    assert first.shape == (*latents.shape[:1], *latents.shape[2:], 3)
    assert min(likeness(first, pixels)) > 0.8
    assert min(likeness(preview(half_way), decode_latents(components, half_way))) > 0.7
    # A preview is more like its own picture than like any other.
    for row, one in enumerate(first):
        each = likeness(one.expand(len(pixels), -1, -1, -1), pixels)
        assert max(range(len(each)), key=each.__getitem__) == row


def test_finished_pictures_make_previews_better(
    drawn: tuple[Components, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    components, _, latents, pixels = drawn
    preview = PreviewMap(components)
    before = error(preview(latents), pixels)
    preview.learn(latents[:3], pixels[:3])
    after = preview(latents)
    assert error(after[:3], pixels[:3]) < error(PreviewMap(components)(latents[:3]), pixels[:3])
    assert error(after, pixels) < before
    # What went wrong teaches nothing.
    preview.learn(latents[:1] * float("nan"), pixels[:1])
    assert torch.equal(preview(latents), after)


def test_it_is_fitted_when_it_is_first_asked(
    drawn: tuple[Components, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    components, _, latents, pixels = drawn
    decoded = []
    hook = components.vae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    try:
        one, other = PreviewMap(components), PreviewMap(components)
        assert not decoded
        one(latents)
        one(latents)
        one.learn(latents, pixels)
        assert len(decoded) == 1
        assert torch.equal(other(latents), PreviewMap(components)(latents))  # and the same each time
    finally:
        hook.remove()


@pytest.mark.parametrize("family", [*sorted(MAKERS), "stable_video_diffusion"])
def test_all_families_have_previews(tmp_path: Path, family: str) -> None:
    folder = (MAKERS | {"stable_video_diffusion": make_tiny_svd})[family](tmp_path / "model")
    components = load_components([folder], family=family, device="cpu", dtype=torch.float32)
    channels = components.vae.config.latent_channels
    frames = (3,) if components.family.draws_clips else ()
    latents = torch.randn(2, *frames, channels, 12, 16, generator=torch.Generator().manual_seed(1))
    preview = PreviewMap(components)
    assert preview(latents).shape == (2, *frames, 12, 16, 3)
    preview.learn(latents, decode_latents(components, latents))
    assert preview(latents).shape == (2, *frames, 12, 16, 3)
