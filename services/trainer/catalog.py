"""What the Trainer asks of the Catalog, over gRPC. Its errors come as the domain errors they were there."""

import uuid
from collections.abc import Sequence

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import dataset_pb2, model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from services.common.clients import peer_errors
from services.trainer import domain
from services.trainer.convert import files_to_proto

PEER = "the Catalog"
TIMEOUT_SECONDS = 30.0
MOST_SAMPLES = 16  # that a model may have
DESCRIPTION = "Trained by job {job.id} on dataset {job.dataset_id}."

TYPES = {
    domain.Method.LORA: model_pb2.MODEL_TYPE_LORA,
    domain.Method.DREAMBOOTH: model_pb2.MODEL_TYPE_DREAMBOOTH,
    domain.Method.FULL: model_pb2.MODEL_TYPE_FULL,
}
FAMILIES = {number: name.removeprefix("MODEL_FAMILY_").lower() for name, number in model_pb2.ModelFamily.items()}


class Catalog:
    """A client of the Catalog on an open channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CatalogServiceStub(channel)

    async def dataset(self, dataset_id: int) -> domain.Dataset:
        """Raises NotFound, Unavailable."""
        with peer_errors(PEER):
            request = catalog_pb2.GetDatasetRequest(dataset_id=dataset_id)
            dataset = (await self._stub.GetDataset(request, timeout=TIMEOUT_SECONDS)).dataset
        holds_images = dataset.type == dataset_pb2.DATASET_TYPE_IMAGE
        return domain.Dataset(dataset.id, dataset.name, holds_images, dataset.num_items)

    async def base_model(self, model_id: int) -> domain.BaseModel:
        """Raises NotFound, Unavailable."""
        model = await self._model(model_id)
        return domain.BaseModel(
            id=model.id,
            name=model.name,
            family=FAMILIES.get(model.family, "unknown"),
            is_pipeline=model.layout not in (model_pb2.WEIGHTS_LAYOUT_LORA, model_pb2.WEIGHTS_LAYOUT_CONTROLNET),
            draws_images=model.category == model_pb2.MODEL_CATEGORY_IMAGE,
            is_active=model.is_active,
            base_model_id=model.base_model_id if model.HasField("base_model_id") else None,
            native_resolution=model.native_resolution,
        )

    async def snapshot(self, dataset_id: int) -> tuple[str, int]:
        """Freezes the dataset: the manifest's digest and its number of images.

        Raises NotFound, FailedPrecondition (it is empty), Unavailable.
        """
        with peer_errors(PEER):
            request = catalog_pb2.CreateSnapshotRequest(dataset_id=dataset_id)
            snapshot = (await self._stub.CreateSnapshot(request, timeout=TIMEOUT_SECONDS)).snapshot
        return snapshot.digest, snapshot.num_items

    async def base_chain(self, model_id: int) -> list[model_pb2.Model]:
        """A base model, its own base behind it, and so on: nearest first. Raises NotFound, Unavailable."""
        with peer_errors(PEER):
            request = catalog_pb2.GetModelLineageRequest(model_id=model_id)
            lineage = await self._stub.GetModelLineage(request, timeout=TIMEOUT_SECONDS)
        return [lineage.model, *lineage.ancestors]

    async def register(
        self, job: domain.Job, trained: domain.Trained, samples: Sequence[domain.Sample] = ()
    ) -> domain.Done:
        """Makes a model of what `job` has trained; again with the same job it answers the same model.

        Raises NotFound (the base model), FailedPrecondition (a file is not in the blob store), Unavailable.
        """
        return await self._register(job, trained, samples, name=job.model_name)

    async def promote(
        self, job: domain.Job, checkpoint: domain.Checkpoint, name: str, samples: Sequence[domain.Sample] = ()
    ) -> domain.Done:
        """Makes a model of a checkpoint, beside the one that the job makes in the end; again it answers the same model.

        Raises as `register`.
        """
        weights = domain.Trained(checkpoint.step, job.layout, checkpoint.files)
        request_id = str(uuid.uuid5(uuid.UUID(job.id), f"checkpoint {checkpoint.step}"))
        return await self._register(job, weights, samples, name=name, request_id=request_id)

    async def _register(
        self,
        job: domain.Job,
        trained: domain.Trained,
        samples: Sequence[domain.Sample],
        *,
        name: str,
        request_id: str = "",
    ) -> domain.Done:
        base = await self._model(job.base_model_id)
        request = catalog_pb2.RegisterModelRequest(
            request_id=request_id,
            promoted=bool(request_id),
            name=name,
            type=TYPES[job.method],
            category=base.category,
            family=base.family,
            layout=model_pb2.WeightsLayout.ValueType(trained.layout),
            stored=model_pb2.StoredWeights(files=files_to_proto(trained.files)),
            base_model_id=job.base_model_id,
            job_id=job.id,
            dataset_id=job.dataset_id,
            snapshot_digest=job.snapshot_digest,
            checkpoint_step=trained.step,
            trigger_words=trigger_words(job),
            license=base.license,
            description=DESCRIPTION.format(job=job),
            native_resolution=job.config.resolution or base.native_resolution,
            samples=[
                model_pb2.ModelSample(
                    prompt=each.prompt[:1000], sha256=each.sha256, width=each.width, height=each.height
                )
                for each in samples[:MOST_SAMPLES]
            ],
        )
        with peer_errors(PEER):
            model = (await self._stub.RegisterModel(request, timeout=TIMEOUT_SECONDS)).model
        return domain.Done(model.id, model.name)

    async def _model(self, model_id: int) -> model_pb2.Model:
        with peer_errors(PEER):
            request = catalog_pb2.GetModelRequest(model_id=model_id)
            return (await self._stub.GetModel(request, timeout=TIMEOUT_SECONDS)).model


def trigger_words(job: domain.Job) -> list[str]:
    """What calls the thing learnt: the trigger word, else the prompt that DreamBooth bound it to, unless too long."""
    if job.config.trigger_word:
        return [job.config.trigger_word]
    if job.config.dreambooth is not None and 0 < len(job.config.dreambooth.instance_prompt) <= 100:
        return [job.config.dreambooth.instance_prompt]
    return []
