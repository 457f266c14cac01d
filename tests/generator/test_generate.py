"""Drawing over a real channel, with real (tiny) models of a real Catalog."""

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from PIL import Image

from services.common.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.common.status import error_from_rpc
from tests.generator.conftest import Studio
from tests.ldm import sd1_checkpoint
from tests.tiny import make_tiny_pipeline


def settings(model_id: int, **fields: Any) -> pb.GenerationSettings:
    return pb.GenerationSettings(
        **{"model_id": model_id, "prompt": "a red apple", "steps": 3, "seed": 7, "guidance_scale": 4.0, **fields}
    )


async def draw(generator: Any, wanted: pb.GenerationSettings, **fields: Any) -> rpc.GenerateImagesResponse:
    try:
        return await generator.GenerateImages(rpc.GenerateImagesRequest(settings=wanted, **fields))
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, peer="the Generator") from error


async def events(stream: Any) -> list[rpc.GenerateResponse]:
    try:
        return [event async for event in stream]
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, peer="the Generator") from error


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def plain_picture(studio: Studio, *, lora: float | None = None, **options: Any) -> np.ndarray:
    """What diffusers draws by itself with the same weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(studio.pipeline, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(str(studio.lora_file.parent), weight_name=studio.lora_file.name, adapter_name="it")
        pipe.set_adapters(["it"], [lora])
    image = pipe(
        "a red apple",
        negative_prompt=options.pop("negative_prompt", ""),
        num_inference_steps=3,
        guidance_scale=4.0,
        height=64,
        width=64,
        generator=torch.Generator("cpu").manual_seed(7),
        **options,
    ).images[0]
    return np.asarray(image).astype(int)


async def test_a_stream_tells_its_way_in_order(studio: Studio, generator: Any) -> None:
    request = rpc.GenerateRequest(settings=settings(studio.base_id, count=2), preview_interval=1)
    seen = await events(generator.Generate(request))
    kinds = [event.WhichOneof("event") for event in seen]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"
    assert kinds.index("loading") < kinds.index("step") < kinds.index("preview") < kinds.index("image")
    steps = [event.step for event in seen if event.WhichOneof("event") == "step"]
    assert [(step.step, step.total_steps, step.count) for step in steps] == [(1, 3, 2), (2, 3, 2), (3, 3, 2)]
    images = [event.image for event in seen if event.WhichOneof("event") == "image"]
    assert [(each.image.index, each.image.seed) for each in images] == [(0, 7), (1, 8)]
    assert len({event.generation_id for event in seen}) == 1
    done = seen[-1].done.generation
    assert done.status == pb.GENERATION_STATUS_COMPLETED
    assert [image.sha256 for image in done.images] == [each.image.sha256 for each in images]
    assert pixels(next(event.preview.data for event in seen if event.HasField("preview"))).shape == (16, 16, 3)


async def test_the_answer_shows_every_default(studio: Studio, generator: Any) -> None:
    answer = await draw(generator, pb.GenerationSettings(model_id=studio.base_id, prompt="x", steps=1))
    filled = answer.generation.settings
    assert (filled.width, filled.height, filled.count) == (64, 64, 1)
    assert (filled.guidance_scale, filled.guidance_rescale) == (7.5, 0.0)
    assert filled.HasField("seed")
    assert not filled.HasField("lora_weight")


async def test_the_same_request_gives_the_same_bytes_also_after_a_restart(studio: Studio) -> None:
    wanted = settings(studio.lora_id, count=2, scheduler=pb.SCHEDULER_EULER_ANCESTRAL)
    async with studio.generator() as generator:
        first = [each.data for each in (await draw(generator, wanted)).images]
        again = [each.data for each in (await draw(generator, wanted)).images]
    async with studio.generator() as generator:
        later = [each.data for each in (await draw(generator, wanted)).images]
    assert first == again == later
    assert first[0] != first[1]


@pytest.mark.parametrize("weight", [None, 0.5, 1.0])
async def test_pictures_agree_with_a_plain_diffusers_pipeline(
    studio: Studio, generator: Any, weight: float | None
) -> None:
    wanted = settings(studio.base_id if weight is None else studio.lora_id, lora_weight=weight, negative_prompt="blue")
    mine = pixels((await draw(generator, wanted)).images[0].data)
    theirs = plain_picture(studio, lora=weight, negative_prompt="blue")
    assert np.abs(mine - theirs).max() <= 1
    assert theirs.std() > 5  # there is something to agree on


async def test_a_lora_changes_the_picture_and_weight_zero_does_not(studio: Studio, generator: Any) -> None:
    base = pixels((await draw(generator, settings(studio.base_id))).images[0].data)
    off = pixels((await draw(generator, settings(studio.lora_id, lora_weight=0))).images[0].data)
    full = pixels((await draw(generator, settings(studio.lora_id))).images[0].data)
    assert np.array_equal(base, off)
    assert not np.array_equal(base, full)


async def test_a_lora_named_beside_the_base_is_the_same_as_its_own_model(studio: Studio, generator: Any) -> None:
    own = await draw(generator, settings(studio.lora_id, lora_weight=0.5))
    beside = [pb.LoraWeight(model_id=studio.lora_id, weight=0.5)]
    named = await draw(generator, settings(studio.base_id, loras=beside))
    assert np.array_equal(pixels(own.images[0].data), pixels(named.images[0].data))


async def test_a_picture_carries_its_settings(studio: Studio, generator: Any) -> None:
    wanted = settings(studio.lora_id, prompt="été, a red apple", negative_prompt="blue")
    image = Image.open(io.BytesIO((await draw(generator, wanted)).images[0].data))
    lines = image.text["parameters"].split("\n")
    assert lines[0] == "été, a red apple <lora:tiny-lora:1>"
    assert lines[1] == "Negative prompt: blue"
    assert lines[2].startswith("Steps: 3, Sampler: DDIM, CFG scale: 4, Seed: 7, Size: 64x64, Model hash: ")
    request = json.loads(image.text["atelier"])
    assert request["settings"]["prompt"] == "été, a red apple"
    assert request["settings"]["seed"] == "7"


async def test_loaded_models_are_kept_and_reused(studio: Studio, generator: Any) -> None:
    await draw(generator, settings(studio.base_id))
    seen = await events(generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id))))
    assert "loading" not in [event.WhichOneof("event") for event in seen]
    await draw(generator, settings(studio.lora_id))
    (loaded,) = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
    assert (loaded.model_id, list(loaded.lora_model_ids)) == (studio.base_id, [studio.lora_id])
    assert loaded.memory_bytes > 0


async def test_a_full_model_takes_what_it_lacks_from_its_base(studio: Studio, generator: Any, tmp_path: Any) -> None:
    other = make_tiny_pipeline(tmp_path / "other", seed=5)
    folder = tmp_path / "tuned"
    folder.mkdir()
    (other / "unet").rename(folder / "unet")
    tuned = await studio.register(folder, type=model_pb2.MODEL_TYPE_FULL, base_model_id=studio.base_id)
    base = pixels((await draw(generator, settings(studio.base_id))).images[0].data)
    mine = pixels((await draw(generator, settings(tuned))).images[0].data)
    assert not np.array_equal(base, mine)


async def test_cancelling_ends_it_within_a_step(studio: Studio, generator: Any) -> None:
    stream = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000, count=4)))
    steps_after = 0
    cancelled = None
    with pytest.raises(Cancelled):  # noqa: PT012  # the stream ends with the error
        try:
            async for event in stream:
                if event.HasField("step"):
                    if cancelled is None:
                        request = rpc.CancelGenerationRequest(generation_id=event.generation_id)
                        cancelled = (await generator.CancelGeneration(request)).generation
                        at = event.step.step
                    steps_after = max(steps_after, event.step.step)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, peer="the Generator") from error
    assert cancelled is not None
    assert cancelled.status == pb.GENERATION_STATUS_CANCELLED
    assert steps_after < 1000
    assert at < 1000
    again = await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=cancelled.id))
    assert again.generation == cancelled


async def test_a_waiting_generation_is_cancelled_at_once(studio: Studio) -> None:
    async with studio.generator(max_active=8) as generator:
        await _cancelled_while_it_waits(studio, generator)


async def _cancelled_while_it_waits(studio: Studio, generator: Any) -> None:
    long = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000, count=8)))
    first = await anext(aiter(long))
    waiting = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id)))
    second = await anext(aiter(waiting))
    await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=second.generation_id))
    with pytest.raises(Cancelled):
        await events(waiting)
    await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=first.generation_id))
    after = await draw(generator, settings(studio.base_id))
    assert after.generation.status == pb.GENERATION_STATUS_COMPLETED


async def test_a_client_that_leaves_does_not_stop_what_shall_be_kept(studio: Studio, generator: Any) -> None:
    request = rpc.GenerateRequest(settings=settings(studio.base_id, steps=20), keep_drawing=True)
    stream = generator.Generate(request)
    generation_id = (await anext(aiter(stream))).generation_id
    stream.cancel()
    request = rpc.GetGenerationRequest(generation_id=generation_id)
    for _ in range(200):
        generation = (await generator.GetGeneration(request)).generation
        if generation.status == pb.GENERATION_STATUS_COMPLETED:
            break
        await asyncio.sleep(0.05)
    assert generation.status == pb.GENERATION_STATUS_COMPLETED
    picture = await generator.DownloadGeneratedImage(
        rpc.DownloadGeneratedImageRequest(generation_id=generation_id, index=0)
    )
    assert picture.content.content_type == "image/png"
    assert pixels(picture.content.data).shape == (64, 64, 3)


async def test_a_retry_gets_the_first_generation_and_draws_nothing_twice(studio: Studio) -> None:
    request_id = str(uuid.uuid4())
    wanted = settings(studio.base_id)
    async with studio.generator() as generator:
        both = await asyncio.gather(*(draw(generator, wanted, request_id=request_id) for _ in range(4)))
        assert len({answer.generation.id for answer in both}) == 1
        assert len({answer.images[0].data for answer in both}) == 1
        total = (await generator.ListGenerations(rpc.ListGenerationsRequest())).total_size
        assert total == 1
    async with studio.generator() as generator:
        later = await draw(generator, wanted, request_id=request_id)
    assert later.generation == both[0].generation
    assert later.images[0].data == both[0].images[0].data


async def test_a_full_queue_says_when_to_come_back(studio: Studio) -> None:
    async with studio.generator(max_queue=1, max_active=8) as generator:
        long = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000, count=8)))
        reader = aiter(long)
        while not (running := await anext(reader)).HasField("step"):
            pass
        waiting = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id)))
        await anext(aiter(waiting))
        with pytest.raises(ResourceExhausted) as caught:
            await draw(generator, settings(studio.base_id))
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_seconds is not None
        await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=running.generation_id))
        assert (await events(waiting))[-1].HasField("done")


async def test_requests_that_come_at_once_do_not_overfill_the_queue(studio: Studio) -> None:
    async with studio.generator(max_queue=2, max_active=8) as generator:
        long = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000, count=8)))
        reader = aiter(long)
        while not (running := await anext(reader)).HasField("step"):
            pass
        many = [asyncio.create_task(draw(generator, settings(studio.base_id, seed=seed))) for seed in range(8)]
        for refused_one in islice(asyncio.as_completed(many), 6):
            with pytest.raises(ResourceExhausted):
                await refused_one
        await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=running.generation_id))
        answers = await asyncio.gather(*many, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert len(refused) == 6
        assert all(len(answer.images) == 1 for answer in answers if answer not in refused)


async def test_what_was_accepted_goes_on_after_a_restart(studio: Studio) -> None:
    async with studio.generator() as generator:
        asked = settings(studio.base_id, steps=400, count=2)
        long = generator.Generate(rpc.GenerateRequest(settings=asked, keep_drawing=True))
        reader = aiter(long)
        while not (running := await anext(reader)).HasField("step"):
            pass
        later = rpc.GenerateRequest(settings=settings(studio.base_id, seed=9), keep_drawing=True)
        waiting = await anext(aiter(generator.Generate(later)))
        long.cancel()
    async with studio.generator() as generator:
        for _ in range(400):
            found = (await generator.ListGenerations(rpc.ListGenerationsRequest())).generations
            if all(each.status == pb.GENERATION_STATUS_COMPLETED for each in found):
                break
            await asyncio.sleep(0.05)
    assert {each.id for each in found} == {running.generation_id, waiting.generation_id}
    assert {each.status for each in found} == {pb.GENERATION_STATUS_COMPLETED}
    assert sorted(len(each.images) for each in found) == [1, 2]


async def test_the_gallery_lists_pages_and_deletes(studio: Studio, generator: Any) -> None:
    ids = [(await draw(generator, settings(studio.base_id, steps=1, seed=seed))).generation.id for seed in range(3)]
    page = await generator.ListGenerations(rpc.ListGenerationsRequest(page_size=2))
    assert [each.id for each in page.generations] == ids[:0:-1]
    assert page.total_size == 3
    rest = await generator.ListGenerations(rpc.ListGenerationsRequest(page_size=2, page_token=page.next_page_token))
    assert [each.id for each in rest.generations] == ids[:1]
    assert not rest.next_page_token
    await generator.DeleteGeneration(rpc.DeleteGenerationRequest(generation_id=ids[0]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generator.GetGeneration(rpc.GetGenerationRequest(generation_id=ids[0]))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("scheduler", sorted(set(pb.Scheduler.values()) - {0}))
async def test_every_scheduler_draws(studio: Studio, generator: Any, scheduler: int) -> None:
    answer = await draw(generator, settings(studio.base_id, scheduler=scheduler, steps=4))
    assert pixels(answer.images[0].data).std() > 1


async def test_more_steps_than_a_sampler_takes_name_the_field(studio: Studio, generator: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, scheduler=pb.SCHEDULER_LCM, steps=51))
    assert list(caught.value.violations) == ["settings.steps"]
    assert "at most 50" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"width": 513}, "settings.width"),
        ({"height": 72}, "settings.height"),
        ({"steps": 100_000}, "settings.steps"),
        ({"steps": 0}, "settings.steps"),
        ({"scheduler": 99}, "settings.scheduler"),
        ({"count": 65}, "settings.count"),
        ({"guidance_scale": float("nan")}, "settings.guidance_scale"),
        ({"lora_weight": float("inf")}, "settings.lora_weight"),
        ({"lora_weight": 1.0}, "settings.lora_weight"),
        ({"seed": 2**60}, "settings.seed"),
        ({"prompt": "a\0b"}, "settings.prompt"),
        ({"prompt": "a" * 10_001}, "settings.prompt"),
        ({"loras": [pb.LoraWeight(model_id=0)]}, "settings.loras[0].model_id"),
    ],
)
async def test_bad_settings_name_their_field(
    studio: Studio, generator: Any, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, **fields))
    assert list(caught.value.violations) == [field]


async def test_an_unknown_model_is_not_found(generator: Any) -> None:
    with pytest.raises(NotFound) as caught:
        await draw(generator, settings(4242))
    assert (caught.value.kind, caught.value.id) == ("model", "4242")


async def test_a_model_whose_weights_are_gone_names_the_file(studio: Studio, generator: Any) -> None:
    model = (await studio.catalog.GetModel(catalog_pb2.GetModelRequest(model_id=studio.base_id))).model
    unet = next(file for file in model.stored.files if file.path.startswith("unet/") and "safetensors" in file.path)
    studio.blobs.delete(unet.sha256)
    with pytest.raises(FailedPrecondition) as caught:
        await draw(generator, settings(studio.base_id))
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"
    assert unet.path in caught.value.message


async def test_a_hub_model_without_a_network_says_how_to_provide_it(studio: Studio, generator: Any) -> None:
    hub = model_pb2.HubWeights(repo_id="somebody/model", revision="0" * 40)
    request = catalog_pb2.RegisterModelRequest(
        name="far away",
        type=model_pb2.MODEL_TYPE_BASE_MODEL,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_PIPELINE,
        hub=hub,
        native_resolution=512,
    )
    model_id = (await studio.catalog.RegisterModel(request)).model.id
    request_id = str(uuid.uuid4())
    for _ in range(2):  # a retry is told the same
        with pytest.raises(FailedPrecondition) as caught:
            await draw(generator, settings(model_id), request_id=request_id)
        assert caught.value.reason == "WEIGHTS_UNAVAILABLE"
        assert "ATELIER_WEIGHTS_DIR/somebody/model" in caught.value.message


async def test_an_inactive_model_does_not_draw(studio: Studio, generator: Any) -> None:
    request = catalog_pb2.UpdateModelRequest(model_id=studio.base_id, model=model_pb2.Model(is_active=False))
    request.update_mask.paths.append("is_active")
    await studio.catalog.UpdateModel(request)
    with pytest.raises(FailedPrecondition) as caught:
        await draw(generator, settings(studio.base_id))
    assert caught.value.reason == "MODEL_INACTIVE"


async def test_a_lora_of_another_base_is_refused(studio: Studio, generator: Any) -> None:
    other = await studio.register(studio.pipeline, name="another base")
    with pytest.raises(FailedPrecondition) as caught:
        await draw(generator, settings(other, loras=[pb.LoraWeight(model_id=studio.lora_id)]))
    assert caught.value.reason == "LORA_MISMATCH"


async def test_a_model_that_is_not_of_its_family_names_what_it_lacks(studio: Studio, generator: Any) -> None:
    family = model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL
    model_id = await studio.register(studio.pipeline, name="xl", family=family)
    with pytest.raises(FailedPrecondition, match="tokenizer_2") as caught:
        await draw(generator, settings(model_id))
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"


async def test_a_prompt_that_is_too_long_is_cut_with_a_warning(studio: Studio, generator: Any) -> None:
    wanted = settings(studio.base_id, prompt="red apple " * 100, steps=1, prompt_syntax=pb.PROMPT_SYNTAX_PLAIN)
    answer = await draw(generator, wanted)
    (warning,) = answer.generation.warnings
    assert warning.startswith("prompt has more than the")


async def test_capabilities_name_what_there_is(generator: Any) -> None:
    answer = await generator.GetGeneratorCapabilities(rpc.GetGeneratorCapabilitiesRequest())
    names = {model_pb2.ModelFamily.Name(family) for family in answer.families}
    assert names == {
        "MODEL_FAMILY_STABLE_DIFFUSION",
        "MODEL_FAMILY_STABLE_DIFFUSION_XL",
        "MODEL_FAMILY_STABLE_DIFFUSION_3",
        "MODEL_FAMILY_STABLE_VIDEO_DIFFUSION",
    }
    assert [model_pb2.ModelFamily.Name(family) for family in answer.clip_families] == [
        "MODEL_FAMILY_STABLE_VIDEO_DIFFUSION"
    ]
    assert {model_pb2.ModelFamily.Name(family) for family in answer.control_families} == {
        "MODEL_FAMILY_STABLE_DIFFUSION",
        "MODEL_FAMILY_STABLE_DIFFUSION_XL",
    }
    assert {pb.PICTURE_FORMAT_MP4, pb.PICTURE_FORMAT_ANIMATED_WEBP, pb.PICTURE_FORMAT_PNG} <= set(answer.formats)
    names = {info.display_name for info in (await generator.ListSchedulers(rpc.ListSchedulersRequest())).schedulers}
    assert {"DDIM", "Euler a", "DPM++ 2M Karras"} <= names
    assert len(answer.schedulers) == len(names)


async def test_a_checkpoint_as_one_file_is_taken_in_and_draws_as_its_folder_does(
    studio: Studio, generator: Any, tmp_path: Path
) -> None:
    other = make_tiny_pipeline(tmp_path / "other", seed=5)
    data = sd1_checkpoint(other, tmp_path / "checkpoint.safetensors").read_bytes()

    async def parts() -> AsyncIterator[catalog_pb2.ImportModelRequest]:
        start = catalog_pb2.ImportStart(name="a checkpoint", base_model_id=studio.base_id)
        yield catalog_pb2.ImportModelRequest(start=start)
        for offset in range(0, len(data), 1 << 20):
            piece = catalog_pb2.ImportChunk(offset=offset, data=data[offset : offset + (1 << 20)])
            yield catalog_pb2.ImportModelRequest(chunk=piece)

    checkpoint = (await studio.catalog.ImportModel(parts())).model
    folder = await studio.register(other)
    drawn = await draw(generator, settings(checkpoint.id))
    expected = await draw(generator, settings(folder))
    assert np.array_equal(pixels(drawn.images[0].data), pixels(expected.images[0].data))
    plain = await draw(generator, settings(studio.base_id))
    assert not np.array_equal(pixels(drawn.images[0].data), pixels(plain.images[0].data))
    loras = [pb.LoraWeight(model_id=studio.lora_id, weight=0.8)]
    with_lora = await draw(generator, settings(checkpoint.id, loras=loras))
    assert not np.array_equal(pixels(with_lora.images[0].data), pixels(drawn.images[0].data))
