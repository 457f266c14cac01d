"""The engine under real requests: what is drawn together is what each draws alone."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier.catalog.v1 import model_pb2
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc

from services.common.errors import Cancelled, ResourceExhausted
from services.generator.engine import engine
from tests.diffusion.test_mixed import make_lora
from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, events, pixels, settings
from tests.tiny import make_tiny_pipeline
from tests.tiny_families import make_tiny_sdxl


async def with_loras(studio: Studio, folder: Path) -> list[int]:
    """LoRAs of several ranks and kinds, one of which peft alone knows."""
    kinds: list[dict[str, Any]] = [{"rank": 2}, {"rank": 9, "text_encoders": True}, {"rank": 3, "dora": True}]
    ids = [studio.lora_id]
    for place, about in enumerate(kinds):
        lora = make_lora(folder / f"lora{place}", studio.pipeline, place, **about)
        ids.append(await studio.register_lora(lora.parent, studio.base_id))
    return ids


async def with_sdxl(studio: Studio, folder: Path) -> int:
    family = model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL
    return await studio.register(make_tiny_sdxl(folder / "sdxl"), family=family)


async def various(studio: Studio, folder: Path) -> list[pb.GenerationSettings]:
    """Requests that differ in all that may differ in one pass, and in what may not."""
    loras = await with_loras(studio, folder)
    both = [pb.LoraWeight(model_id=loras[1], weight=0.6), pb.LoraWeight(model_id=loras[2], weight=-0.5)]
    return [
        settings(studio.base_id),
        settings(studio.base_id, seed=8, steps=9, scheduler=pb.SCHEDULER_EULER_ANCESTRAL, prompt="a blue cat"),
        settings(loras[0], seed=9, lora_weight=0.8, guidance_scale=1.0),
        settings(loras[1], seed=10, steps=6, scheduler=pb.SCHEDULER_UNIPC),
        settings(loras[2], seed=11, steps=4, guidance_rescale=0.5),
        settings(loras[3], seed=12, steps=5),
        settings(studio.base_id, seed=13, loras=both, scheduler=pb.SCHEDULER_DPMPP_2M, steps=7),
        settings(loras[3], seed=14, loras=both[:1], count=2),
        settings(studio.base_id, seed=15, width=96, height=64),
        settings(await with_sdxl(studio, folder), seed=16),
        settings(studio.base_id, seed=17, count=3, steps=2, negative_prompt="blue"),
    ]


async def test_what_is_drawn_together_is_what_each_draws_alone(studio: Studio, tmp_path: Path) -> None:
    wanted = await various(studio, tmp_path)
    async with studio.generator() as generator:
        together = await asyncio.gather(*(draw(generator, each) for each in wanted))
        loaded = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
        assert len(loaded) == 2
    async with studio.generator() as generator:
        alone = [await draw(generator, each) for each in wanted]
    seen = set()
    for one, other in zip(together, alone, strict=True):
        assert [image.image.seed for image in one.images] == [image.image.seed for image in other.images]
        for mine, theirs in zip(one.images, other.images, strict=True):
            assert np.abs(pixels(mine.data) - pixels(theirs.data)).max() <= 1
            seen.add(pixels(mine.data).tobytes())
    assert len(seen) == sum(len(answer.images) for answer in together), "no two are the same picture"


async def test_deterministic_is_the_same_bytes_whatever_was_drawn_before(studio: Studio, tmp_path: Path) -> None:
    lora = (await with_loras(studio, tmp_path))[2]  # what reads words has it too
    once_more = settings(lora, seed=11, steps=3, deterministic=True)
    others = [settings(lora, seed=12, steps=3), settings(lora, seed=13, steps=2, prompt="a blue cat")]
    drawn = []
    for warm in (False, True):
        async with studio.generator() as generator:
            if warm:
                await asyncio.gather(*(draw(generator, each) for each in [*others, settings(studio.base_id)]))
            drawn += [(await draw(generator, once_more)).images[0].image.sha256 for _ in range(2)]
    assert len(set(drawn)) == 1


@pytest.mark.parametrize("seed", [1])
async def test_whatever_comes_and_goes_each_request_is_answered_once(studio: Studio, seed: int) -> None:
    chance = random.Random(seed)
    wanted = [
        settings(
            chance.choice((studio.base_id, studio.lora_id)),
            seed=100 * number,
            steps=chance.randint(1, 12),
            count=chance.randint(1, 5),
            width=chance.choice((64, 80)),
            guidance_scale=chance.choice((1.0, 5.0)),
        )
        for number in range(24)
    ]
    leaving = set(chance.sample(range(24), 6))

    async def ask(generator: Any, number: int) -> Any:
        await asyncio.sleep(chance.random())
        stream = generator.Generate(rpc.GenerateRequest(settings=wanted[number], preview_interval=2))
        told: list[rpc.GenerateResponse] = []
        async for event in stream:
            told.append(event)
            if number in leaving and event.HasField("step"):
                await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=event.generation_id))
                leaving.discard(number)
        return told

    async with studio.generator(max_batch=4, max_active=9) as generator:
        answers = await asyncio.gather(*(ask(generator, number) for number in range(24)), return_exceptions=True)
        check = await asyncio.gather(*(draw(generator, each) for each in wanted))
    for number, (told, right) in enumerate(zip(answers, check, strict=True)):
        if isinstance(told, BaseException):
            assert any(word in repr(told) for word in ("CANCELLED", "has completed"))
            continue
        images = [event.image for event in told if event.HasField("image")]
        assert sorted(image.image.index for image in images) == list(range(wanted[number].count))
        assert told[-1].HasField("done")
        for image in images:
            same = next(each for each in right.images if each.image.index == image.image.index)
            assert image.image.seed == same.image.seed == wanted[number].seed + image.image.index
            assert np.abs(pixels(image.data) - pixels(same.data)).max() <= 1


async def test_a_short_request_behind_long_ones_ends_before_them(studio: Studio) -> None:
    async with studio.generator(max_batch=8) as generator:
        ended: list[str] = []

        async def ask(name: str, steps: int) -> None:
            await draw(generator, settings(studio.base_id, steps=steps))
            ended.append(name)

        long = [asyncio.create_task(ask("long", 100)) for _ in range(8)]
        await asyncio.sleep(0.3)
        await asyncio.gather(ask("short", 4), *long)
    assert ended[0] == "short"


async def test_models_leave_when_the_budget_is_full_and_those_in_use_stay(studio: Studio, tmp_path: Path) -> None:
    size = sum(file.stat().st_size for file in studio.pipeline.rglob("*.safetensors"))
    others = [
        await studio.register(make_tiny_pipeline(tmp_path / f"other{seed}", seed=seed), name=f"other {seed}")
        for seed in (1, 2, 3)
    ]
    budget = int(size * 2.5)
    models = [studio.base_id, *others]
    async with studio.generator(memory_bytes=budget) as generator:
        alone = [await draw(generator, settings(model)) for model in models]
        together = await asyncio.gather(*(draw(generator, settings(model)) for model in models * 3))
        loaded = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
        assert sum(model.memory_bytes for model in loaded) <= budget
    for place, answer in enumerate(together):
        assert np.abs(pixels(answer.images[0].data) - pixels(alone[place % 4].images[0].data)).max() <= 1
    async with studio.generator(memory_bytes=size // 2) as generator:
        with pytest.raises(ResourceExhausted) as caught:
            await draw(generator, settings(studio.base_id))
        assert caught.value.reason == "OUT_OF_MEMORY"


async def test_a_model_finds_room_however_many_ask_for_another(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROOM_SECONDS", 0.1)
    other = await studio.register(make_tiny_pipeline(tmp_path / "other", seed=5))
    size = sum(path.stat().st_size for path in studio.pipeline.rglob("*.safetensors"))
    async with studio.generator(memory_bytes=int(size * 1.5)) as generator:
        wanted: asyncio.Task[Any] | None = None
        meanwhile = 0

        async def keep_busy(person: int) -> None:
            nonlocal meanwhile
            for number in range(40):
                if wanted is not None and wanted.done():
                    return
                meanwhile += 1
                await draw(generator, settings(studio.base_id, seed=1000 * person + number, steps=5 + 3 * person))

        busy = [asyncio.create_task(keep_busy(person)) for person in range(8)]
        await asyncio.sleep(0.5)
        wanted = asyncio.create_task(draw(generator, settings(other, steps=2)))
        await asyncio.wait(busy)
        assert meanwhile < 160, "it waited until few asked for the other model any more"
        assert len((await wanted).images) == 1


async def test_many_loras_take_turns_in_little_memory(studio: Studio, tmp_path: Path) -> None:
    ids = []
    for seed in range(14):
        lora = make_lora(tmp_path / f"lora{seed}", studio.pipeline, seed, rank=3)
        ids.append(await studio.register_lora(lora.parent, studio.base_id))
    async with studio.generator(max_loras=9, max_batch=4) as generator:
        answers = await asyncio.gather(*(draw(generator, settings(each, steps=2)) for each in ids * 2))
        (model,) = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
        await draw(generator, settings(ids[0], steps=2))
        (model,) = (await generator.ListLoadedModels(rpc.ListLoadedModelsRequest())).models
        assert len(model.lora_model_ids) <= 9
    for one, other in zip(answers[:14], answers[14:], strict=True):
        assert np.abs(pixels(one.images[0].data) - pixels(other.images[0].data)).max() <= 1


async def test_a_request_that_cannot_be_drawn_sinks_no_other(studio: Studio, tmp_path: Path) -> None:
    async with studio.generator() as generator:
        good = [asyncio.create_task(draw(generator, settings(studio.base_id, steps=30, seed=n))) for n in range(3)]
        broken = settings(studio.base_id, steps=200, scheduler=pb.SCHEDULER_LCM)
        with pytest.raises(Exception, match="at most 50 steps"):
            await draw(generator, broken)
        assert all(len(answer.images) == 1 for answer in await asyncio.gather(*good))
        stream = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000)))
        begun = await anext(aiter(stream))
        await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=begun.generation_id))
        with pytest.raises(Cancelled):
            await events(stream)
