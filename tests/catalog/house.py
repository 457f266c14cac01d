"""A Catalog, really served, and what tests say to it."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import dataset_pb2, model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from google.api.httpbody_pb2 import HttpBody

from services.catalog.__main__ import build
from services.catalog.config import CatalogSettings
from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.errors import AtelierError, InvalidArgument
from services.common.status import error_from_rpc
from tests.pictures_made import encoded, solid

if TYPE_CHECKING:  # these are in the stubs of the generated code alone
    from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub


def png(number: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A small PNG that no other number gives."""
    return encoded(solid("RGB", (number % 256, number // 256 % 256, 77), size))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def start(dataset_id: int) -> pb.UploadImagesRequest:
    return pb.UploadImagesRequest(start=pb.UploadStart(dataset_id=dataset_id))


def opened(filename: str, **more: Any) -> pb.UploadImagesRequest:
    return pb.UploadImagesRequest(file=pb.UploadFile(filename=filename, **more))


def chunk(offset: int, data: bytes) -> pb.UploadImagesRequest:
    return pb.UploadImagesRequest(chunk=pb.UploadChunk(offset=offset, data=data))


def parts(
    dataset_id: int, files: Iterable[tuple[str, bytes]], piece: int = 100_000
) -> Iterator[pb.UploadImagesRequest]:
    """The stream of an upload of files."""
    yield start(dataset_id)
    for name, data in files:
        yield opened(name)
        for offset in range(0, len(data), piece):
            yield chunk(offset, data[offset : offset + piece])


def starter_folder(folder: Path) -> Path:
    """What a pipeline folder has; the Catalog looks into none of its files."""
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# a model card")
    return folder


@dataclass(frozen=True)
class Catalog:
    """Calls a Catalog."""

    address: str
    stub: "CatalogServiceAsyncStub"
    blobs: BlobStore
    channel: grpc.aio.Channel = field(repr=False)

    async def dataset(self, name: str = "icons", **more: Any) -> int:
        return (await self.stub.CreateDataset(pb.CreateDatasetRequest(name=name, **more))).dataset.id

    async def get(self, dataset_id: int) -> dataset_pb2.Dataset:
        return (await self.stub.GetDataset(pb.GetDatasetRequest(dataset_id=dataset_id))).dataset

    async def upload(self, dataset_id: int, data: bytes, filename: str = "a.png", **more: Any) -> dataset_pb2.Image:
        request = pb.UploadImageRequest(dataset_id=dataset_id, filename=filename, content=HttpBody(data=data), **more)
        return (await self.stub.UploadImage(request)).image

    async def stream(self, requests: Iterable[pb.UploadImagesRequest]) -> pb.UploadImagesResponse:
        return await self.stub.UploadImages(iter(requests))

    async def images(self, dataset_id: int) -> list[dataset_pb2.Image]:
        return list((await self.stub.ListImages(pb.ListImagesRequest(dataset_id=dataset_id, page_size=1000))).images)

    async def count_is_right(self, dataset_id: int) -> int:
        """Holds the dataset's count and bytes against its images. Returns the count."""
        dataset, images = await self.get(dataset_id), await self.images(dataset_id)
        assert dataset.num_items == len(images)
        assert dataset.size_bytes == sum(image.size_bytes for image in images)
        return dataset.num_items

    async def register(self, **more: Any) -> model_pb2.Model:
        return (await self.stub.RegisterModel(self.registration(**more))).model

    def registration(self, **more: Any) -> pb.RegisterModelRequest:
        """A base model with one stored file, unless `more` says other things."""
        data = b"some weights"
        file = model_pb2.ModelFile(path="model_index.json", sha256=self.blobs.put(data), size_bytes=len(data))
        values: dict[str, Any] = {
            "name": "base",
            "type": model_pb2.MODEL_TYPE_BASE_MODEL,
            "category": model_pb2.MODEL_CATEGORY_IMAGE,
            "family": model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
            "layout": model_pb2.WEIGHTS_LAYOUT_PIPELINE,
            **({} if "hub" in more else {"stored": model_pb2.StoredWeights(files=[file])}),
            **more,
        }
        return pb.RegisterModelRequest(**values)

    def adapter(self, base_model_id: int, **more: Any) -> dict[str, Any]:
        """What a LoRA on a base adds to `registration`."""
        lora = {"type": model_pb2.MODEL_TYPE_LORA, "layout": model_pb2.WEIGHTS_LAYOUT_LORA}
        return {"name": "lora", **lora, "base_model_id": base_model_id, **more}


@asynccontextmanager
async def catalog_at(folder: Path, blobs: BlobStore, **settings: Any) -> AsyncIterator[Catalog]:
    given = CatalogSettings(data_dir=folder, blob_url=blobs.url, **settings)
    async with build(given) as server, server, open_channel(server.address) as channel:
        yield Catalog(server.address, CatalogServiceStub(channel), blobs, channel)


@contextmanager
def refused(kind: type[AtelierError], *, field: str = "", reason: str = "", words: str = "") -> Iterator[None]:
    """The call inside fails as a `kind`, naming the field, with the reason, and saying the words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = error_from_rpc(caught.value, peer="the Catalog")
    assert type(error) is kind, f"{caught.value.code()}: {error}"
    if field:
        assert isinstance(error, InvalidArgument)
        assert field in error.violations, error.violations
    if reason:
        assert error.reason == reason
    assert words in error.message
