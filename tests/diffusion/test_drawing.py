"""What is drawn agrees with a plain diffusers pipeline given the same weights."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from services.common.errors import InvalidArgument
from services.diffusion.denoise import denoise
from services.diffusion.encode import cut_tokens, decode_latents, encode_images, encode_prompts
from services.diffusion.load import Components, load_components
from services.diffusion.schedulers import SAMPLERS, display_name, make_scheduler
from tests.diffusion.drawing import draw, draw_plain
from tests.tiny import make_tiny_pipeline

# The diffusers class that a person would take for the name, and what they would tell it beside the model's config.
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
SCHEDULES = {"zero_snr": {}, "epsilon": {"prediction_type": "epsilon", "zero_terminal_snr": False}}


@pytest.fixture(scope="module", params=sorted(SCHEDULES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Components, Any]:
    """Our components and diffusers' pipeline, once as the starter model's schedule and once as SD 1.5's."""
    folder = make_tiny_pipeline(tmp_path_factory.mktemp("pair") / "model", **SCHEDULES[request.param])
    ours = load_components([folder], family="stable_diffusion", device="cpu", dtype=torch.float32)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def test_every_sampler_is_compared() -> None:
    assert set(PLAIN) == set(SAMPLERS)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("sampler", sorted(PLAIN))
def test_a_picture_is_the_same_as_diffusers_draws(pair: tuple[Components, Any], sampler: str, guidance: float) -> None:
    ours, pipeline = pair
    published = pipeline.scheduler
    name, options = PLAIN[sampler]
    if sampler == "dpmpp_2m_karras" and ours.scheduler_config["rescale_betas_zero_snr"]:
        options = {**options, "rescale_betas_zero_snr": False}  # see services/diffusion/schedulers.py
    scheduler = getattr(diffusers, name).from_config(published.config, **options)
    theirs = draw_plain(pipeline, scheduler, guidance=guidance)
    pipeline.scheduler = published
    mine = draw(ours, sampler, guidance=guidance)
    assert np.abs(mine - theirs).max() <= 1
    assert theirs.std() > 5  # there is something to agree on


def test_the_published_scheduler_and_rescaled_guidance_agree(pair: tuple[Components, Any]) -> None:
    ours, pipeline = pair
    mine, theirs = draw(ours, rescale=0.7), draw_plain(pipeline, rescale=0.7)
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - draw(ours)).max() > 1  # the rescaling did something


def test_a_seed_means_the_same_alone_and_in_a_batch(components: Components) -> None:
    both = draw(components, "euler_a", seeds=(5, 6))
    alone = draw(components, "euler_a", seeds=(6,))
    assert np.abs(both[1] - alone[0]).max() <= 1
    assert np.abs(both[0] - both[1]).max() > 10


def test_leaving_the_generator_ends_the_work(components: Components) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    components.denoiser.register_forward_hook(count)
    words = encode_prompts(components, ["a cat"])
    steps = denoise(
        components, make_scheduler(components), said=words, seeds=[1], width=64, height=64, steps=50,
        guidance_scale=1.0,
    )  # fmt: skip
    next(steps)
    next(steps)
    steps.close()
    assert calls == 2


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"ddpm", "euler_a", "lcm"}))
def test_the_predicted_original_ends_at_the_picture(pair: tuple[Components, Any], sampler: str) -> None:
    """The last preview shows what the picture will be: a deterministic sampler's last step goes to the prediction."""
    ours, _ = pair
    words = encode_prompts(ours, ["a cat"])
    steps = list(
        denoise(
            ours, make_scheduler(ours, sampler), said=words, seeds=[1], width=64, height=64, steps=30,
            guidance_scale=1.0,
        )
    )  # fmt: skip
    end = decode_latents(ours, steps[-1].latents).float()
    preview = decode_latents(ours, steps[-1].predict_original()).float()
    start = decode_latents(ours, steps[0].predict_original()).float()
    assert torch.isfinite(steps[0].predict_original()).all()
    assert (end - preview).abs().mean() < 5
    assert (end - preview).abs().mean() <= (end - start).abs().mean()


def test_a_prompt_is_encoded_as_diffusers_encodes_it(components: Components, plain: Any) -> None:
    prompts = ["a red apple", "cat"]
    theirs, _ = plain.encode_prompt(prompts, "cpu", 1, False)
    assert torch.allclose(encode_prompts(components, prompts)["words"], theirs, atol=1e-6)


def test_what_a_prompt_loses_is_named(components: Components) -> None:
    assert cut_tokens(components, "red apple") == ""
    fitting = " ".join(["red"] * (components.tokenizers[0].model_max_length - 2))
    assert cut_tokens(components, fitting) == ""
    assert cut_tokens(components, fitting + " blue dog") == "blue dog"


def test_images_are_encoded_scaled_and_decoded_back_in_range(components: Components) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = encode_images(components, images)
    theirs = components.vae.encode(images).latent_dist
    scale = components.vae.config.scaling_factor
    assert mean.shape == std.shape == (2, 4, 16, 16)
    assert torch.allclose(mean, theirs.mean * scale)
    assert torch.allclose(std, theirs.std * scale)
    pixels = decode_latents(components, mean)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (2, 64, 64, 3)


def test_too_many_steps_for_a_sampler_name_the_field(components: Components) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_scheduler(components, "lcm", steps=51)
    assert list(caught.value.violations) == ["settings.steps"]


def test_the_published_scheduler_has_the_name_that_people_know(components: Components, tmp_path: Path) -> None:
    assert display_name(components, None) == "DDIM"
    assert display_name(components, "dpmpp_2m_karras") == "DPM++ 2M Karras"
