"""A real Catalog and a real Generator in this process, with the tiny pipeline and a LoRA on it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

from services.catalog.__main__ import build as build_catalog
from services.catalog.config import CatalogSettings
from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.generator.__main__ import build as build_generator
from services.generator.config import GeneratorSettings
from tests.tiny import make_tiny_lora, make_tiny_pipeline

torch.set_num_threads(1)


@dataclass
class Studio:
    """Stubs of running services, and what they work on."""

    data: Path
    blobs: BlobStore
    catalog: CatalogServiceStub
    catalog_address: str
    base_id: int
    lora_id: int
    pipeline: Path
    lora_file: Path

    @asynccontextmanager
    async def generator(self, **settings: object) -> AsyncIterator[GeneratorServiceStub]:
        """A Generator on this studio's data; a second one after it is a restart."""
        options = {"data_dir": self.data, "catalog_address": self.catalog_address, "threads": 1, **settings}
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(build_generator(GeneratorSettings(**options)))
            await stack.enter_async_context(server)
            channel = await stack.enter_async_context(open_channel(server.address))
            yield GeneratorServiceStub(channel)

    async def register(self, folder: Path, **fields: object) -> int:
        """A model of the files in `folder`."""
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest, size = self.blobs.put_file(path)
            files.append(model_pb2.ModelFile(path=path.relative_to(folder).as_posix(), sha256=digest, size_bytes=size))
        request = catalog_pb2.RegisterModelRequest(
            **{
                "name": folder.name,
                "type": model_pb2.MODEL_TYPE_BASE_MODEL,
                "category": model_pb2.MODEL_CATEGORY_IMAGE,
                "family": model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
                "layout": model_pb2.WEIGHTS_LAYOUT_PIPELINE,
                "stored": model_pb2.StoredWeights(files=files),
                "native_resolution": 64,
                **fields,
            }
        )
        return (await self.catalog.RegisterModel(request)).model.id

    async def register_lora(self, folder: Path, base_id: int, **fields: object) -> int:
        return await self.register(
            folder,
            type=model_pb2.MODEL_TYPE_LORA,
            layout=model_pb2.WEIGHTS_LAYOUT_LORA,
            base_model_id=base_id,
            **fields,
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny pipeline's folder and a LoRA's file."""
    root = tmp_path_factory.mktemp("tiny")
    pipeline = make_tiny_pipeline(root / "tiny-pipeline")
    (root / "tiny-lora").mkdir()
    return pipeline, make_tiny_lora(root / "tiny-lora", pipeline)


@pytest.fixture
async def studio(tmp_path: Path, tiny: tuple[Path, Path]) -> AsyncIterator[Studio]:
    data = tmp_path / "data"
    settings = CatalogSettings(data_dir=data)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(build_catalog(settings))
        await stack.enter_async_context(server)
        channel: grpc.aio.Channel = await stack.enter_async_context(open_channel(server.address))
        pipeline, lora = tiny
        studio = Studio(
            data=data,
            blobs=BlobStore(data / "blobs"),
            catalog=CatalogServiceStub(channel),
            catalog_address=server.address,
            base_id=0,
            lora_id=0,
            pipeline=pipeline,
            lora_file=lora,
        )
        studio.base_id = await studio.register(pipeline)
        studio.lora_id = await studio.register_lora(lora.parent, studio.base_id)
        yield studio


@pytest.fixture
async def generator(studio: Studio) -> AsyncIterator[GeneratorServiceStub]:
    async with studio.generator() as stub:
        yield stub
