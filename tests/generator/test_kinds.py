"""Clips, ControlNets and second passes: as diffusers draws them, beside each other, within memory."""

import asyncio
import io
from pathlib import Path
from typing import Any

import av
import diffusers
import numpy as np
import pytest
import torch
from atelier.catalog.v1 import model_pb2
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from PIL import Image

from services.common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from tests.generator.conftest import Studio
from tests.generator.test_beginning import begun_with, half, picture, png
from tests.generator.test_generate import draw, events, pixels, settings
from tests.tiny import make_tiny_control
from tests.tiny_families import make_tiny_svd


async def with_control(studio: Studio, folder: Path, *, seed: int = 1) -> int:
    made = make_tiny_control(folder / f"control{seed}", studio.pipeline, seed=seed)
    return await studio.register(
        made, type=model_pb2.MODEL_TYPE_CONTROLNET, layout=model_pb2.WEIGHTS_LAYOUT_CONTROLNET, native_resolution=0
    )


async def with_clips(studio: Studio, folder: Path) -> int:
    return await studio.register(
        make_tiny_svd(folder / "svd"),
        category=model_pb2.MODEL_CATEGORY_VIDEO,
        family=model_pb2.MODEL_FAMILY_STABLE_VIDEO_DIFFUSION,
    )


def control(model_id: int, seed: int = 4, **about: Any) -> pb.ControlImage:
    return pb.ControlImage(model_id=model_id, image=pb.InputImage(data=png(picture(seed=seed))), **about)


def clip_of(model_id: int, *, format: pb.PictureFormat.ValueType, **fields: Any) -> pb.GenerationSettings:
    moved = pb.ImageToVideo(image=pb.InputImage(data=png(picture(64, 48))), num_frames=3, frames_per_second=6)
    about = {"prompt": "", "guidance_scale": 2.5, "image_to_video": moved, "format": format, "width": 64, "height": 48}
    return settings(model_id, **{**about, **fields})


def plain(pipeline: Any, **about: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    return np.asarray(pipeline("a red apple", guidance_scale=4.0, generator=generator, **about).images[0]).astype(int)


async def test_a_controlnet_steers_as_in_diffusers(studio: Studio, generator: Any, tmp_path: Path) -> None:
    net = await with_control(studio, tmp_path)
    asked = [control(net, weight=0.8, start=0.1, end=0.9)]
    answer = await draw(generator, settings(studio.base_id, steps=6, controls=asked))
    theirs = diffusers.ControlNetModel.from_pretrained(tmp_path / "control1")
    pipe = diffusers.StableDiffusionControlNetPipeline.from_pretrained(studio.pipeline, controlnet=theirs)
    wanted = plain(
        pipe,
        image=picture(seed=4),
        num_inference_steps=6,
        controlnet_conditioning_scale=0.8,
        control_guidance_start=0.1,
        control_guidance_end=0.9,
    )
    assert np.abs(pixels(answer.images[0].data) - wanted).max() <= 1
    without = await draw(generator, settings(studio.base_id, steps=6))
    assert np.abs(pixels(without.images[0].data) - wanted).max() > 10
    told = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
    assert sorted(each.model_id for each in told) == sorted([studio.base_id, net])
    await generator.UnloadModel(rpc.UnloadModelRequest(model_id=net))
    told = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
    assert [each.model_id for each in told] == [studio.base_id]


async def test_a_second_pass_is_image_to_image_over_the_enlarged_first(studio: Studio, generator: Any) -> None:
    second = pb.HighResolutionPass(scale=1.5, strength=0.6, steps=5)
    request = rpc.GenerateRequest(
        settings=settings(studio.base_id, steps=4, high_resolution=second), preview_interval=2
    )
    seen = await events(generator.Generate(request))
    steps = [(event.step.step, event.step.total_steps) for event in seen if event.HasField("step")]
    assert steps == [(step, 7) for step in range(1, 8)]
    previews = [event.preview for event in seen if event.HasField("preview")]
    assert [each.step for each in previews] == [2, 4, 6]
    (image,) = (event.image for event in seen if event.HasField("image"))
    assert (image.image.width, image.image.height) == (96, 96)
    text = diffusers.StableDiffusionPipeline.from_pretrained(studio.pipeline, safety_checker=None)
    first = plain(text, num_inference_steps=4, width=64, height=64)
    large = Image.fromarray(first.astype(np.uint8)).resize((96, 96), Image.Resampling.LANCZOS)
    again = diffusers.StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    wanted = plain(again, image=large, strength=0.6, num_inference_steps=5)
    assert np.abs(pixels(image.data) - wanted).max() <= 2  # a first picture's rounding may differ by one


async def test_a_second_pass_keeps_to_mask_and_controls(studio: Studio, generator: Any, tmp_path: Path) -> None:
    net = await with_control(studio, tmp_path)
    asked = settings(
        studio.base_id,
        steps=4,
        image_to_image=begun_with(png(picture()), png(half()), strength=0.8, mask_blur=0),
        high_resolution=pb.HighResolutionPass(scale=2, strength=0.5),
    )
    answer = await draw(generator, asked)
    drawn = pixels(answer.images[0].data)
    assert drawn.shape == (128, 128, 3)
    kept = np.asarray(picture().resize((128, 128), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(drawn[:, :60] - kept[:, :60]).max() <= 1
    assert np.abs(drawn[:, 68:] - kept[:, 68:]).max() > 10
    asked.controls.append(control(net))
    steered = pixels((await draw(generator, asked)).images[0].data)
    assert np.abs(steered[:, 68:] - drawn[:, 68:]).max() > 5


async def test_a_second_pass_that_the_sampler_cannot_draw_is_refused_before_the_first(
    studio: Studio, generator: Any
) -> None:
    second = pb.HighResolutionPass(steps=60)
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, steps=3, scheduler=pb.SCHEDULER_LCM, high_resolution=second))
    assert "at most 50 steps" in caught.value.message
    assert list(caught.value.violations) == ["settings.high_resolution.steps"]


async def test_a_clip_is_drawn_as_diffusers_does(studio: Studio, generator: Any, tmp_path: Path) -> None:
    model = await with_clips(studio, tmp_path)
    wanted = clip_of(model, format=pb.PICTURE_FORMAT_ANIMATED_WEBP, quality=100)
    seen = await events(generator.Generate(rpc.GenerateRequest(settings=wanted, preview_interval=1)))
    assert [event.step.step for event in seen if event.HasField("step")] == [1, 2, 3]
    assert len([event for event in seen if event.HasField("preview")]) == 2
    (image,) = (event.image for event in seen if event.HasField("image"))
    assert (image.image.num_frames, image.image.width, image.image.height) == (3, 64, 48)
    assert image.image.content_type == "image/webp"
    pipe = diffusers.StableVideoDiffusionPipeline.from_pretrained(tmp_path / "svd")
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        picture(64, 48),
        width=64,
        height=48,
        num_frames=3,
        fps=6,
        num_inference_steps=3,
        max_guidance_scale=2.5,
        generator=torch.Generator("cpu").manual_seed(7),
    ).frames[0]
    with Image.open(io.BytesIO(image.data)) as clip:
        assert getattr(clip, "n_frames", 1) == 3
        for number, frame in enumerate(theirs):
            clip.seek(number)
            mine = np.asarray(clip.convert("RGB")).astype(int)
            assert np.abs(mine - np.asarray(frame).astype(int)).max() <= 1


async def test_a_model_of_clips_refuses_what_is_of_pictures(studio: Studio, generator: Any, tmp_path: Path) -> None:
    model = await with_clips(studio, tmp_path)
    second, begun = pb.HighResolutionPass(), begun_with(png(picture()))
    wanted = clip_of(model, format=pb.PICTURE_FORMAT_PNG, high_resolution=second, image_to_image=begun)
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, wanted)
    fields = ["settings.format", "settings.high_resolution", "settings.image_to_image"]
    assert sorted(caught.value.violations) == fields
    net = await with_control(studio, tmp_path)
    with pytest.raises(FailedPrecondition) as refused:
        await draw(generator, clip_of(model, format=pb.PICTURE_FORMAT_MP4, controls=[control(net)]))
    assert refused.value.reason == "CONTROL_UNSUPPORTED"


async def test_clips_come_as_mp4_and_several_at_once(studio: Studio, generator: Any, tmp_path: Path) -> None:
    model = await with_clips(studio, tmp_path)
    answer = await draw(generator, clip_of(model, format=pb.PICTURE_FORMAT_MP4, count=2))
    assert [each.image.seed for each in answer.images] == [7, 8]
    for each in answer.images:
        with av.open(io.BytesIO(each.data)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (64, 48, 3)
            assert stream.average_rate == 6
    assert answer.images[0].data != answer.images[1].data


async def test_all_kinds_beside_each_other_are_what_each_is_alone(studio: Studio, tmp_path: Path) -> None:
    nets = [await with_control(studio, tmp_path, seed=seed) for seed in (1, 2)]
    clips = await with_clips(studio, tmp_path)
    second = pb.HighResolutionPass(scale=1.5, strength=0.5)
    wanted = [
        settings(studio.base_id, steps=5),
        settings(studio.base_id, seed=8, controls=[control(nets[0])], steps=6),
        settings(studio.lora_id, seed=9, controls=[control(nets[0], 5), control(nets[1], 6, weight=0.5)]),
        settings(studio.base_id, seed=10, high_resolution=second, count=2),
        settings(studio.lora_id, seed=11, high_resolution=second, controls=[control(nets[1])], steps=2),
        settings(studio.base_id, seed=12, image_to_image=begun_with(png(picture())), controls=[control(nets[0])]),
        clip_of(clips, format=pb.PICTURE_FORMAT_ANIMATED_WEBP, quality=100),
    ]
    async with studio.generator() as generator:
        together = await asyncio.gather(*(draw(generator, each) for each in wanted))
    async with studio.generator() as generator:
        alone = [await draw(generator, each) for each in wanted]
    for one, other in zip(together, alone, strict=True):
        for mine, theirs in zip(one.images, other.images, strict=True):
            assert np.abs(pixels(mine.data) - pixels(theirs.data)).max() <= 2


async def test_a_controlnet_of_another_unet_sinks_its_own_request_alone(
    studio: Studio, generator: Any, tmp_path: Path
) -> None:
    shallow = diffusers.UNet2DConditionModel.load_config(studio.pipeline / "unet")
    deep = diffusers.UNet2DConditionModel.from_config({**shallow, "layers_per_block": 2})
    made = tmp_path / "deep"
    diffusers.ControlNetModel.from_unet(deep, conditioning_embedding_out_channels=(8, 8, 16)).save_pretrained(made)
    net = await studio.register(
        made, type=model_pb2.MODEL_TYPE_CONTROLNET, layout=model_pb2.WEIGHTS_LAYOUT_CONTROLNET, native_resolution=0
    )
    good = asyncio.create_task(draw(generator, settings(studio.base_id, steps=20)))
    with pytest.raises(FailedPrecondition) as caught:
        await draw(generator, settings(studio.base_id, controls=[control(net)]))
    assert caught.value.reason == "CONTROL_MISMATCH"
    assert len((await good).images) == 1


async def test_controlnets_leave_when_the_budget_is_full(studio: Studio, tmp_path: Path) -> None:
    nets = [await with_control(studio, tmp_path, seed=seed) for seed in (1, 2, 3)]
    base = sum(file.stat().st_size for file in studio.pipeline.rglob("*.safetensors"))
    one = sum(file.stat().st_size for file in (tmp_path / "control1").glob("*.safetensors"))
    budget = base + 2 * one + one // 2
    async with studio.generator(memory_bytes=budget) as generator:
        requests = [settings(studio.base_id, controls=[control(net)]) for net in nets * 2]
        answers = await asyncio.gather(*(draw(generator, each) for each in requests))
        loaded = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
        assert sum(each.memory_bytes for each in loaded) <= budget
    for place in range(3):
        again = answers[place + 3].images[0].data
        assert np.abs(pixels(answers[place].images[0].data) - pixels(again)).max() <= 1
    async with studio.generator(memory_bytes=base + one // 2) as generator:
        with pytest.raises(ResourceExhausted) as caught:
            await draw(generator, settings(studio.base_id, controls=[control(nets[0])]))
        assert caught.value.reason == "OUT_OF_MEMORY"
