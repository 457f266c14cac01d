"""Models in a running studio that no client can bring in: their files are laid into its blob store."""

from pathlib import Path
from typing import Any

from atelier.catalog.v1 import catalog_service_pb2, model_pb2
from atelier_client import Atelier
from atelier_client.stack import Stack

from services.common.blobs import BlobStore


def register_clips(stack: Stack, client: Atelier, folder: Path) -> int:
    """A model that draws clips; its id."""
    return _register(
        stack,
        client,
        folder,
        type=model_pb2.MODEL_TYPE_BASE_MODEL,
        category=model_pb2.MODEL_CATEGORY_VIDEO,
        family=model_pb2.MODEL_FAMILY_STABLE_VIDEO_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_PIPELINE,
    )


def register_control(stack: Stack, client: Atelier, folder: Path) -> int:
    """A ControlNet for Stable Diffusion; its id."""
    return _register(
        stack,
        client,
        folder,
        type=model_pb2.MODEL_TYPE_CONTROLNET,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_CONTROLNET,
    )


def _register(stack: Stack, client: Atelier, folder: Path, **fields: Any) -> int:
    blobs = BlobStore(stack.data_dir / "blobs")
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest, size = blobs.put_file(path)
        files.append(model_pb2.ModelFile(path=path.relative_to(folder).as_posix(), sha256=digest, size_bytes=size))
    request = catalog_service_pb2.RegisterModelRequest(
        name=folder.name, stored=model_pb2.StoredWeights(files=files), native_resolution=64, **fields
    )
    return client.models._catalog.call(client.models._stub.RegisterModel, request).model.id
