"""Samples that share passes of the denoiser: each is the picture that a plain diffusers pipeline draws."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from services.diffusion.clips import begin_clip
from services.diffusion.control import Control, load_control
from services.diffusion.encode import decode_latents, encode_prompts, some_of
from services.diffusion.load import Components, load_components
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import SAMPLERS, make_scheduler
from tests.diffusion.test_drawing import PLAIN, SCHEDULES
from tests.tiny import make_tiny_control, make_tiny_pipeline
from tests.tiny_families import make_tiny_sd3, make_tiny_sdxl, make_tiny_svd

PROMPT, NEGATIVE, SIZE = "a red apple", "blue", (64, 80)
PIPELINES = {
    "stable_diffusion": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "stable_diffusion_xl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "stable_diffusion_3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = np.random.default_rng(3)
    small = Image.fromarray(generator.integers(0, 255, (5, 4, 3), dtype=np.uint8))
    return small.resize(SIZE, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """The right half is drawn anew."""
    half = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    half[:, SIZE[0] // 2 :] = 255
    return Image.fromarray(half)


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def as_mask(mask: Image.Image) -> torch.Tensor:
    return (torch.from_numpy(np.array(mask)) > 127).float()[None, None]


def make(components: Components, sampler: str | None = None, *, seed: int = 5, steps: int = 5, **about: Any) -> Sample:
    with torch.no_grad():
        words = encode_prompts(components, [PROMPT, NEGATIVE])
    return Sample(
        components,
        make_scheduler(components, sampler),
        said=some_of(words, slice(0, 1)),
        unsaid=some_of(words, slice(1, 2)),
        seed=seed,
        width=SIZE[0],
        height=SIZE[1],
        steps=steps,
        **about,
    )


def finish(*samples: Sample) -> np.ndarray:
    """(B, H, W, 3) int, all drawn together as far as each goes."""
    for _ in range(100):
        going = [each for each in samples if not each.is_done]
        if not going:
            break
        step_together(going)
    latents = torch.cat([each.latents for each in samples])
    return decode_latents(samples[0].components, latents).numpy().astype(int)


def drawn_by(pipeline: Any, **about: Any) -> np.ndarray:
    """(H, W, 3) int."""
    return np.asarray(latents_by(pipeline, output_type="pil", **about)).astype(int)


def latents_by(pipeline: Any, *, seed: int = 5, steps: int = 5, **about: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    about = {"output_type": "latent", **about, "num_inference_steps": steps, "guidance_scale": 7.5}
    answer = pipeline(PROMPT, negative_prompt=NEGATIVE, generator=generator, **about).images
    return answer if about["output_type"] == "latent" else answer[0]


@pytest.fixture(scope="module", params=sorted(SCHEDULES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("samples") / "model", **SCHEDULES[request.param])


@pytest.fixture(scope="module")
def components(folder: Path) -> Components:
    return load_components([folder], family="stable_diffusion", device="cpu", dtype=torch.float32)


def plain_scheduler(components: Components, sampler: str, published: Any) -> Any:
    name, options = PLAIN[sampler]
    if sampler == "dpmpp_2m_karras" and components.scheduler_config["rescale_betas_zero_snr"]:
        options = {**options, "rescale_betas_zero_snr": False}
    return getattr(diffusers, name).from_config(published, **options)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_each_way_of_beginning_is_as_diffusers_draws_it(
    components: Components, folder: Path, picture: Image.Image, mask: Image.Image, sampler: str
) -> None:
    text = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    published = text.scheduler.config
    about = {"image": picture, "strength": 0.6}
    plain = {
        "text": (text, {"width": SIZE[0], "height": SIZE[1]}, {}),
        "image": (
            diffusers.StableDiffusionImg2ImgPipeline(**text.components),
            about,
            {"picture": as_tensor(picture), "strength": 0.6},
        ),
        "inpaint": (
            diffusers.StableDiffusionInpaintPipeline(**text.components),
            {**about, "mask_image": mask, "width": SIZE[0], "height": SIZE[1]},
            {"picture": as_tensor(picture), "strength": 0.6, "mask": as_mask(mask)},
        ),
        "inpaint anew": (
            diffusers.StableDiffusionInpaintPipeline(**text.components),
            {**about, "strength": 1.0, "mask_image": mask, "width": SIZE[0], "height": SIZE[1]},
            {"picture": as_tensor(picture), "strength": 1.0, "mask": as_mask(mask)},
        ),
    }
    mine = finish(*(make(components, sampler, **own) for _, _, own in plain.values()))
    for drawn, (name, (pipeline, theirs, _)) in zip(mine, plain.items(), strict=True):
        pipeline.scheduler = plain_scheduler(components, sampler, published)
        wanted = drawn_by(pipeline, **theirs)
        assert np.abs(drawn - wanted).max() <= 1, name
        assert wanted.std() > 5, name


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "stable_diffusion_3"])
def test_other_families_begin_with_pictures_as_diffusers_has_it(
    family: str, tmp_path: Path, picture: Image.Image, mask: Image.Image
) -> None:
    made = {"stable_diffusion_xl": make_tiny_sdxl, "stable_diffusion_3": make_tiny_sd3}[family](tmp_path / "model")
    components = load_components([made], family=family, device="cpu", dtype=torch.float32)
    by_image, by_mask = (getattr(diffusers, name) for name in PIPELINES[family])
    nothing = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    missing = nothing if family == "stable_diffusion_3" else {}
    pipeline = by_image.from_pretrained(made, **missing)
    about = {"image": picture, "strength": 0.7, "height": SIZE[1], "width": SIZE[0]}
    if family == "stable_diffusion_xl":
        about = {"image": picture, "strength": 0.7}
    image, inpainted = finish(
        make(components, steps=6, picture=as_tensor(picture), strength=0.7),
        make(components, steps=6, picture=as_tensor(picture), strength=0.7, mask=as_mask(mask)),
    )
    assert np.abs(image - drawn_by(pipeline, steps=6, **about)).max() <= 1
    pipeline = by_mask.from_pretrained(made, **missing)
    sides = {"height": SIZE[1], "width": SIZE[0]}
    # diffusers' inpainting with SD 3 forgets the VAE's shift when it decodes, so its latents are decoded here.
    latents = latents_by(pipeline, steps=6, **{**about, **sides, "mask_image": mask})
    theirs = decode_latents(components, latents).numpy().astype(int)[0]
    assert np.abs(inpainted - theirs).max() <= 1


def test_a_picture_does_not_depend_on_who_shares_its_passes(components: Components) -> None:
    about = [
        ("ddim", 5, {}),
        ("euler_a", 9, {"guidance_scale": 1.0}),
        ("unipc", 7, {"guidance_rescale": 0.5, "guidance_scale": 4.0}),
        ("dpmpp_2m", 4, {}),
    ]
    alone = [
        finish(make(components, name, seed=place, steps=steps, **own))[0]
        for place, (name, steps, own) in enumerate(about)
    ]
    samples = [make(components, name, seed=place, steps=steps, **own) for place, (name, steps, own) in enumerate(about)]
    step_together(samples[:2])  # the others join one step later
    together = finish(*samples)
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one - other).max() <= 1
    assert len({each.tobytes() for each in together}) == len(about)


def test_controls_steer_their_own_samples_of_a_pass_as_in_diffusers(
    components: Components, folder: Path, picture: Image.Image, mask: Image.Image, tmp_path: Path
) -> None:
    homes = [make_tiny_control(tmp_path / str(seed), folder, seed=seed) for seed in (1, 2)]
    nets = [load_control(home, family="stable_diffusion", device="cpu", dtype=torch.float32) for home in homes]
    theirs = [diffusers.ControlNetModel.from_pretrained(home) for home in homes]
    others = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), picture.transpose(Image.Transpose.ROTATE_180)]
    shown = [as_tensor(each) / 2 + 0.5 for each in others]
    text = diffusers.StableDiffusionPipeline.from_pretrained(folder).components
    sides = {"width": SIZE[0], "height": SIZE[1]}
    begun = {"picture": as_tensor(picture), "strength": 0.6}
    first = {"controls": [Control(nets[0], shown[0], 0.8)]}
    both = {"controls": [Control(nets[0], shown[0], 0.7, end=0.6), Control(nets[1], shown[1], 1.2, start=0.4)]}
    twice = {"controls": [Control(nets[1], shown[0], 0.5), Control(nets[1], shown[1], 0.9)]}
    ends = {"control_guidance_start": [0.0, 0.4], "control_guidance_end": [0.6, 1.0]}
    plain: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (diffusers.StableDiffusionPipeline(**text), sides, {}),
        (
            diffusers.StableDiffusionControlNetPipeline(**text, controlnet=theirs[0]),
            {**sides, "image": others[0], "controlnet_conditioning_scale": 0.8},
            first,
        ),
        (
            diffusers.StableDiffusionControlNetPipeline(**text, controlnet=theirs),
            {**sides, "image": others, "controlnet_conditioning_scale": [0.7, 1.2], **ends},
            both,
        ),
        (
            diffusers.StableDiffusionControlNetPipeline(**text, controlnet=[theirs[1], theirs[1]]),
            {**sides, "image": others, "controlnet_conditioning_scale": [0.5, 0.9]},
            twice,
        ),
        (
            diffusers.StableDiffusionControlNetImg2ImgPipeline(**text, controlnet=theirs),
            {"image": picture, "control_image": others, "strength": 0.6, **ends}
            | {"controlnet_conditioning_scale": [0.7, 1.2]},
            {**begun, **both},
        ),
        (
            diffusers.StableDiffusionControlNetInpaintPipeline(**text, controlnet=theirs[0]),
            {**sides, "image": picture, "mask_image": mask, "control_image": others[0], "strength": 0.6}
            | {"controlnet_conditioning_scale": 0.8},
            {**begun, "mask": as_mask(mask), **first},
        ),
    ]
    mine = finish(*(make(components, **own) for _, _, own in plain))
    for place, (drawn, (pipeline, about, _)) in enumerate(zip(mine, plain, strict=True)):
        assert np.abs(drawn - drawn_by(pipeline, **about)).max() <= 1, place
    assert np.abs(mine[1] - mine[0]).max() > 10  # it does something


def test_clips_share_passes_with_clips(tmp_path: Path, picture: Image.Image) -> None:
    folder = make_tiny_svd(tmp_path / "svd")
    components = load_components([folder], family="stable_video_diffusion", device="cpu", dtype=torch.float32)

    def clip(seed: int, **about: Any) -> Sample:
        scale = about.pop("guidance_scale", 3.0)
        begun = begin_clip(components, as_tensor(picture)[0], seed=seed, num_frames=3, guidance_scale=scale, **about)
        return Sample(
            components,
            make_scheduler(components),
            said=begun.said,
            unsaid=begun.unsaid,
            seed=seed,
            width=SIZE[0],
            height=SIZE[1],
            steps=3 + seed % 2,
            guidance_scale=begun.guidance_scale,
            noise=begun.noise,
        )

    about: list[dict[str, Any]] = [{}, {"guidance_scale": 1.0}, {"motion_bucket_id": 30, "frames_per_second": 12}]
    mine = finish(*(clip(seed, **own) for seed, own in enumerate(about)))
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for seed, own in enumerate(about):
        named = {"fps": own.get("frames_per_second", 7), "motion_bucket_id": own.get("motion_bucket_id", 127)}
        frames = pipeline(
            picture,
            width=SIZE[0],
            height=SIZE[1],
            num_frames=3,
            num_inference_steps=3 + seed % 2,
            max_guidance_scale=own.get("guidance_scale", 3.0),
            generator=torch.Generator("cpu").manual_seed(seed),
            **named,
        ).frames[0]
        theirs = np.stack([np.asarray(frame) for frame in frames]).astype(int)
        assert np.abs(mine[seed] - theirs).max() <= 1, seed
