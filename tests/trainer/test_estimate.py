"""What a job would take is measured, and is what it takes."""

import asyncio
from pathlib import Path

import grpc
import psutil
import pytest
from atelier.trainer.v1 import trainer_service_pb2 as pb
from atelier.trainer.v1 import training_pb2 as tr

from services.common.blobs import BlobStore
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of
from tests.trainer.test_real_worker import register_tiny, stored
from tests.trainer.test_training import refusal


def asked(client: Client, base_id: int, method: int = 0, **config: object) -> pb.EstimateTrainingJobRequest:
    return pb.EstimateTrainingJobRequest(
        dataset_id=client.known.dataset_id,
        base_model_id=base_id,
        method=tr.TrainingMethod.ValueType(method),
        config=tr.TrainingConfig(**config),  # type: ignore[arg-type]  # a test's choice
    )


@pytest.mark.timeout(240)
async def test_an_estimate_is_what_the_job_then_takes(
    given: TrainerSettings, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    async with serving(given) as server, client_of(server.address, catalog.known) as client:
        config = {"epochs": 10, "batch_size": 2, "samples": tr.SampleConfig(prompts=["a"], steps=2)}
        config["checkpoints"] = tr.CheckpointConfig(interval_steps=5, keep=2)
        estimate = await client.stub.EstimateTrainingJob(asked(client, base_id, tr.TRAINING_METHOD_FULL, **config))
        job = await client.create(
            base_model_id=base_id, method=tr.TRAINING_METHOD_FULL, config=tr.TrainingConfig(**config)
        )
        job = await client.ended(job.id)
        assert job.status == tr.JOB_STATUS_COMPLETED, job.failure
        assert (estimate.num_images, estimate.total_steps, estimate.total_epochs) == (3, 20, 10)
        assert (job.progress.total_steps, job.progress.total_epochs) == (20, 10)
        assert estimate.config.resolution == 64
        assert estimate.device == tr.DEVICE_CPU
        assert estimate.memory_bytes == pytest.approx(job.progress.peak_memory_bytes, rel=0.1)
        assert estimate.memory_bytes < estimate.memory_total_bytes <= psutil.virtual_memory().total
        checkpoints = (await client.stub.ListCheckpoints(pb.ListCheckpointsRequest(job_id=job.id))).checkpoints
        # Two checkpoints and the model in 16 bits; two states of weights and moments in 32.
        assert estimate.disk_bytes == pytest.approx(checkpoints[0].size_bytes * (3 + 2 * 6), rel=0.05)
        assert estimate.disk_bytes < estimate.disk_free_bytes
        assert 0 < estimate.step_millis * 20 <= estimate.duration_millis
        assert not list((given.data_dir / "jobs").glob("estimate-*")), "nothing is left behind"
        again = await client.stub.EstimateTrainingJob(asked(client, base_id, tr.TRAINING_METHOD_FULL, **config))
        assert (again.memory_bytes, again.total_steps) != (0, 0)
        lora = await client.stub.EstimateTrainingJob(asked(client, base_id))
        assert lora.trained_parameters < estimate.trained_parameters / 10
        assert lora.disk_bytes < estimate.disk_bytes


@pytest.mark.timeout(240)
async def test_what_the_job_would_fail_with_is_said_before_there_is_one(
    given: TrainerSettings, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    async with serving(given) as server, client_of(server.address, catalog.known) as client:
        error = await refusal(client.stub.EstimateTrainingJob(asked(client, base_id, resolution=72)))
        assert list(error.violations) == ["config"]
        assert "multiple of 16" in error.message
        error = await refusal(client.stub.EstimateTrainingJob(asked(client, client.known.base_id)))
        assert error.reason == "WEIGHTS_UNAVAILABLE"
        error = await refusal(client.stub.EstimateTrainingJob(asked(client, client.known.other_family_id)))
        assert error.reason == "UNSUPPORTED_FAMILY"
        assert (await client.stub.ListTrainingJobs(pb.ListTrainingJobsRequest())).total_size == 0


async def test_a_caller_who_leaves_ends_the_measuring(
    given: TrainerSettings, catalog: RunningCatalog, blobs: BlobStore, tmp_path: Path
) -> None:
    def measuring() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [each for each in children if any("dry_run" in part for part in each.cmdline())]

    base_id = await register_tiny(catalog, stored(tmp_path / "tiny", blobs))
    async with serving(given) as server, client_of(server.address, catalog.known) as client:
        call = client.stub.EstimateTrainingJob(asked(client, base_id))
        async with asyncio.timeout(20):
            while not measuring():  # noqa: ASYNC110  # a process has no event
                await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(20):
            while measuring():  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
        assert await call.code() == grpc.StatusCode.CANCELLED
