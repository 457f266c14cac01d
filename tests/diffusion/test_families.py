"""Each family's pictures are those that a plain diffusers pipeline of its own class draws with the same weights."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from services.common.errors import FailedPrecondition, InvalidArgument
from services.diffusion.adapters import add_lora, load_loras, save_lora, set_lora_weights
from services.diffusion.encode import decode_latents, encode_images, encode_prompts
from services.diffusion.load import Components, load_components, read_size
from services.diffusion.schedulers import SAMPLERS, display_name, make_scheduler
from tests.diffusion.drawing import draw, draw_plain
from tests.tiny import SIDE, VAE_FACTOR
from tests.tiny_families import MAKERS, make_tiny_sdxl

SAMPLERS_XL = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
RESCALE = {"stable_diffusion_xl": 0.0, "stable_diffusion_3": None}
"""diffusers' SD3 knows no rescaling of guidance."""


@pytest.fixture(scope="module", params=sorted(MAKERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[family](tmp_path_factory.mktemp(family) / "pipeline")


def load(folder: Path, family: str) -> Components:
    return load_components([folder], family=family, device="cpu", dtype=torch.float32)


def plain_of(folder: Path) -> Any:
    without_t5 = {"text_encoder_3": None, "tokenizer_3": None} if (folder / "transformer").exists() else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_picture_is_the_same_as_its_pipeline_draws(folder: Path, family: str, guidance: float) -> None:
    theirs = draw_plain(plain_of(folder), guidance=guidance, rescale=RESCALE[family])
    mine = draw(load(folder, family), guidance=guidance)
    assert np.abs(mine - theirs).max() <= 1
    assert theirs.std() > 5  # there is something to agree on


@pytest.mark.parametrize("sampler", sorted(SAMPLERS_XL))
def test_samplers_by_name_agree_on_sdxl(tmp_path: Path, sampler: str) -> None:
    folder = make_tiny_sdxl(tmp_path)
    pipeline = plain_of(folder)
    name, options = SAMPLERS_XL[sampler]
    scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **options)
    assert np.abs(draw(load(folder, "stable_diffusion_xl"), sampler) - draw_plain(pipeline, scheduler)).max() <= 1


@pytest.mark.parametrize("zeros", [True, False])
def test_no_negative_prompt_means_to_sdxl_what_it_was_published_with(tmp_path: Path, zeros: bool) -> None:
    folder = make_tiny_sdxl(tmp_path, zeros_for_empty=zeros)
    _, theirs, _, pooled = plain_of(folder).encode_prompt("cat", device="cpu")
    mine = encode_prompts(load(folder, "stable_diffusion_xl"), ["", "cat"])
    torch.testing.assert_close(mine["words"][:1], theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(mine["pooled"][:1], pooled, atol=1e-6, rtol=0)
    assert bool(theirs.eq(0).all()) == zeros


def test_sizes_come_from_the_configs_alone(folder: Path, family: str) -> None:
    components = load(folder, family)
    assert read_size([folder], family=family) == components.size
    assert components.size.native == SIDE
    assert components.size.vae_factor == VAE_FACTOR
    assert components.size.multiple == 2 * VAE_FACTOR


def test_latents_are_scaled_and_shifted_there_and_back(folder: Path, family: str) -> None:
    components = load(folder, family)
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    mean, _ = encode_images(components, images)
    config = components.vae.config
    theirs = components.vae.encode(images).latent_dist.mean
    torch.testing.assert_close(mean, (theirs - (config.shift_factor or 0)) * config.scaling_factor)
    decoded = components.vae.decode(theirs).sample.permute(0, 2, 3, 1)
    expected = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).round()
    assert (decode_latents(components, mean).float() - expected).abs().max() <= 1


@pytest.mark.parametrize("text_too", [False, True])
def test_a_lora_of_the_family_draws_here_what_it_draws_in_diffusers(
    folder: Path, family: str, tmp_path: Path, text_too: bool
) -> None:
    trained = load(folder, family)
    encoders = trained.text_encoders if text_too else []
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in add_lora(trained.denoiser, rank=4, alpha=8.0, text_encoders=encoders, family=family):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted = trained.adaptable if text_too else {trained.family.denoiser: trained.denoiser}
    file = save_lora(tmp_path, **adapted)
    components, pipeline = load(folder, family), plain_of(folder)
    before = draw(components)
    load_loras(components, [("mine", file)])
    set_lora_weights(components, {"mine": 1.0})
    pipeline.load_lora_weights(file)
    mine, theirs = draw(components), draw_plain(pipeline, rescale=RESCALE[family])
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - before).max() > 10
    set_lora_weights(components, {})
    assert np.abs(draw(components) - before).max() == 0


def test_a_lora_of_another_family_is_refused(tmp_path: Path) -> None:
    xl, three = MAKERS["stable_diffusion_xl"](tmp_path / "xl"), MAKERS["stable_diffusion_3"](tmp_path / "three")
    trained = load(three, "stable_diffusion_3")
    add_lora(trained.denoiser, rank=2, family="stable_diffusion_3")
    file = save_lora(tmp_path, transformer=trained.denoiser)
    with pytest.raises(FailedPrecondition) as caught:
        load_loras(load(xl, "stable_diffusion_xl"), [("other", file)])
    assert caught.value.reason == "LORA_MISMATCH"


def test_a_flow_matching_model_is_drawn_with_its_own_sampler(tmp_path: Path) -> None:
    components = load(MAKERS["stable_diffusion_3"](tmp_path), "stable_diffusion_3")
    assert display_name(components, None) == "Euler"
    assert type(make_scheduler(components, "euler")).__name__ == "FlowMatchEulerDiscreteScheduler"
    for name in set(SAMPLERS) - {"euler"}:
        with pytest.raises(InvalidArgument) as caught:
            make_scheduler(components, name)
        assert list(caught.value.violations) == ["settings.scheduler"]
