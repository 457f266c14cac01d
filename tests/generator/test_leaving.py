"""Clients that leave: their place is free, unless somebody else watches or the pictures are wanted all the same."""

import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

from services.common.clients import open_channel
from services.generator.__main__ import build
from services.generator.config import GeneratorSettings
from tests.generator.conftest import Studio
from tests.generator.house import at_a_step, until
from tests.generator.test_generate import draw, events, settings

LONG = 900
"""Steps that nobody waits for."""


def asked(studio: Studio, **fields: Any) -> rpc.GenerateRequest:
    wanted = settings(studio.base_id, steps=fields.pop("steps", LONG))
    return rpc.GenerateRequest(settings=wanted, request_id=str(uuid.uuid4()), **fields)


def named(event: rpc.GenerateResponse) -> rpc.GetGenerationRequest:
    return rpc.GetGenerationRequest(generation_id=event.generation_id)


async def test_a_deadline_that_passes_frees_the_place(studio: Studio, generator: Any) -> None:
    stream = generator.Generate(asked(studio), timeout=3)
    running = await at_a_step(stream)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    left = await until(generator, named(running), pb.GENERATION_STATUS_CANCELLED)
    assert left.status == pb.GENERATION_STATUS_CANCELLED
    assert left.failure.reason == "ABANDONED"


async def test_a_connection_that_breaks_frees_the_place(studio: Studio) -> None:
    options = {"data_dir": studio.data, "catalog_address": studio.catalog_address, "threads": 1}
    async with build(GeneratorSettings(**options)) as server, server:
        channel = open_channel(server.address)
        running = await at_a_step(GeneratorServiceStub(channel).Generate(asked(studio)))
        await channel.close()
        async with open_channel(server.address) as another:
            left = await until(GeneratorServiceStub(another), named(running), pb.GENERATION_STATUS_CANCELLED)
    assert left.failure.reason == "ABANDONED"


@pytest.mark.parametrize("leave", [lambda stream: stream.cancel(), None], ids=["cancelled", "deadline"])
async def test_one_that_waits_frees_its_place_too(studio: Studio, leave: Callable[[Any], object] | None) -> None:
    async with studio.generator(max_active=1) as generator:
        long = generator.Generate(asked(studio))
        await at_a_step(long)
        stream = generator.Generate(asked(studio), timeout=None if leave else 1)
        waiting = await anext(aiter(stream))
        assert waiting.HasField("queued")
        if leave:
            leave(stream)
        left = await until(generator, named(waiting), pb.GENERATION_STATUS_CANCELLED)
        assert left.failure.reason == "ABANDONED"
        assert not left.images


async def test_it_goes_on_as_long_as_somebody_watches(studio: Studio, generator: Any) -> None:
    request = asked(studio, steps=60)
    one, other = generator.Generate(request), generator.Generate(request)
    assert (await at_a_step(one)).generation_id == (await at_a_step(other)).generation_id
    one.cancel()
    assert (await events(other))[-1].HasField("done")


async def test_keep_drawing_goes_on_and_a_later_request_may_ask_for_it(studio: Studio, generator: Any) -> None:
    request = asked(studio, steps=60)
    first = generator.Generate(request)
    running = await at_a_step(first)
    second = generator.Generate(
        rpc.GenerateRequest(settings=request.settings, request_id=request.request_id, keep_drawing=True)
    )
    await at_a_step(second)
    second.cancel()
    first.cancel()
    done = await until(generator, named(running), pb.GENERATION_STATUS_COMPLETED)
    assert done.status == pb.GENERATION_STATUS_COMPLETED


async def test_what_was_abandoned_is_drawn_anew_with_the_same_id_and_seed(studio: Studio, generator: Any) -> None:
    wanted = pb.GenerationSettings(model_id=studio.base_id, prompt="a cat", steps=60)  # the server chooses the seed
    request = rpc.GenerateRequest(settings=wanted, request_id=str(uuid.uuid4()))
    stream = generator.Generate(request)
    running = await at_a_step(stream)
    stream.cancel()
    left = await until(generator, named(running), pb.GENERATION_STATUS_CANCELLED)
    # Several come back at once, and share one.
    streams = [generator.Generate(request) for _ in range(3)]
    ends = [(await events(each))[-1].done.generation for each in streams]
    assert {end.id for end in ends} == {left.id}
    assert ends[0].settings.seed == left.settings.seed
    assert (ends[0].status, ends[0].failure.reason) == (pb.GENERATION_STATUS_COMPLETED, "")
    assert (await generator.ListGenerations(rpc.ListGenerationsRequest())).total_size == 1


async def test_what_somebody_cancelled_stays_cancelled(studio: Studio, generator: Any) -> None:
    request = asked(studio)
    running = await at_a_step(generator.Generate(request))
    await generator.CancelGeneration(rpc.CancelGenerationRequest(generation_id=running.generation_id))
    with pytest.raises(Exception, match="was cancelled"):
        await events(generator.Generate(request))


async def test_a_generator_that_stops_is_not_left_by_its_clients(studio: Studio) -> None:
    async with studio.generator() as generator:
        stream = generator.Generate(asked(studio, steps=100))
        running = await at_a_step(stream)
    async with studio.generator() as generator:
        done = await until(generator, named(running), pb.GENERATION_STATUS_COMPLETED)
        assert done.status == pb.GENERATION_STATUS_COMPLETED


async def test_a_client_that_leaves_at_once_leaves_nothing_behind(studio: Studio, generator: Any) -> None:
    for pause in (0.001, 0.005, 0.02, 0.05):
        with pytest.raises(grpc.aio.AioRpcError):
            await generator.GenerateImages(
                rpc.GenerateImagesRequest(settings=settings(studio.base_id, steps=LONG)), timeout=pause
            )
    assert (await draw(generator, settings(studio.base_id))).images
    for each in (await generator.ListGenerations(rpc.ListGenerationsRequest())).generations[1:]:
        request = rpc.GetGenerationRequest(generation_id=each.id)
        left = await until(generator, request, pb.GENERATION_STATUS_CANCELLED)
        assert left.status == pb.GENERATION_STATUS_CANCELLED
