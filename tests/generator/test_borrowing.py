"""A Generator that borrows its device, from a real Trainer whose worker learns nothing, and from Trainers that are
none."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from atelier.generator.v1 import generation_pb2 as gen
from atelier.generator.v1 import generator_service_pb2 as rpc
from atelier.trainer.v1 import training_pb2 as tr

from services.common.server import Server
from services.generator import borrowing
from services.trainer.config import TrainerSettings
from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, events, settings
from tests.trainer.conftest import RunningCatalog, catalog, given
from tests.trainer.house import Client, free_port, script, trainer

__all__ = ["catalog", "given"]  # fixtures

SHARES = tr.TrainingConfig(device=tr.DEVICE_CPU, share_device=True)


@pytest.fixture
async def training(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Client, str]]:
    """A Trainer with a job that shares its device, half a second a step."""
    script(monkeypatch, steps=400, step_seconds=0.5)
    async with trainer(given, catalog.known) as client:
        job = await client.create(config=SHARES)
        await client.until(job.id, "step")
        yield client, job.id


async def told(client: Client, job_id: str) -> list[tr.TrainingEvent]:
    """What happened to the job so far."""
    job = await client.get(job_id)
    seen: list[tr.TrainingEvent] = []
    async for response in client.watch(job_id):
        seen.append(response.event)
        if response.event.sequence >= job.last_sequence:
            break
    return seen


async def test_drawing_waits_for_the_step_and_training_stands_still_until_all_is_drawn(
    studio: Studio, training: tuple[Client, str]
) -> None:
    client, job_id = training
    async with studio.generator(trainer_address=client.address, device="cpu") as generator:
        requests = [rpc.GenerateRequest(settings=settings(studio.base_id, seed=seed)) for seed in (1, 2, 3)]
        streams = await asyncio.gather(*(events(generator.Generate(request)) for request in requests))
        assert [stream[-1].WhichOneof("event") for stream in streams] == ["done"] * 3
        waited = next(stream for stream in streams if any(event.HasField("waiting") for event in stream))
        kinds = [event.WhichOneof("event") for event in waited]
        assert kinds.index("queued") < kinds.index("waiting") < kinds.index("step")
        assert {event.waiting.num_jobs for event in waited if event.HasField("waiting")} == {1}
        async with asyncio.timeout(20):
            while [event.HasField("lent") for event in await told(client, job_id)].count(True) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    happened = [event for event in await told(client, job_id) if event.WhichOneof("event") in ("step", "lent")]
    places = [place for place, event in enumerate(happened) if event.HasField("lent")]
    assert places == [places[0], places[0] + 1], "one loan for all three, and no step in it"
    assert happened[places[1]].lent.lent_millis > 0


async def test_a_generator_that_ends_in_the_midst_gives_the_device_back(
    studio: Studio, training: tuple[Client, str]
) -> None:
    client, job_id = training
    async with studio.generator(trainer_address=client.address, device="cpu") as stub:
        generator: Any = stub  # an asynchronous one, which the generated types do not know
        stream = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id, steps=1000)))
        async for event in stream:
            if event.HasField("step"):
                break
    step = (await client.get(job_id)).progress.step
    async with asyncio.timeout(20):
        while (await client.get(job_id)).progress.step == step:  # noqa: ASYNC110  # no watch here
            await asyncio.sleep(0.1)


async def test_a_trainer_that_is_away_keeps_nobody_from_drawing(studio: Studio) -> None:
    async with studio.generator(trainer_address=f"127.0.0.1:{free_port()}") as generator:
        assert (await draw(generator, settings(studio.base_id))).images


async def test_a_trainer_that_knows_no_borrowing_keeps_nobody_from_drawing(studio: Studio) -> None:
    async with Server([]) as older, studio.generator(trainer_address=older.address) as generator:
        assert (await draw(generator, settings(studio.base_id))).images


async def test_a_trainer_that_says_nothing_is_waited_for_briefly(studio: Studio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with studio.generator(trainer_address=address) as generator:
            began = time.monotonic()
            assert (await draw(generator, settings(studio.base_id))).images
            assert borrowing.ANSWER_SECONDS <= time.monotonic() - began < borrowing.ANSWER_SECONDS + 10


async def test_a_job_whose_step_takes_too_long_is_drawn_beside(
    studio: Studio, given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borrowing.Borrower.__init__, "__kwdefaults__", {"answer_seconds": 2.0, "patience_seconds": 0.5})
    script(monkeypatch, steps=3, step_seconds=6)
    async with trainer(given, catalog.known) as client:
        job = await client.create(config=SHARES)
        await client.until(job.id, "step")
        async with studio.generator(trainer_address=client.address, device="cpu") as generator:
            stream = await events(generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id))))
            assert "waiting" in [event.WhichOneof("event") for event in stream]
            assert stream[-1].done.generation.status == gen.GENERATION_STATUS_COMPLETED
            assert (await client.get(job.id)).progress.step == 1


async def test_a_waiting_generation_can_be_cancelled(
    studio: Studio, given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=3, step_seconds=5)
    async with trainer(given, catalog.known) as client:
        job = await client.create(config=SHARES)
        await client.until(job.id, "step")
        async with studio.generator(trainer_address=client.address, device="cpu") as stub:
            generator: Any = stub  # an asynchronous one, which the generated types do not know
            stream = generator.Generate(rpc.GenerateRequest(settings=settings(studio.base_id)))
            async for event in stream:
                if event.HasField("waiting"):
                    request = rpc.CancelGenerationRequest(generation_id=event.generation_id)
                    cancelled = await generator.CancelGeneration(request)
                    assert cancelled.generation.status == gen.GENERATION_STATUS_CANCELLED
                    break
            with pytest.raises(grpc.aio.AioRpcError, match="cancelled"):
                await stream.read()
