"""Domain values to messages of the contract, and back."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from atelier.catalog.v1 import catalog_service_pb2 as service_pb2
from atelier.catalog.v1 import dataset_pb2, model_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from services.catalog import domain

Enum = TypeVar("Enum", bound=StrEnum)

MOST_NAMED = 100
"""Images that a finding names; it counts the rest."""

_PREFIXES: dict[type[StrEnum], tuple[str, Any]] = {
    domain.DatasetType: ("DATASET_TYPE_", dataset_pb2.DatasetType),
    domain.ImageFormat: ("IMAGE_FORMAT_", dataset_pb2.ImageFormat),
    domain.ModelType: ("MODEL_TYPE_", model_pb2.ModelType),
    domain.ModelCategory: ("MODEL_CATEGORY_", model_pb2.ModelCategory),
    domain.ModelFamily: ("MODEL_FAMILY_", model_pb2.ModelFamily),
    domain.WeightsLayout: ("WEIGHTS_LAYOUT_", model_pb2.WeightsLayout),
    domain.FindingKind: ("FINDING_KIND_", service_pb2.FindingKind),
}


def enum_to_proto(value: StrEnum) -> Any:
    prefix, enum = _PREFIXES[type(value)]
    return enum.Value(prefix + value.name)


def enum_from_proto(kind: type[Enum], number: int) -> Enum | None:
    """The domain's value, or None for UNSPECIFIED."""
    prefix, enum = _PREFIXES[kind]
    return kind[enum.Name(number).removeprefix(prefix)] if number else None


def time_to_proto(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def time_from_proto(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def dataset_to_proto(dataset: domain.Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        id=dataset.id,
        name=dataset.name,
        type=enum_to_proto(dataset.type),
        description=dataset.description,
        num_items=dataset.num_items,
        size_bytes=dataset.size_bytes,
        cover_image_id=dataset.cover_image_id,
        created_at=time_to_proto(dataset.created_at),
        updated_at=time_to_proto(dataset.updated_at),
    )


def image_to_proto(image: domain.Image) -> dataset_pb2.Image:
    return dataset_pb2.Image(
        id=image.id,
        dataset_id=image.dataset_id,
        filename=image.filename,
        caption=image.caption,
        sha256=image.sha256,
        format=enum_to_proto(image.format),
        width=image.width,
        height=image.height,
        size_bytes=image.size_bytes,
        created_at=time_to_proto(image.created_at),
        num_frames=image.num_frames,
        frames_per_second=image.frames_per_second,
        mask_sha256=image.mask_sha256,
    )


def snapshot_to_proto(snapshot: domain.Snapshot) -> dataset_pb2.Snapshot:
    return dataset_pb2.Snapshot(
        digest=snapshot.digest,
        dataset_id=snapshot.dataset_id,
        num_items=snapshot.num_items,
        size_bytes=snapshot.size_bytes,
        created_at=time_to_proto(snapshot.created_at),
    )


def item_to_proto(item: domain.SnapshotItem) -> dataset_pb2.SnapshotItem:
    return dataset_pb2.SnapshotItem(
        sha256=item.sha256,
        filename=item.filename,
        caption=item.caption,
        width=item.width,
        height=item.height,
        size_bytes=item.size_bytes,
        num_frames=item.num_frames,
        frames_per_second=item.frames_per_second,
        mask_sha256=item.mask_sha256,
    )


def stored_to_proto(weights: domain.StoredWeights) -> model_pb2.StoredWeights:
    files = [model_pb2.ModelFile(path=f.path, sha256=f.sha256, size_bytes=f.size_bytes) for f in weights.files]
    return model_pb2.StoredWeights(files=files)


def stored_from_proto(weights: model_pb2.StoredWeights) -> domain.StoredWeights:
    return domain.StoredWeights(tuple(domain.ModelFile(f.path, f.sha256, f.size_bytes) for f in weights.files))


def model_to_proto(model: domain.Model) -> model_pb2.Model:
    message = model_pb2.Model(
        id=model.id,
        name=model.name,
        type=enum_to_proto(model.type),
        category=enum_to_proto(model.category),
        family=enum_to_proto(model.family),
        layout=enum_to_proto(model.layout),
        is_active=model.is_active,
        created_at=time_to_proto(model.created_at),
        updated_at=time_to_proto(model.updated_at),
        base_model_id=model.base_model_id,
        job_id=model.job_id,
        dataset_id=model.dataset_id,
        snapshot_digest=model.snapshot_digest,
        checkpoint_step=model.checkpoint_step,
        trigger_words=model.trigger_words,
        license=model.license,
        description=model.description,
        native_resolution=model.native_resolution,
        samples=[
            model_pb2.ModelSample(prompt=each.prompt, sha256=each.sha256, width=each.width, height=each.height)
            for each in model.samples
        ],
    )
    if isinstance(model.weights, domain.HubWeights):
        message.hub.CopyFrom(model_pb2.HubWeights(repo_id=model.weights.repo_id, revision=model.weights.revision))
    else:
        message.stored.CopyFrom(stored_to_proto(model.weights))
        message.size_bytes = model.weights.size_bytes
        message.digest = model.weights.digest
    return message


def new_model_from_proto(request: service_pb2.RegisterModelRequest) -> domain.NewModel:
    """What RegisterModel is to add. The proto's rules have been checked: no enum is unspecified, weights are set."""
    weights: domain.StoredWeights | domain.HubWeights = stored_from_proto(request.stored)
    if request.WhichOneof("weights") == "hub":
        weights = domain.HubWeights(request.hub.repo_id, request.hub.revision)
    return domain.NewModel(
        name=request.name,
        type=enum_from_proto(domain.ModelType, request.type) or domain.ModelType.BASE_MODEL,
        category=enum_from_proto(domain.ModelCategory, request.category) or domain.ModelCategory.IMAGE,
        family=enum_from_proto(domain.ModelFamily, request.family) or domain.ModelFamily.STABLE_DIFFUSION,
        layout=enum_from_proto(domain.WeightsLayout, request.layout) or domain.WeightsLayout.PIPELINE,
        weights=weights,
        base_model_id=request.base_model_id if request.HasField("base_model_id") else None,
        job_id=request.job_id,
        dataset_id=request.dataset_id if request.HasField("dataset_id") else None,
        snapshot_digest=request.snapshot_digest,
        checkpoint_step=request.checkpoint_step if request.HasField("checkpoint_step") else None,
        promoted=request.promoted,
        trigger_words=tuple(request.trigger_words),
        license=request.license,
        description=request.description,
        native_resolution=request.native_resolution,
        samples=tuple(domain.Sample(each.prompt, each.sha256, each.width, each.height) for each in request.samples),
    )


def new_model_from_import(start: service_pb2.ImportStart) -> domain.NewModel:
    """A model of which the file is still to come: what it is is not known yet."""
    return domain.NewModel(
        name=start.name,
        type=domain.ModelType.LORA,
        category=domain.ModelCategory.IMAGE,
        family=domain.ModelFamily.STABLE_DIFFUSION,
        layout=domain.WeightsLayout.LORA,
        weights=domain.StoredWeights(()),
        base_model_id=start.base_model_id,
        trigger_words=tuple(start.trigger_words),
        license=start.license,
        description=start.description,
    )


def new_model_from_pull(request: service_pb2.PullModelRequest, commit: str) -> domain.NewModel:
    """As `new_model_from_import`, of a repository's file at a commit."""
    start = service_pb2.ImportStart(
        name=request.name or request.repo_id.rpartition("/")[2][: domain.MAX_NAME],
        base_model_id=request.base_model_id,
        trigger_words=request.trigger_words,
        description=f"From {request.repo_id} at {commit}.",
    )
    return new_model_from_import(start)


def inspection_to_proto(inspection: domain.Inspection) -> service_pb2.DatasetInspection:
    return service_pb2.DatasetInspection(
        num_images=inspection.num_images,
        resolution=inspection.resolution,
        findings=[
            service_pb2.Finding(
                kind=enum_to_proto(finding.kind),
                image_ids=sorted(finding.image_ids)[:MOST_NAMED],
                num_images=len(finding.image_ids),
                detail=finding.detail,
            )
            for finding in inspection.findings
        ],
        buckets=[
            service_pb2.BucketCount(width=width, height=height, num_images=count)
            for width, height, count in inspection.buckets
        ],
    )
