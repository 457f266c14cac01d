"""The whole way with the real worker: torch in a process of its own, a narrow model, a LoRA that is registered."""

from pathlib import Path

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr
from mlflow import MlflowClient
from safetensors import safe_open

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from tests.ldm import sd1_checkpoint
from tests.tiny import make_tiny_pipeline
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of, free_port


def stored(folder: Path, blobs: BlobStore) -> list[model_pb2.ModelFile]:
    """A narrow pipeline, made in `folder`, in the blob store."""
    make_tiny_pipeline(folder)
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest, size = blobs.put_file(path)
        name = path.relative_to(folder).as_posix()
        files.append(model_pb2.ModelFile(path=name, sha256=digest, size_bytes=size))
    return files


async def register_tiny(catalog: RunningCatalog, files: list[model_pb2.ModelFile]) -> int:
    """A real base model, in the Catalog."""
    request = catalog_pb2.RegisterModelRequest(
        name="tiny",
        type=model_pb2.MODEL_TYPE_BASE_MODEL,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_PIPELINE,
        stored=model_pb2.StoredWeights(files=files),
        native_resolution=64,
    )
    async with open_channel(catalog.address) as channel:
        return (await CatalogServiceStub(channel).RegisterModel(request)).model.id


async def cancel_in_mid_training(client: Client, base_id: int) -> tr.TrainingJob:
    job = await client.create(base_model_id=base_id, config=tr.TrainingConfig(max_steps=100_000, batch_size=1))
    await client.until(job.id, "step")
    await client.stub.CancelTrainingJob(pb.CancelTrainingJobRequest(job_id=job.id))
    return await client.ended(job.id, seconds=60)


@pytest.mark.timeout(240)
async def test_a_lora_is_trained_and_registered_and_another_cancelled(
    given: TrainerSettings, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    own = given.model_copy(update={"cancel_grace_seconds": 60.0})
    async with serving(own) as server, client_of(server.address, catalog.known) as client:
        samples = tr.SampleConfig(prompts=["a red apple"], steps=2)
        config = tr.TrainingConfig(max_steps=4, batch_size=2, lora=tr.LoraConfig(rank=2), samples=samples)
        job = await client.create(base_model_id=base_id, config=config)
        events = await client.events(job.id)
        job = await client.get(job.id)
        assert job.status == tr.JOB_STATUS_COMPLETED, job.failure
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.step.step for event in events if event.HasField("step")] == [1, 2, 3, 4]
        (sample,) = [event.sample for event in events if event.HasField("sample")]
        download = pb.DownloadSampleRequest(job_id=job.id, sha256=sample.sha256)
        assert (await client.stub.DownloadSample(download)).content.data.startswith(b"\x89PNG")
        async with open_channel(catalog.address) as channel:
            request = catalog_pb2.GetModelRequest(model_id=job.model_id)
            model = (await CatalogServiceStub(channel).GetModel(request)).model
        assert [(each.prompt, each.sha256) for each in model.samples] == [("a red apple", sample.sha256)]
        (file,) = [file for file in model.stored.files if file.path.endswith(".safetensors")]
        with safe_open(blobs.path(file.sha256), framework="np") as weights:
            assert all(".lora_" in name for name in weights.keys())  # noqa: SIM118  # not a mapping
        await client.stub.DeleteTrainingJob(pb.DeleteTrainingJobRequest(job_id=job.id))
        assert blobs.exists(sample.sha256), "what the model shows outlives its job"
        cancelled = await cancel_in_mid_training(client, base_id)
        assert cancelled.status == tr.JOB_STATUS_CANCELLED
        assert not cancelled.HasField("model_id")


@pytest.mark.timeout(240)
async def test_jobs_are_runs_of_mlflow_where_it_is_told_of_and_go_on_where_it_is_away(
    given: TrainerSettings,
    catalog: RunningCatalog,
    blobs: BlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    uri = f"sqlite:///{tmp_path}/runs.sqlite"
    tracked = MlflowClient(tracking_uri=uri)
    experiment = tracked.create_experiment("atelier", artifact_location=(tmp_path / "artifacts").as_uri())
    config = tr.TrainingConfig(max_steps=2, batch_size=2, lora=tr.LoraConfig(rank=2))
    async with serving(given) as server, client_of(server.address, catalog.known) as client:
        for address in (uri, f"http://127.0.0.1:{free_port()}"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            job = await client.create(base_model_id=base_id, config=config)
            events = await client.events(job.id)
            assert (await client.get(job.id)).status == tr.JOB_STATUS_COMPLETED
            warnings = [each.log.message for each in events if "no MLflow from here on" in each.log.message]
            assert len(warnings) == (address != uri)
    (run,) = tracked.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["max_steps"] == "2"
    assert [each.step for each in tracked.get_metric_history(run.info.run_id, "loss/train")] == [1, 2]


@pytest.mark.timeout(240)
async def test_a_checkpoint_as_one_file_is_trained_on(
    given: TrainerSettings, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    path = sd1_checkpoint(make_tiny_pipeline(tmp_path / "other", seed=5), tmp_path / "checkpoint.safetensors")
    digest, size = blobs.put_file(path)
    file = model_pb2.ModelFile(path="model.safetensors", sha256=digest, size_bytes=size)
    request = catalog_pb2.RegisterModelRequest(
        name="a checkpoint",
        type=model_pb2.MODEL_TYPE_BASE_MODEL,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_SINGLE_FILE,
        stored=model_pb2.StoredWeights(files=[file]),
        base_model_id=base_id,
        native_resolution=64,
    )
    async with open_channel(catalog.address) as channel:
        checkpoint = (await CatalogServiceStub(channel).RegisterModel(request)).model
    async with serving(given) as server, client_of(server.address, catalog.known) as client:
        config = tr.TrainingConfig(max_steps=2, batch_size=1, lora=tr.LoraConfig(rank=2))
        job = await client.create(base_model_id=checkpoint.id, config=config)
        job = await client.ended(job.id, seconds=120)
        assert job.status == tr.JOB_STATUS_COMPLETED, job.failure
