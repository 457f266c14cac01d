"""A job from its order to its model, with a real Trainer, a real Catalog and a worker in a process of its own."""

import asyncio
import hashlib
import itertools
import math
import os
import signal
import uuid
from itertools import pairwise
from typing import Any

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr
from google.api.httpbody_pb2 import HttpBody

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.errors import NotFound
from services.common.status import error_from_rpc
from services.trainer.config import TrainerSettings
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, picture, script, trainer, workers_of


def kinds(events: list[tr.TrainingEvent]) -> list[str]:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [str(event.WhichOneof("event")) for event in events]


async def refusal(call: Any) -> Any:
    """The domain error that a call is answered with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value, peer="the Trainer")


@pytest.fixture
async def classes(catalog: RunningCatalog) -> int:
    """A dataset with one picture of a class."""
    async with open_channel(catalog.address) as channel:
        stub = CatalogServiceStub(channel)
        made = await stub.CreateDataset(catalog_pb2.CreateDatasetRequest(name="dogs"))
        upload = catalog_pb2.UploadImageRequest(dataset_id=made.dataset.id, filename="dog.png")
        upload.content.CopyFrom(HttpBody(content_type="image/png", data=picture(200)))
        await stub.UploadImage(upload)
    return made.dataset.id


async def test_an_order_becomes_a_registered_model(client: Client, catalog: RunningCatalog) -> None:
    job = await client.create()
    events = await client.events(job.id)
    assert kinds(events) == ["queued", "loading", "loading", "log", "step", "step", "step", "loading", "done"]
    job = await client.get(job.id)
    assert (job.status, job.progress.step, job.last_sequence) == (tr.JOB_STATUS_COMPLETED, 3, 9)
    assert job.HasField("queued_at")
    assert job.HasField("started_at")
    assert job.HasField("finished_at")
    async with open_channel(catalog.address) as channel:
        request = catalog_pb2.GetModelRequest(model_id=job.model_id)
        model = (await CatalogServiceStub(channel).GetModel(request)).model
    assert events[-1].done == tr.DoneEvent(model_id=model.id, model_name=f"Trained-{job.id[:8]}")
    assert (model.name, model.type, model.job_id) == (f"Trained-{job.id[:8]}", model_pb2.MODEL_TYPE_LORA, job.id)
    assert (model.base_model_id, model.dataset_id, model.checkpoint_step) == (client.known.base_id, job.dataset_id, 3)
    assert (model.snapshot_digest, model.license) == (job.snapshot_digest, "Apache-2.0")
    assert model.native_resolution == 64


async def test_the_answer_shows_every_default(client: Client) -> None:
    job = await client.create(start=False)
    config = job.config
    assert (job.status, job.num_items, len(job.snapshot_digest)) == (tr.JOB_STATUS_PENDING, 3, 64)
    assert (config.learning_rate, config.batch_size, config.epochs) == (1e-4, 4, 10)
    assert (config.lora.rank, config.lora.alpha) == (4, 4.0)
    assert list(config.lora.target_modules) == ["to_q", "to_k", "to_v", "to_out.0"]
    assert config.resolution == 64, "the base model's own"
    assert config.HasField("seed")
    assert not config.HasField("dreambooth")
    assert not config.HasField("max_steps")
    unset = {"max_steps", "dreambooth", "mixed_precision", "trigger_word", "device", "prediction_type", "video"}
    shown = {field.name for field, _ in config.ListFields()}
    assert {field.name for field in config.DESCRIPTOR.fields} - shown == unset


async def test_what_is_asked_for_is_kept(client: Client) -> None:
    config = tr.TrainingConfig(max_steps=5, epochs=3, seed=0, learning_rate=0.5, lora=tr.LoraConfig(rank=8))
    job = await client.create(start=False, config=config, output_name="Ma série 🎨")
    assert (job.config.max_steps, job.config.epochs, job.config.seed) == (5, 3, 0)
    assert (job.config.lora.rank, job.config.lora.alpha, job.output_name) == (8, 8.0, "Ma série 🎨")


async def test_dreambooth_keeps_its_prompt_as_trigger_and_its_type(client: Client, catalog: RunningCatalog) -> None:
    dreambooth = tr.DreamBoothConfig(instance_prompt="a photo of sks dog")
    order = {"method": tr.TRAINING_METHOD_DREAMBOOTH, "config": tr.TrainingConfig(dreambooth=dreambooth)}
    job = await client.ended((await client.create(**order)).id)
    assert job.config.HasField("lora")
    assert job.config.dreambooth.num_class_images == 100
    async with open_channel(catalog.address) as channel:
        request = catalog_pb2.GetModelRequest(model_id=job.model_id)
        model = (await CatalogServiceStub(channel).GetModel(request)).model
    assert (model.type, list(model.trigger_words)) == (model_pb2.MODEL_TYPE_DREAMBOOTH, ["a photo of sks dog"])


async def test_a_request_id_makes_one_job(client: Client) -> None:
    request_id = str(uuid.uuid4())
    first = await client.create(request_id=request_id, start=False)
    again = await client.create(request_id=request_id, start=False, output_name="another")
    assert again == first


async def test_a_class_that_is_a_dataset_is_pinned_and_found_by_its_dataset(client: Client, classes: int) -> None:
    dreambooth = tr.DreamBoothConfig(instance_prompt="sks dog", class_prompt="a dog", prior_preservation=True)
    dreambooth.class_dataset_id = classes
    order = {"method": tr.TRAINING_METHOD_DREAMBOOTH, "config": tr.TrainingConfig(dreambooth=dreambooth)}
    job = await client.create(start=False, **order)
    assert (job.config.dreambooth.class_dataset_id, len(job.class_snapshot_digest)) == (classes, 64)
    assert job.class_snapshot_digest != job.snapshot_digest
    assert await client.get(job.id) == job
    for dataset_id, found in ((classes, 1), (client.known.dataset_id, 1), (client.known.empty_dataset_id, 0)):
        listed = await client.stub.ListTrainingJobs(pb.ListTrainingJobsRequest(dataset_id=dataset_id))
        assert listed.total_size == found
    order["method"] = tr.TRAINING_METHOD_LORA
    plain = await client.create(start=False, **order)
    assert not plain.class_snapshot_digest, "what the method does not read is left out"


async def test_a_class_dataset_that_cannot_be_one_is_refused(client: Client, classes: int) -> None:
    known, field = client.known, "config.dreambooth.class_dataset_id"

    async def asked(id: int, **more: Any) -> Any:
        told = {"instance_prompt": "sks", "class_prompt": "a dog", "prior_preservation": True, **more}
        config = tr.TrainingConfig(dreambooth=tr.DreamBoothConfig(class_dataset_id=id, **told))
        return await refusal(client.create(method=tr.TRAINING_METHOD_DREAMBOOTH, config=config))

    assert isinstance(await asked(999), NotFound)
    assert (await asked(known.empty_dataset_id)).reason == "EMPTY_DATASET"
    assert list((await asked(known.dataset_id)).violations) == [field]
    assert list((await asked(classes, prior_preservation=False)).violations) == [field]
    assert list((await asked(0)).violations) == [field]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (tr.TrainingConfig(lora=tr.LoraConfig(rank=0)), "config.lora.rank"),
        (tr.TrainingConfig(learning_rate=-1), "config.learning_rate"),
        (tr.TrainingConfig(learning_rate=math.nan), "config.learning_rate"),
        (tr.TrainingConfig(learning_rate=math.inf), "config.learning_rate"),
        (tr.TrainingConfig(batch_size=0), "config.batch_size"),
        (tr.TrainingConfig(epochs=0), "config.epochs"),
        (tr.TrainingConfig(resolution=65), "config.resolution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_configuration_is_refused_by_its_field(
    client: Client, config: tr.TrainingConfig, field: str
) -> None:
    error = await refusal(client.create(config=config))
    assert list(error.violations) == [field]
    assert error.violations[field]


async def test_dreambooth_without_its_prompts_is_refused(client: Client) -> None:
    order: dict[str, Any] = {"method": tr.TRAINING_METHOD_DREAMBOOTH}
    error = await refusal(client.create(**order))
    assert list(error.violations) == ["config.dreambooth.instance_prompt"]
    order["config"] = tr.TrainingConfig(dreambooth=tr.DreamBoothConfig(instance_prompt="sks", prior_preservation=True))
    error = await refusal(client.create(**order))
    assert list(error.violations) == ["config.dreambooth.class_prompt"]


async def test_what_cannot_be_trained_is_refused_with_the_rule(client: Client) -> None:
    known = client.known
    for order, reason, words in [
        ({"dataset_id": known.empty_dataset_id}, "EMPTY_DATASET", "'nothing'"),
        ({"base_model_id": known.other_family_id}, "UNSUPPORTED_FAMILY", "stable_video_diffusion"),
        ({"base_model_id": known.other_family_id}, "UNSUPPORTED_FAMILY", "draws clips"),
        ({"base_model_id": known.lora_id}, "UNSUPPORTED_BASE_MODEL", f"model {known.base_id}"),
    ]:
        error = await refusal(client.create(**order))
        assert error.reason == reason
        assert words in error.message
    assert (await refusal(client.create(dataset_id=999))).kind == "dataset"
    assert (await refusal(client.create(base_model_id=999))).kind == "model"
    listed = await client.stub.ListTrainingJobs(pb.ListTrainingJobsRequest())
    assert listed.total_size == 0


async def test_an_unknown_job_is_not_found(client: Client) -> None:
    id = str(uuid.uuid4())
    for call in (
        client.stub.GetTrainingJob(pb.GetTrainingJobRequest(job_id=id)),
        client.stub.StartTrainingJob(pb.StartTrainingJobRequest(job_id=id)),
        client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=id)),
        client.stub.DeleteTrainingJob(pb.DeleteTrainingJobRequest(job_id=id)),
        client.stub.ListMetrics(pb.ListMetricsRequest(job_id=id)),
        client.stub.ListCheckpoints(pb.ListCheckpointsRequest(job_id=id)),
        client.stub.DownloadSample(pb.DownloadSampleRequest(job_id=id, sha256="0" * 64)),
        client.events(id),
    ):
        assert (await refusal(call)).id == id


async def test_jobs_are_listed_by_page_and_filter(client: Client) -> None:
    made = [(await client.create(start=False)).id for _ in range(3)]
    first = await client.stub.ListTrainingJobs(pb.ListTrainingJobsRequest(page_size=2))
    request = pb.ListTrainingJobsRequest(page_size=2, page_token=first.next_page_token)
    second = await client.stub.ListTrainingJobs(request)
    assert [job.id for job in [*first.jobs, *second.jobs]] == made[::-1]
    assert (first.total_size, second.next_page_token) == (3, "")
    await client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=made[0]))
    unfinished = pb.ListTrainingJobsRequest(unfinished=True, dataset_id=client.known.dataset_id)
    assert (await client.stub.ListTrainingJobs(unfinished)).total_size == 2
    error = await refusal(client.stub.ListTrainingJobs(pb.ListTrainingJobsRequest(page_token="nonsense")))
    assert list(error.violations) == ["page_token"]


async def test_samples_checkpoints_metrics_and_logs_can_be_read(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(
        monkeypatch, steps=6, samples=[3, 6], checkpoints=[2, 3, 4], prints=["hello from the worker"], step_seconds=0.1
    )
    config = tr.TrainingConfig(checkpoints=tr.CheckpointConfig(keep=2))
    job = await client.ended((await client.create(config=config)).id)
    samples = [event.sample for event in await client.events(job.id) if event.HasField("sample")]
    request = pb.DownloadSampleRequest(job_id=job.id, sha256=samples[1].sha256)
    content = (await client.stub.DownloadSample(request)).content
    assert (content.content_type, content.data) == ("image/png", b"picture 6")
    error = await refusal(client.stub.DownloadSample(pb.DownloadSampleRequest(job_id=job.id, sha256="0" * 64)))
    assert error.kind == "sample"
    listed = await client.stub.ListCheckpoints(pb.ListCheckpointsRequest(job_id=job.id))
    assert [checkpoint.step for checkpoint in listed.checkpoints] == [3, 4]
    metrics = await client.stub.ListMetrics(pb.ListMetricsRequest(job_id=job.id))
    assert [point.step for point in metrics.points] == [1, 2, 3, 4, 5, 6]
    thinned = await client.stub.ListMetrics(pb.ListMetricsRequest(job_id=job.id, max_points=2))
    assert [point.step for point in thinned.points] == [1, 6]
    lines = [each.event.log.message async for each in client.stub.StreamLogs(pb.StreamLogsRequest(job_id=job.id))]
    assert sorted(lines) == ["hello from the worker", "the model is loaded"]


async def test_logs_are_followed_until_the_job_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=5, step_seconds=0.1)
    job = await client.create()
    stream = client.stub.StreamLogs(pb.StreamLogsRequest(job_id=job.id, follow=True))
    lines = [each.event.log.message async for each in stream if each.event.HasField("log")]
    assert lines == ["the model is loaded"]
    assert (await client.get(job.id)).status == tr.JOB_STATUS_COMPLETED


async def test_jobs_wait_their_turn_and_see_their_place(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=3, step_seconds=0.1)
    jobs = [await client.create() for _ in range(3)]
    ends = [await client.ended(job.id) for job in jobs]
    assert [job.status for job in ends] == [tr.JOB_STATUS_COMPLETED] * 3
    for before, after in pairwise(ends):
        assert before.started_at.ToNanoseconds() < after.started_at.ToNanoseconds()
    places = [event.queued.position for event in await client.events(jobs[2].id) if event.HasField("queued")]
    assert places == sorted(places, reverse=True)
    assert places[-1] == 1


async def test_starting_twice_is_no_harm_and_starting_an_ended_job_is_refused(client: Client) -> None:
    job = await client.create(start=False)
    request = pb.StartTrainingJobRequest(job_id=job.id)
    assert (await client.stub.StartTrainingJob(request)).job.status == tr.JOB_STATUS_QUEUED
    await client.stub.StartTrainingJob(request)
    await client.ended(job.id)
    assert (await refusal(client.stub.StartTrainingJob(request))).reason == "JOB_ENDED"


async def test_a_failed_job_keeps_its_reason_and_its_log(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, fail_at=2, prints=["allocating"])
    job = await client.ended((await client.create()).id)
    assert job.status == tr.JOB_STATUS_FAILED
    assert job.failure == tr.JobFailure(reason="OUT_OF_MEMORY", message="no memory left")
    events = await client.events(job.id)
    assert events[-1].failed == job.failure
    assert "allocating" in [event.log.message for event in events if event.HasField("log")]


async def test_a_worker_that_crashes_leaves_its_last_words(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, crash="the pipeline is broken")
    job = await client.ended((await client.create()).id)
    assert (job.status, job.failure.reason) == (tr.JOB_STATUS_FAILED, "WORKER_LOST"), "after three tries"
    assert "exit code 3" in job.failure.message
    assert "the pipeline is broken" in job.failure.message
    logs = [event.log.message for event in await client.events(job.id) if event.HasField("log")]
    assert "the pipeline is broken" in logs


async def test_a_killed_worker_fails_its_job_and_the_next_one_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, die_at=2)
    killed = await client.create()
    await client.ended(killed.id)
    script(monkeypatch)
    following = await client.ended((await client.create()).id)
    job = await client.get(killed.id)
    assert (job.status, job.failure.reason, job.progress.step) == (tr.JOB_STATUS_FAILED, "WORKER_LOST", 2)
    assert "signal 9" in job.failure.message
    assert following.status == tr.JOB_STATUS_COMPLETED


async def test_a_silent_worker_is_lost_when_its_lease_is_over(
    given: TrainerSettings, catalog: RunningCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, silent=True)
    async with trainer(given.model_copy(update={"lease_seconds": 1.5}), catalog.known) as client:
        job = await client.ended((await client.create()).id)
        assert (job.status, job.failure.reason) == (tr.JOB_STATUS_FAILED, "WORKER_LOST")
        assert "said nothing for 1.5 s" in job.failure.message


async def cancelled(client: Client, job_id: str) -> tr.TrainingJob:
    await client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job_id))
    return await client.ended(job_id)


async def test_waiting_jobs_are_cancelled_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=100, step_seconds=0.1)
    running, waiting = await client.create(), await client.create()
    pending = await client.create(start=False)
    for job in (pending, waiting):
        answer = await client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id))
        assert answer.job.status == tr.JOB_STATUS_CANCELLED
        assert (await client.events(job.id))[-1].HasField("cancelled")
    assert (await cancelled(client, running.id)).status == tr.JOB_STATUS_CANCELLED


async def test_a_running_job_is_cancelled_within_a_step(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=1000, step_seconds=0.1)
    job = await client.create()
    await client.until(job.id, "step")
    at = (await client.get(job.id)).progress.step
    ended = await cancelled(client, job.id)
    assert ended.status == tr.JOB_STATUS_CANCELLED
    assert ended.progress.step <= at + 3
    assert (await client.events(job.id))[-1].HasField("cancelled")
    again = await client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id))
    assert again.job.status == tr.JOB_STATUS_CANCELLED


async def test_a_worker_that_does_not_obey_is_killed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=1000, step_seconds=0.1, deaf=True)
    job = await client.create()
    await client.until(job.id, "step")
    assert (await cancelled(client, job.id)).status == tr.JOB_STATUS_CANCELLED
    async with asyncio.timeout(20):
        while workers_of(job.id):  # noqa: ASYNC110  # a process can only be asked
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("told", "status"), [({}, "completed"), ({"fail_at": 1}, "failed")])
async def test_an_ended_job_is_not_cancelled(
    client: Client, monkeypatch: pytest.MonkeyPatch, told: dict[str, int], status: str
) -> None:
    script(monkeypatch, **told)
    job = await client.ended((await client.create()).id)
    error = await refusal(client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id)))
    assert error.reason == "JOB_ENDED"
    assert status in error.message


async def test_only_jobs_at_rest_are_deleted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, steps=1000, step_seconds=0.1)
    job = await client.create()
    await client.until(job.id, "step")
    request = pb.DeleteTrainingJobRequest(job_id=job.id)
    assert (await refusal(client.stub.DeleteTrainingJob(request))).reason == "JOB_ACTIVE"
    await cancelled(client, job.id)
    await client.stub.DeleteTrainingJob(request)
    assert (await refusal(client.get(job.id))).id == job.id


async def test_a_job_whose_worker_is_killed_goes_on_from_its_last_checkpoint(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=30, step_seconds=0.1, checkpoints=[2, 4])
    job = await client.create()
    await client.until(job.id, "checkpoint")
    os.kill(workers_of(job.id)[0].pid, signal.SIGKILL)
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    events = await client.events(job.id)
    steps = [event.step.step for event in events if event.HasField("step")]
    begun_again = [step for before, step in itertools.pairwise(steps) if step <= before]
    assert len(begun_again) <= 1
    assert set(begun_again) <= {3, 4, 5}
    points = (await client.stub.ListMetrics(pb.ListMetricsRequest(job_id=job.id))).points
    assert [point.step for point in points] == list(range(1, 31)), "the curve has each step once"


async def paused(client: Client, job_id: str) -> tr.TrainingJob:
    await client.stub.PauseTrainingJob(pb.PauseTrainingJobRequest(job_id=job_id))
    return await client.reaches(job_id, tr.JOB_STATUS_PAUSED)


async def test_a_running_job_is_paused_behind_a_checkpoint_and_goes_on_from_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=20, step_seconds=0.05)
    job = await client.create()
    await client.until(job.id, "step")
    stood = await paused(client, job.id)
    assert await paused(client, job.id) == stood, "again changes nothing"
    assert (await refusal(client.stub.StartTrainingJob(pb.StartTrainingJobRequest(job_id=job.id)))).reason == (
        "JOB_PAUSED"
    )
    following = await client.ended((await client.create()).id)
    assert following.status == tr.JOB_STATUS_COMPLETED, "a paused job holds up nobody"
    await client.stub.ResumeTrainingJob(pb.ResumeTrainingJobRequest(job_id=job.id))
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    events = await client.events(job.id)
    assert [event.step.step for event in events if event.HasField("step")] == list(range(1, 21))
    assert [event.WhichOneof("event") for event in events].count("paused") == 1
    error = await refusal(client.stub.ResumeTrainingJob(pb.ResumeTrainingJobRequest(job_id=job.id)))
    assert error.reason == "JOB_NOT_PAUSED"


async def test_a_failed_job_is_tried_again_from_its_last_checkpoint(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=6, checkpoints=[2], fail_at=4)
    job = await client.create()
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_FAILED
    script(monkeypatch, steps=6)
    retried = (await client.stub.RetryTrainingJob(pb.RetryTrainingJobRequest(job_id=job.id))).job
    assert retried.status in (tr.JOB_STATUS_QUEUED, tr.JOB_STATUS_RUNNING)
    assert not retried.HasField("failure")
    assert (await client.ended(job.id)).status == tr.JOB_STATUS_COMPLETED
    steps = [event.step.step for event in await client.events(job.id) if event.HasField("step")]
    assert steps == [1, 2, 3, 4, 3, 4, 5, 6]
    error = await refusal(client.stub.RetryTrainingJob(pb.RetryTrainingJobRequest(job_id=job.id)))
    assert error.reason == "JOB_NOT_FAILED"


async def test_states_go_when_a_job_completes_or_is_deleted(
    client: Client, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=4, checkpoints=[2], fail_at=3)
    failed = await client.create()
    await client.ended(failed.id)
    state = fake_state(failed.id, 2)
    assert blobs.exists(state)
    await client.stub.DeleteTrainingJob(pb.DeleteTrainingJobRequest(job_id=failed.id))
    assert not blobs.exists(state)
    script(monkeypatch, steps=4, checkpoints=[2])
    completed = await client.create()
    await client.ended(completed.id)
    async with asyncio.timeout(10):
        while blobs.exists(fake_state(completed.id, 2)):  # noqa: ASYNC110  # after the last event
            await asyncio.sleep(0.05)


async def test_capabilities_say_what_can_be_asked_for(client: Client) -> None:
    answer = await client.stub.GetTrainerCapabilities(pb.GetTrainerCapabilitiesRequest())
    assert len(answer.methods) == 3
    assert sorted(answer.families) == [1, 2, 3, 4], "all that there are"
    assert tr.DEVICE_CPU in answer.devices
    assert (answer.defaults.learning_rate, answer.defaults.lora.rank, answer.max_running_jobs) == (1e-4, 4, 1)
    if tr.DEVICE_MPS not in answer.devices:
        error = await refusal(client.create(config=tr.TrainingConfig(device=tr.DEVICE_MPS)))
        assert error.reason == "DEVICE_UNAVAILABLE"


def fake_state(job_id: str, step: int) -> str:
    """The digest of what fake_worker.py leaves as a state."""
    return hashlib.sha256(f"{job_id} {step}".encode()).hexdigest()
