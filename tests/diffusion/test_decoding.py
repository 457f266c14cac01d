"""Decoding within bounds: large pictures in tiles, clips in stretches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from services.diffusion.encode import decode_latents, encode_images
from services.diffusion.load import Components, load_components
from tests.tiny import SIDE, VAE_FACTOR
from tests.tiny_families import make_tiny_svd

ASSETS = Path(__file__).parents[2] / "assets"
STARTER, DEMO = ASSETS / "starter-model", ASSETS / "demo-images"
TILE = SIDE // VAE_FACTOR
"""Latents a side of what the tiny VAE decodes at once."""


def smooth(rows: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def largest_pass(components: Components) -> list[int]:
    """Filled with the latents that each pass of the decoder is given."""
    seen: list[int] = []
    components.vae.decoder.register_forward_hook(lambda _, given, __: seen.append(given[0][0, 0].numel()))
    return seen


def test_a_large_picture_is_decoded_in_tiles(components: Components) -> None:
    latents = smooth(2, 2 * TILE, 3 * TILE)
    alone = decode_latents(components, latents[:, :, :TILE, :TILE])
    seen = largest_pass(components)
    tiled = decode_latents(components, latents, tile_above=SIDE * SIDE)
    assert tiled.shape == (2, 2 * SIDE, 3 * SIDE, 3)
    assert len(seen) > 6
    assert max(seen) <= TILE * TILE
    # The first tile is as it would be by itself, up to where the next is blended in.
    clear = SIDE * 3 // 4
    assert (tiled[:, :clear, :clear].int() - alone[:, :clear, :clear].int()).abs().max() <= 1


def test_tiles_of_a_trained_model_make_the_same_picture() -> None:
    """Tiles are normalised each by itself, so colours drift a little, and shapes do not."""
    components = load_components([STARTER], family="stable_diffusion", device="cpu", dtype=torch.float32)
    pixels = np.asarray(Image.open(sorted(DEMO.glob("*.png"))[0]).convert("RGB").resize((160, 128)))
    latents, _ = encode_images(components, torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    whole, tiled = (decode_latents(components, latents, tile_above=above).float() for above in (0, 1))
    assert components.vae.config.sample_size < 128
    assert torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1] > 0.98
    assert not torch.equal(tiled, whole)


def test_a_picture_within_the_bound_is_decoded_whole_and_tiling_does_not_stay(components: Components) -> None:
    latents = smooth(1, 2 * TILE, 2 * TILE)
    whole = decode_latents(components, latents)
    assert torch.equal(decode_latents(components, latents, tile_above=4 * SIDE * SIDE), whole)
    assert not torch.equal(decode_latents(components, latents, tile_above=4 * SIDE * SIDE - 1), whole)
    assert torch.equal(decode_latents(components, latents), whole)
    assert not components.vae.use_tiling


def test_tiling_is_switched_off_when_decoding_fails(components: Components) -> None:
    with pytest.raises(RuntimeError):
        decode_latents(components, torch.zeros(1, 5, 2 * TILE, 2 * TILE), tile_above=1)
    assert not components.vae.use_tiling


def test_a_clip_is_decoded_in_stretches_as_diffusers_does(tmp_path: Path) -> None:
    import diffusers

    folder = make_tiny_svd(tmp_path / "svd")
    components = load_components([folder], family="stable_video_diffusion", device="cpu", dtype=torch.float32)
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(folder)
    clips = torch.randn(2, 5, 4, 12, 16, generator=torch.Generator().manual_seed(2))
    for at_once in (2, 5):
        mine = decode_latents(components, clips, frames_at_once=at_once)
        assert mine.shape == (2, 5, 48, 64, 3)
        for clip, pixels in zip(clips, mine, strict=True):
            with torch.no_grad():
                theirs = pipeline.decode_latents(clip[None], 5, at_once)[0].permute(1, 2, 3, 0)
            expected = ((theirs * 0.5 + 0.5).clamp(0, 1) * 255).round()
            assert (pixels.float() - expected).abs().max() <= 1
    assert torch.equal(decode_latents(components, clips), decode_latents(components, clips, frames_at_once=9))
