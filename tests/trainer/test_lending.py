"""Devices lent by a real Trainer over a real channel; its workers learn nothing and stand still when they are told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from atelier.trainer.v1 import device_service_pb2 as pb
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb
from atelier.trainer.v1 import training_pb2 as tr
from atelier.trainer.v1.device_service_pb2_grpc import DeviceServiceStub

from services.common.clients import open_channel
from services.common.machine import machine_name
from services.trainer.config import TrainerSettings
from services.trainer.devices import Devices
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of, free_port, script, trainer, trainer_process

SHARES = tr.TrainingConfig(device=tr.DEVICE_CPU, share_device=True)
KEEPS = tr.TrainingConfig(device=tr.DEVICE_CPU)


@pytest.fixture(autouse=True)
def slow_steps(given: TrainerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=400, step_seconds=0.05)


class Borrowing:
    """A stream to the Trainer."""

    def __init__(self, client: Client, device: str, **more: Any) -> None:
        request = pb.BorrowDeviceRequest(**{"device_name": device, "host": machine_name(), **more})
        self.call = DeviceServiceStub(client.channel).BorrowDevice(request)
        self.waited: list[int] = []

    async def granted(self) -> pb.DeviceGranted:
        async with asyncio.timeout(20):
            async for answer in self.call:
                if answer.HasField("granted"):
                    return answer.granted
                if answer.HasField("waiting"):
                    self.waited.append(answer.waiting.num_jobs)
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def borrowed(client: Client, device: str = "cpu", **more: Any) -> AsyncIterator[pb.DeviceGranted]:
    borrowing = Borrowing(client, device, **more)
    try:
        yield await borrowing.granted()
    finally:
        borrowing.call.cancel()


async def kinds(client: Client, job_id: str) -> list[str]:
    """The kinds of the job's events so far, in order."""
    job = await client.get(job_id)
    seen = []
    if job.last_sequence:
        async for response in client.watch(job_id):
            seen.append(str(response.event.WhichOneof("event")))
            if response.event.sequence >= job.last_sequence:
                break
    return [kind for kind in seen if kind in ("step", "lent")]


async def goes_on(client: Client, job_id: str) -> None:
    """Returns once the job makes steps again."""
    step = (await client.get(job_id)).progress.step
    async with asyncio.timeout(20):
        while (await client.get(job_id)).progress.step < step + 2:  # noqa: ASYNC110  # no watch here
            await asyncio.sleep(0.02)


async def training(client: Client, config: tr.TrainingConfig = SHARES) -> str:
    job = await client.create(config=config)
    await client.until(job.id, "step")
    return job.id


async def test_a_job_that_shares_makes_no_step_while_its_device_is_lent(client: Client) -> None:
    id = await training(client)
    async with borrowed(client) as granted:
        assert (granted.num_jobs, granted.num_unwilling) == (1, 0)
        before = await kinds(client, id)
        await asyncio.sleep(0.5)
        assert await kinds(client, id) == before
        assert before[-1] == "lent"
    await goes_on(client, id)
    job = await client.get(id)
    events = [response.event async for response in until_sequence(client, id, job.last_sequence)]
    begun, over = [event.lent for event in events if event.HasField("lent")]
    assert not begun.HasField("lent_millis")
    assert 500 <= over.lent_millis < 20_000


async def until_sequence(client: Client, id: str, last: int) -> AsyncIterator[trainer_pb.WatchTrainingJobResponse]:
    async for response in client.watch(id):
        yield response
        if response.event.sequence >= last:
            return


async def test_a_borrower_hears_that_a_job_is_still_at_its_step(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=10, step_seconds=1.0)
    await training(client)
    borrowing = Borrowing(client, "cpu")
    granted = await borrowing.granted()
    assert borrowing.waited == [1]
    assert 0 < granted.waited_millis <= 3000
    borrowing.call.cancel()


async def test_training_goes_on_when_the_last_borrower_has_left(client: Client) -> None:
    id = await training(client)
    async with borrowed(client):
        async with borrowed(client) as second:
            assert second.num_jobs == 1
        before = await kinds(client, id)
        await asyncio.sleep(0.4)
        assert await kinds(client, id) == before
    await goes_on(client, id)


async def test_a_borrower_that_is_cut_off_gives_the_device_back(client: Client) -> None:
    id = await training(client)
    async with open_channel(client.address) as channel:
        await Borrowing(replace(client, channel=channel), "cpu").granted()
    await goes_on(client, id)


async def test_what_nobody_shares_or_trains_on_is_granted_at_once(client: Client) -> None:
    async with borrowed(client) as granted:
        assert (granted.num_jobs, granted.num_unwilling) == (0, 0)
    id = await training(client, KEEPS)
    async with borrowed(client) as granted:
        assert (granted.num_jobs, granted.num_unwilling) == (0, 1)
        await goes_on(client, id)
    async with borrowed(client, host="another machine") as granted:
        assert (granted.num_jobs, granted.num_unwilling) == (0, 0)
        await goes_on(client, id)


async def test_a_job_that_still_loads_holds_nobody_up_and_stands_still_then(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=50, step_seconds=0.05, loading_seconds=1.5)
    job = await client.create(config=SHARES)
    await client.until(job.id, "loading")
    async with borrowed(client) as granted:
        assert granted.waited_millis < 1000
        await client.until(job.id, "lent")
        assert await kinds(client, job.id) == ["lent"]
    await goes_on(client, job.id)


async def test_a_lent_job_can_be_cancelled_and_paused_and_keeps_its_lease(
    given: TrainerSettings, catalog: RunningCatalog
) -> None:
    async with trainer(given.model_copy(update={"lease_seconds": 1.5, "max_running_jobs": 2}), catalog.known) as client:
        paused, cancelled = await training(client), await training(client)
        async with borrowed(client) as granted:
            assert granted.num_jobs == 2
            await asyncio.sleep(3)  # two leases
            assert {(await client.get(id)).status for id in (paused, cancelled)} == {tr.JOB_STATUS_RUNNING}
            await client.stub.PauseTrainingJob(trainer_pb.PauseTrainingJobRequest(job_id=paused))
            await client.stub.CancelTrainingJob(trainer_pb.CancelTrainingJobRequest(job_id=cancelled))
            await client.reaches(paused, tr.JOB_STATUS_PAUSED)
            await client.reaches(cancelled, tr.JOB_STATUS_CANCELLED)
            # It stands still again as soon as it is gone on with.
            await client.stub.ResumeTrainingJob(trainer_pb.ResumeTrainingJobRequest(job_id=paused))
            await client.reaches(paused, tr.JOB_STATUS_RUNNING)
            async with borrowed(client) as again:
                assert again.num_unwilling == 0
        await goes_on(client, paused)


async def test_a_gpu_is_lent_by_the_name_its_driver_has_and_with_room_for_who_lacks_it(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gpu_names(self: Devices) -> Mapping[str, str]:
        return {"0": "GPU-first", "1": "GPU-second"}

    monkeypatch.setattr(Devices, "gpu_names", gpu_names)  # this machine may have none
    own = given.model_copy(update={"gpus": ("0", "1"), "max_running_jobs": 2})
    async with trainer(own, catalog.known) as client:
        on_first = await training(client, tr.TrainingConfig(share_device=True))
        on_second = await training(client, tr.TrainingConfig(share_device=True))
        async with borrowed(client, "GPU-second") as granted:
            assert granted.num_jobs == 1
            await goes_on(client, on_first)
            async with borrowed(client, "GPU-second", memory_bytes=1 << 30) as roomy:
                assert roomy.num_jobs == 1
                job = await client.get(on_second)
                events = [each.event async for each in until_sequence(client, on_second, job.last_sequence)]
                assert [event.lent.made_room for event in events if event.HasField("lent")] == [False, True]
        await goes_on(client, on_second)


async def test_a_trainer_that_stops_ends_its_loans(given: TrainerSettings, catalog: RunningCatalog) -> None:
    fixed = given.model_copy(update={"listen": f"127.0.0.1:{free_port()}"})
    async with client_of(fixed.listen, catalog.known) as client:
        async with trainer(fixed, catalog.known):
            borrowing = Borrowing(client, "cpu")
            await borrowing.granted()
            stopped = asyncio.ensure_future(anext(aiter(borrowing.call)))
            await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError, match="stopping"):
            await stopped


async def test_a_worker_whose_trainer_was_killed_goes_on_at_the_next_one(
    given: TrainerSettings, catalog: RunningCatalog, tmp_path: Any
) -> None:
    fixed = given.model_copy(update={"listen": f"127.0.0.1:{free_port()}", "lease_seconds": 20})
    async with trainer_process(fixed, tmp_path) as first, client_of(first.address, catalog.known) as client:
        id = await training(client)
        await Borrowing(client, "cpu").granted()
        await first.kill()
    async with trainer_process(fixed, tmp_path) as second, client_of(second.address, catalog.known) as client:
        await goes_on(client, id)
        async with borrowed(client) as granted:
            assert granted.num_jobs == 1
            await client.stub.CancelTrainingJob(trainer_pb.CancelTrainingJobRequest(job_id=id))
            await client.reaches(id, tr.JOB_STATUS_CANCELLED)
