"""What a request may ask for beside words: a picture to begin with, a mask, a format, to be drawn alone, to be kept."""

import asyncio
import io
import json
import uuid
from typing import Any

import diffusers
import grpc
import numpy as np
import pytest
import torch
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from PIL import ExifTags, Image

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, pixels, settings


def picture(width: int = 64, height: int = 64, seed: int = 3) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def half(width: int = 64, height: int = 64) -> Image.Image:
    """White on the right."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return Image.fromarray(mask)


def begun_with(data: bytes, mask: bytes | None = None, **about: Any) -> pb.ImageToImage:
    inpainting = {} if mask is None else {"mask": pb.InputImage(data=mask)}
    return pb.ImageToImage(image=pb.InputImage(data=data), **inpainting, **about)


async def test_a_picture_is_drawn_on_as_diffusers_does(studio: Studio, generator: Any) -> None:
    asked = begun_with(png(picture()), strength=0.7)
    answer = await draw(generator, settings(studio.base_id, steps=6, image_to_image=asked))
    pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(studio.pipeline, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "a red apple",
        image=picture(),
        strength=0.7,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert np.abs(pixels(answer.images[0].data) - np.asarray(theirs).astype(int)).max() <= 1
    told = answer.generation.settings.image_to_image
    assert (told.strength, told.mask_blur, len(told.image.sha256)) == (0.7, 4, 64)
    # The digest is enough the next time, and gives the same picture.
    told_again = settings(studio.base_id, steps=6, image_to_image=told)
    assert (await draw(generator, told_again)).images[0].data == answer.images[0].data
    text = Image.open(io.BytesIO(answer.images[0].data)).text["parameters"]
    assert "Denoising strength: 0.7" in text


async def test_what_the_mask_keeps_is_kept_to_the_pixel(studio: Studio, generator: Any) -> None:
    asked = begun_with(png(picture()), png(half()), strength=1.0, mask_blur=0)
    answer = await draw(generator, settings(studio.base_id, steps=4, image_to_image=asked))
    drawn, given = pixels(answer.images[0].data), np.asarray(picture()).astype(int)
    assert np.array_equal(drawn[:, :32], given[:, :32])
    assert np.abs(drawn[:, 32:] - given[:, 32:]).mean() > 5
    faded = begun_with(png(picture()), png(half()), strength=1.0, mask_blur=8)
    blurred = pixels((await draw(generator, settings(studio.base_id, steps=4, image_to_image=faded))).images[0].data)
    assert np.array_equal(blurred[:, :16], given[:, :16])
    assert not np.array_equal(blurred[:, :32], given[:, :32])


async def test_a_generated_picture_is_gone_on_with_and_named_as_the_parent(studio: Studio, generator: Any) -> None:
    first = await draw(generator, settings(studio.base_id))
    parent = pb.GeneratedImageRef(generation_id=first.generation.id, index=0)
    asked = pb.ImageToImage(image=pb.InputImage(generated=parent), strength=0.5)
    second = await draw(generator, settings(studio.base_id, image_to_image=asked, seed=9))
    assert list(second.generation.parents) == [parent]
    missing = pb.ImageToImage(
        image=pb.InputImage(generated=pb.GeneratedImageRef(generation_id=first.generation.id, index=5))
    )
    with pytest.raises(NotFound):
        await draw(generator, settings(studio.base_id, image_to_image=missing))


@pytest.mark.parametrize(
    ("given", "sides", "drawn"),
    [
        ((200, 100), {}, (96, 48)),
        ((64, 64), {}, (64, 64)),
        ((40, 90), {"width": 64, "height": 32}, (64, 32)),
        ((90, 40), {"height": 48}, (112, 48)),
    ],
)
async def test_a_picture_gives_its_shape_where_none_is_asked_for(
    studio: Studio, generator: Any, given: tuple[int, int], sides: dict[str, int], drawn: tuple[int, int]
) -> None:
    asked = begun_with(png(picture(*given)), png(half(*given)))
    answer = await draw(generator, settings(studio.base_id, image_to_image=asked, **sides))
    assert Image.open(io.BytesIO(answer.images[0].data)).size == drawn


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (begun_with(b"no picture at all"), "settings.image_to_image.image"),
        (begun_with(png(picture()), b"neither"), "settings.image_to_image.mask"),
        (begun_with(png(picture()), png(half(32, 64))), "settings.image_to_image.mask"),
        (pb.ImageToImage(image=pb.InputImage(sha256="0" * 64)), "settings.image_to_image.image"),
    ],
)
async def test_what_is_no_picture_names_its_field(
    studio: Studio, generator: Any, asked: pb.ImageToImage, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, image_to_image=asked))
    assert list(caught.value.violations) == [field]


@pytest.mark.parametrize(
    ("kind", "name", "type"),
    [(pb.PICTURE_FORMAT_WEBP, "WEBP", "image/webp"), (pb.PICTURE_FORMAT_JPEG, "JPEG", "image/jpeg")],
)
async def test_other_formats_hold_the_settings_too(
    studio: Studio, generator: Any, kind: pb.PictureFormat.ValueType, name: str, type: str
) -> None:
    plain = await draw(generator, settings(studio.base_id, prompt="a red apple, été"))
    answer = await draw(generator, settings(studio.base_id, prompt="a red apple, été", format=kind, quality=100))
    image = Image.open(io.BytesIO(answer.images[0].data))
    assert image.format == name
    assert answer.images[0].image.content_type == type
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment.startswith(b"UNICODE\0")
    told = Image.open(io.BytesIO(plain.images[0].data)).text["parameters"]
    assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == told
    request = json.loads(image.getexif()[ExifTags.Base.ImageDescription])
    assert request["settings"]["format"] == pb.PictureFormat.Name(kind)
    apart = np.abs(pixels(answer.images[0].data) - pixels(plain.images[0].data))
    assert apart.max() == 0 if name == "WEBP" else apart.mean() < 3
    download = rpc.DownloadGeneratedImageRequest(generation_id=answer.generation.id, index=0)
    assert (await generator.DownloadGeneratedImage(download)).content.content_type == type


async def test_words_have_weights_unless_they_are_plain(studio: Studio, generator: Any) -> None:
    async def of(prompt: str, **about: Any) -> bytes:
        return (await draw(generator, settings(studio.base_id, prompt=prompt, **about))).images[0].data

    def same(one: bytes, other: bytes) -> bool:
        return bool(np.array_equal(pixels(one), pixels(other)))

    plain = await of("a red apple")
    assert not same(await of("a (red:1.6) apple"), plain)
    assert same(await of("a (red:1.0) apple"), plain)
    assert not same(await of("a (red:1.6) apple", prompt_syntax=pb.PROMPT_SYNTAX_PLAIN), await of("a (red:1.6) apple"))
    long = "red " * 40
    answer = await draw(generator, settings(studio.base_id, prompt=long))
    assert not answer.generation.warnings
    cut = await draw(generator, settings(studio.base_id, prompt=long, prompt_syntax=pb.PROMPT_SYNTAX_PLAIN))
    assert "was left out" in cut.generation.warnings[0]


async def test_what_is_drawn_alone_has_the_same_bytes_whoever_else_draws(studio: Studio, generator: Any) -> None:
    wanted = settings(studio.base_id, steps=8, count=2, deterministic=True)
    alone = await draw(generator, wanted)
    others = [asyncio.create_task(draw(generator, settings(studio.base_id, steps=20, seed=n))) for n in range(5)]
    amidst = await draw(generator, wanted)
    await asyncio.gather(*others)
    assert [image.data for image in amidst.images] == [image.data for image in alone.images]


@pytest.mark.parametrize("unary", [False, True])
async def test_a_client_that_leaves_frees_its_place_and_may_ask_again(studio: Studio, unary: bool) -> None:
    request_id = str(uuid.uuid4())
    async with studio.generator(max_active=1) as generator:
        wanted = settings(studio.base_id, steps=900)
        if unary:
            call = generator.GenerateImages(
                rpc.GenerateImagesRequest(settings=wanted, request_id=request_id), timeout=1.0
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            call = generator.Generate(rpc.GenerateRequest(settings=wanted, request_id=request_id))
            async for event in call:
                if event.HasField("step"):
                    break
            call.cancel()
        # Its place is free: another one is drawn, which waited for it.
        assert (await draw(generator, settings(studio.base_id))).images
        (other, left) = (await generator.ListGenerations(rpc.ListGenerationsRequest())).generations
        assert (other.status, left.status) == (pb.GENERATION_STATUS_COMPLETED, pb.GENERATION_STATUS_CANCELLED)
        again = generator.Generate(rpc.GenerateRequest(settings=wanted, request_id=request_id))
        async for event in again:
            if event.HasField("step"):
                break
        assert event.generation_id == left.id
        await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=left.id))


async def test_models_are_brought_into_memory_and_taken_out(studio: Studio, generator: Any) -> None:
    loaded = await generator.LoadModel(rpc.LoadModelRequest(model_id=studio.lora_id))
    assert (loaded.model.model_id, list(loaded.model.lora_model_ids)) == (studio.base_id, [studio.lora_id])
    stream = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000)))
    async for event in stream:
        if event.HasField("step"):
            break
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generator.UnloadModel(rpc.UnloadModelRequest(model_id=studio.base_id))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await generator.UnloadModel(rpc.UnloadModelRequest(model_id=studio.lora_id))
    (model,) = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
    assert (model.num_drawing, list(model.lora_model_ids)) == (1, [])
    await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=event.generation_id))
    await generator.UnloadModel(rpc.UnloadModelRequest(model_id=studio.base_id))
    assert not (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
async def test_a_prompt_of_very_many_chunks_is_refused(studio: Studio, generator: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, **{field: "cat BREAK " * 41}))
    assert list(caught.value.violations) == [f"settings.{field}"]
    assert "41 chunks" in caught.value.message
    answer = await draw(generator, settings(studio.base_id, **{field: "cat BREAK " * 40}))
    assert len(answer.images) == 1


async def test_what_a_model_of_pictures_does_not_draw_is_refused_by_name(studio: Studio, generator: Any) -> None:
    clip = pb.ImageToVideo(image=pb.InputImage(data=png(picture())))
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, image_to_video=clip, format=pb.PICTURE_FORMAT_MP4))
    assert sorted(caught.value.violations) == ["settings.format", "settings.image_to_video"]
    with pytest.raises(FailedPrecondition) as refused:
        await draw(generator, settings(await _video_model(studio)))
    assert refused.value.reason == "CATEGORY_UNSUPPORTED"


async def _video_model(studio: Studio) -> int:
    from atelier.catalog.v1 import model_pb2

    return await studio.register(studio.pipeline, name="video", category=model_pb2.MODEL_CATEGORY_VIDEO)
