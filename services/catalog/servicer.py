"""The Catalog's RPCs: convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import dataset_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from google.api import httpbody_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from services import VERSION
from services.catalog import datasets, domain, exports, images, imports, inspection, masks, models, seed, uploads
from services.catalog.convert import (
    dataset_to_proto,
    enum_from_proto,
    enum_to_proto,
    image_to_proto,
    inspection_to_proto,
    item_to_proto,
    model_to_proto,
    new_model_from_import,
    new_model_from_proto,
    new_model_from_pull,
    snapshot_to_proto,
)
from services.catalog.datasets import JobsOfDataset
from services.catalog.hub import Hub
from services.catalog.model_store import ModelStore
from services.catalog.store import Store
from services.common import clips, pictures
from services.common.blobs import BlobStore
from services.common.errors import InvalidArgument
from services.common.paging import decode_token, encode_token, page_size

Context = grpc.aio.ServicerContext[Any, Any]
SNAPSHOT_PAGE = 500
MAX_ID = 2**31 - 1
EXPORTS = {
    pb.EXPORT_FORMAT_UNSPECIFIED: exports.DIFFUSERS,
    pb.EXPORT_FORMAT_DIFFUSERS: exports.DIFFUSERS,
    pb.EXPORT_FORMAT_LORA_DIFFUSERS: exports.LORA_DIFFUSERS,
    pb.EXPORT_FORMAT_LORA_KOHYA: exports.LORA_KOHYA,
}


@dataclass(frozen=True)
class CatalogServicer(CatalogServiceServicer):
    """Speaks for the stores, the blob store and the threads that decode images."""

    store: Store
    models: ModelStore
    blobs: BlobStore
    threads: Executor
    starter_model_dir: Path
    jobs_of: JobsOfDataset | None = None
    hub: Hub = field(default_factory=Hub)
    clip_limits: clips.Limits = clips.LIMITS

    async def GetCatalogCapabilities(
        self, request: pb.GetCatalogCapabilitiesRequest, context: Context
    ) -> pb.GetCatalogCapabilitiesResponse:
        return pb.GetCatalogCapabilitiesResponse(
            formats=[enum_to_proto(format) for format in domain.PICTURES],
            max_image_bytes=pictures.MAX_BYTES,
            max_image_pixels=pictures.MAX_PIXELS,
            min_image_side=pictures.MIN_SIDE,
            max_caption_length=domain.MAX_CAPTION,
            thumbnail_side=images.THUMBNAIL_SIDE,
            version=VERSION,
            clip_formats=[enum_to_proto(format) for format in domain.CLIPS],
            max_clip_bytes=self.clip_limits.max_bytes,
            max_clip_frames=self.clip_limits.max_frames,
        )

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> pb.CreateDatasetResponse:
        dataset = await datasets.create_dataset(
            self.store,
            name=request.name,
            type=enum_from_proto(domain.DatasetType, request.type),
            description=request.description,
            request_id=request.request_id or None,
        )
        return pb.CreateDatasetResponse(dataset=dataset_to_proto(dataset))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=dataset_to_proto(await self.store.get_dataset(request.dataset_id)))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        limit = page_size(request.page_size)
        found, total = await self.store.list_datasets(
            after=_after("datasets", request.page_token),
            limit=limit + 1,
            type=enum_from_proto(domain.DatasetType, request.type),
            name=_exact(request.name),
        )
        page, token = _page("datasets", found, limit)
        return pb.ListDatasetsResponse(
            datasets=[dataset_to_proto(dataset) for dataset in page], next_page_token=token, total_size=total
        )

    async def UpdateDataset(self, request: pb.UpdateDatasetRequest, context: Context) -> pb.UpdateDatasetResponse:
        changes = _masked(request.dataset, request.update_mask)
        dataset = await datasets.update_dataset(self.store, request.dataset_id, changes)
        return pb.UpdateDatasetResponse(dataset=dataset_to_proto(dataset))

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        await datasets.delete_dataset(self.store, self.jobs_of, request.dataset_id, force=request.force)
        return pb.DeleteDatasetResponse()

    async def RefreshDataset(self, request: pb.RefreshDatasetRequest, context: Context) -> pb.RefreshDatasetResponse:
        recount = await datasets.refresh_dataset(self.store, self.blobs, request.dataset_id)
        return pb.RefreshDatasetResponse(
            dataset=dataset_to_proto(recount.dataset),
            previous_num_items=recount.previous_num_items,
            missing=[image_to_proto(image) for image in recount.missing],
            corrupt=[image_to_proto(image) for image in recount.corrupt],
        )

    async def InspectDataset(
        self, request: pb.InspectDatasetRequest, context: Context
    ) -> AsyncIterator[pb.InspectDatasetResponse]:
        answers = inspection.inspect_dataset(
            self.store, self.blobs, self.threads, request.dataset_id, request.resolution
        )
        async with aclosing(answers):
            async for answer in answers:
                if isinstance(answer, domain.Inspection):
                    yield pb.InspectDatasetResponse(inspection=inspection_to_proto(answer))
                else:
                    done, total = answer
                    yield pb.InspectDatasetResponse(progress=pb.InspectionProgress(done=done, total=total))

    async def UploadImage(self, request: pb.UploadImageRequest, context: Context) -> pb.UploadImageResponse:
        image = await images.upload_image(
            self.store,
            self.blobs,
            self.threads,
            request.dataset_id,
            filename=request.filename,
            caption=request.caption,
            data=request.content.data,
            request_id=request.request_id or None,
            limits=self.clip_limits,
        )
        return pb.UploadImageResponse(image=image_to_proto(image))

    async def UploadImages(
        self, requests: AsyncIterator[pb.UploadImagesRequest], context: Context
    ) -> pb.UploadImagesResponse:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument("must come first on the stream", field="start")
        summary = await uploads.upload_images(
            self.store, self.blobs, self.threads, first.start.dataset_id, _parts(requests), limits=self.clip_limits
        )
        return pb.UploadImagesResponse(
            accepted=[image_to_proto(image) for image in summary.accepted],
            duplicates=[pb.DuplicateFile(filename=name, image_id=image.id) for name, image in summary.duplicates],
            refused=[
                pb.RefusedFile(
                    filename=each.filename,
                    reason=pb.UploadRefusal.Value(f"UPLOAD_REFUSAL_{each.reason}"),
                    message=each.rule,
                )
                for each in summary.refused
            ],
            dataset=dataset_to_proto(await self.store.get_dataset(first.start.dataset_id)),
        )

    async def FindImages(self, request: pb.FindImagesRequest, context: Context) -> pb.FindImagesResponse:
        present = await images.find_images(self.store, self.blobs, request.dataset_id, request.sha256)
        return pb.FindImagesResponse(present=present)

    async def ListImages(self, request: pb.ListImagesRequest, context: Context) -> pb.ListImagesResponse:
        limit = page_size(request.page_size)
        after = _after("images", request.page_token)
        found, total = await self.store.list_images(request.dataset_id, after=after, limit=limit + 1)
        page, token = _page("images", found, limit)
        return pb.ListImagesResponse(
            images=[image_to_proto(image) for image in page], next_page_token=token, total_size=total
        )

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        return pb.GetImageResponse(image=image_to_proto(await self.store.get_image(request.image_id)))

    async def DownloadImage(self, request: pb.DownloadImageRequest, context: Context) -> pb.DownloadImageResponse:
        if request.variant == pb.IMAGE_VARIANT_THUMBNAIL:
            content_type, data = await images.thumbnail(self.store, self.blobs, self.threads, request.image_id)
        elif request.variant == pb.IMAGE_VARIANT_MASK:
            content_type, data = await masks.mask(self.store, self.blobs, request.image_id)
        else:
            content_type, data = await images.original(self.store, self.blobs, request.image_id)
        return pb.DownloadImageResponse(content=httpbody_pb2.HttpBody(content_type=content_type, data=data))

    async def UpdateImage(self, request: pb.UpdateImageRequest, context: Context) -> pb.UpdateImageResponse:
        image = await images.update_caption(self.store, request.image_id, request.caption)
        return pb.UpdateImageResponse(image=image_to_proto(image))

    async def SetImageMask(self, request: pb.SetImageMaskRequest, context: Context) -> pb.SetImageMaskResponse:
        image = await masks.set_mask(self.store, self.blobs, self.threads, request.image_id, request.content.data)
        return pb.SetImageMaskResponse(image=image_to_proto(image))

    async def ClearImageMask(self, request: pb.ClearImageMaskRequest, context: Context) -> pb.ClearImageMaskResponse:
        return pb.ClearImageMaskResponse(image=image_to_proto(await self.store.set_mask(request.image_id, "")))

    async def DeleteImage(self, request: pb.DeleteImageRequest, context: Context) -> pb.DeleteImageResponse:
        await self.store.delete_image(request.image_id)
        return pb.DeleteImageResponse()

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        snapshot = await self.store.create_snapshot(request.dataset_id)
        return pb.CreateSnapshotResponse(snapshot=snapshot_to_proto(snapshot))

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Context) -> pb.GetSnapshotResponse:
        return pb.GetSnapshotResponse(snapshot=snapshot_to_proto(await self.store.get_snapshot(request.digest)))

    async def StreamSnapshot(
        self, request: pb.StreamSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.StreamSnapshotResponse]:
        start = 0
        while items := await self.store.snapshot_items(request.digest, start=start, limit=SNAPSHOT_PAGE):
            yield pb.StreamSnapshotResponse(items=[item_to_proto(item) for item in items])
            start += len(items)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        limit = page_size(request.page_size)
        found, total = await self.models.find(
            after=_after("models", request.page_token),
            limit=limit + 1,
            category=enum_from_proto(domain.ModelCategory, request.category),
            type=enum_from_proto(domain.ModelType, request.type),
            family=enum_from_proto(domain.ModelFamily, request.family),
            is_active=request.is_active if request.HasField("is_active") else None,
            name=_exact(request.name),
            base_model_id=request.base_model_id if request.HasField("base_model_id") else None,
        )
        page, token = _page("models", found, limit)
        return pb.ListModelsResponse(
            models=[model_to_proto(model) for model in page], next_page_token=token, total_size=total
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=model_to_proto(await self.models.get(request.model_id)))

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        changes = _masked(request.model, request.update_mask)
        if "trigger_words" in changes:
            changes["trigger_words"] = list(changes["trigger_words"])
        model = await models.update_model(self.models, request.model_id, changes)
        return pb.UpdateModelResponse(model=model_to_proto(model))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        await self.models.delete(request.model_id)
        return pb.DeleteModelResponse()

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> pb.RegisterModelResponse:
        new = new_model_from_proto(request)
        model = await models.register_model(self.models, self.blobs, new, request_id=request.request_id or None)
        return pb.RegisterModelResponse(model=model_to_proto(model))

    async def ExportModel(
        self, request: pb.ExportModelRequest, context: Context
    ) -> AsyncIterator[pb.ExportModelResponse]:
        export = await exports.export_model(self.models, self.blobs, request.model_id, EXPORTS[request.format])
        filename = export.filename
        while (piece := await asyncio.to_thread(next, export.pieces, None)) is not None:
            content = httpbody_pb2.HttpBody(content_type=export.content_type, data=piece)
            yield pb.ExportModelResponse(content=content, filename=filename)
            filename = ""

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Context
    ) -> pb.ImportModelResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument("must come first on the stream", field="start")
        new, request_id = new_model_from_import(first.start), first.start.request_id or None
        if request_id and (known := await self.models.registered(job_id="", request_id=request_id)) is not None:
            return pb.ImportModelResponse(model=model_to_proto(known))
        chunks = _chunks(request_iterator)
        model, found = await imports.import_weights(self.models, self.blobs, new, chunks, request_id=request_id)
        return pb.ImportModelResponse(model=model_to_proto(model), rank=found.rank, layout=found.layout)

    async def PushModel(self, request: pb.PushModelRequest, context: Context) -> pb.PushModelResponse:
        pushed = await self.hub.push(
            self.models,
            self.blobs,
            request.model_id,
            request.repo_id,
            token=request.token,
            private=request.private,
            message=request.commit_message,
        )
        return pb.PushModelResponse(url=pushed.url, commit=pushed.commit)

    async def PullModel(self, request: pb.PullModelRequest, context: Context) -> pb.PullModelResponse:
        request_id = request.request_id or None
        if request_id and (known := await self.models.registered(job_id="", request_id=request_id)) is not None:
            return pb.PullModelResponse(model=model_to_proto(known))
        where = {"revision": request.revision, "filename": request.filename, "token": request.token}
        remote = await self.hub.find(request.repo_id, **where)
        new = new_model_from_pull(request, remote.commit)
        async with aclosing(self.hub.download(remote, token=request.token)) as chunks:
            model, found = await imports.import_weights(self.models, self.blobs, new, chunks, request_id=request_id)
        proto = model_to_proto(model)
        return pb.PullModelResponse(model=proto, rank=found.rank, layout=found.layout, commit=remote.commit)

    async def GetModelLineage(self, request: pb.GetModelLineageRequest, context: Context) -> pb.GetModelLineageResponse:
        lineage = await models.lineage(self.models, self.store, request.model_id)
        return pb.GetModelLineageResponse(
            model=model_to_proto(lineage.model),
            ancestors=[model_to_proto(model) for model in lineage.ancestors],
            children=[model_to_proto(model) for model in lineage.children],
            dataset=dataset_to_proto(lineage.dataset) if lineage.dataset else None,
            snapshot=snapshot_to_proto(lineage.snapshot) if lineage.snapshot else None,
        )

    async def SeedModels(self, request: pb.SeedModelsRequest, context: Context) -> pb.SeedModelsResponse:
        seeded, added = await seed.seed_models(self.models, self.blobs, self.starter_model_dir)
        return pb.SeedModelsResponse(models=[model_to_proto(model) for model in seeded], added_ids=added)


async def _chunks(requests: AsyncIterator[pb.ImportModelRequest]) -> AsyncIterator[imports.Chunk]:
    async for request in requests:
        if not request.HasField("chunk"):
            raise InvalidArgument("comes once, first on the stream", field="start")
        yield imports.Chunk(request.chunk.offset, request.chunk.data)


async def _parts(requests: AsyncIterator[pb.UploadImagesRequest]) -> AsyncIterator[uploads.FileStart | uploads.Chunk]:
    opened = False
    async for request in requests:
        match request.WhichOneof("part"):
            case "file":
                opened = True
                size = request.file.size_bytes if request.file.HasField("size_bytes") else None
                yield uploads.FileStart(request.file.filename, request.file.caption, size, request.file.sha256)
            case "chunk" if opened:
                yield uploads.Chunk(request.chunk.offset, request.chunk.data)
            case "chunk":
                raise InvalidArgument("must follow the file that it is of", field="chunk")
            case _:
                raise InvalidArgument("comes once, first on the stream", field="start")


def _after(listing: str, page_token: str) -> int:
    """The last id of the page before. Raises InvalidArgument for a token of another listing."""
    parts = decode_token(page_token, str, int)
    if parts is None:
        return 0
    of, last = parts
    if of != listing or not 0 < int(last) <= MAX_ID:
        raise InvalidArgument(f"is not a token of a list of {listing}", field="page_token")
    return int(last)


def _page(listing: str, found: list[Any], limit: int) -> tuple[list[Any], str]:
    """The page of `found`, which has one more than fits where there is a next page; and that page's token."""
    if len(found) <= limit:
        return found, ""
    return found[:limit], encode_token(listing, found[limit - 1].id)


def _exact(name: str) -> str:
    """A name to look for. Raises InvalidArgument for one that nothing can have and no database takes."""
    if rule := domain.text_rule(name, domain.MAX_NAME):
        raise InvalidArgument(rule, field="name")
    return name


def _masked(message: dataset_pb2.Dataset | Any, mask: FieldMask) -> dict[str, Any]:
    """The fields of `message` that `mask` names; an empty mask is refused, since it would change nothing."""
    if not mask.paths:
        raise InvalidArgument("must name the fields to change", field="update_mask")
    return {path: getattr(message, path) for path in mask.paths}
