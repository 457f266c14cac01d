"""The services to measure, each in a process of its own, and models registered with them."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub
from atelier_client.stack import gateway_problem, is_ready

from services.common.blobs import BlobStore
from services.common.clients import CHANNEL_OPTIONS

WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class House:
    """A Catalog and a Generator that run."""

    catalog: CatalogServiceStub
    generator: GeneratorServiceStub
    edge: GeneratorServiceStub | None
    """The Generator through the gateway's Envoy, where that was wanted and runs."""
    generator_address: str
    generator_pid: int
    blobs: BlobStore

    def register(self, folder: Path, *, base: int | None = None) -> int:
        """As `register`."""
        return register(self.catalog, self.blobs, folder, base=base)


def register(catalog: CatalogServiceStub, blobs: BlobStore, folder: Path, *, base: int | None = None) -> int:
    """The id in the Catalog of a diffusers folder; with `base` of a LoRA's folder, whose base model that is."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest, size = blobs.put_file(path)
        files.append(model_pb2.ModelFile(path=path.relative_to(folder).as_posix(), sha256=digest, size_bytes=size))
    request = catalog_pb2.RegisterModelRequest(
        name=folder.name,
        type=model_pb2.MODEL_TYPE_BASE_MODEL if base is None else model_pb2.MODEL_TYPE_LORA,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_PIPELINE if base is None else model_pb2.WEIGHTS_LAYOUT_LORA,
        stored=model_pb2.StoredWeights(files=files),
        base_model_id=base,
    )
    return int(catalog.RegisterModel(request).model.id)


@contextlib.contextmanager
def open_catalog(data: Path) -> Iterator[str]:
    """The address of a Catalog alone."""
    data.mkdir(parents=True, exist_ok=True)
    with _service("catalog", data, {}) as (address, _):
        yield address


@contextlib.contextmanager
def open_house(data: Path, *, edge: bool = False, generator: Mapping[str, str] | None = None) -> Iterator[House]:
    """A Catalog and a Generator on `data`, which is made where it is missing. `generator` holds settings of the
    Generator by their names behind ATELIER_GENERATOR_."""
    data.mkdir(parents=True, exist_ok=True)
    settings = {f"ATELIER_GENERATOR_{name}": value for name, value in (generator or {}).items()}
    with contextlib.ExitStack() as stack:
        catalog, _ = stack.enter_context(_service("catalog", data, {}))
        settings["ATELIER_GENERATOR_CATALOG_ADDRESS"] = catalog
        address, pid = stack.enter_context(_service("generator", data, settings))
        addresses = [catalog, address]
        if edge and not gateway_problem():
            addresses.append(stack.enter_context(_edge(data, catalog, address)))
        channels = [stack.enter_context(grpc.insecure_channel(each, options=CHANNEL_OPTIONS)) for each in addresses]
        yield House(
            CatalogServiceStub(channels[0]),
            GeneratorServiceStub(channels[1]),
            GeneratorServiceStub(channels[2]) if len(channels) > 2 else None,
            address,
            pid,
            BlobStore(data / "blobs"),
        )


@contextlib.contextmanager
def _edge(data: Path, catalog: str, generator: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "ATELIER_DATA_DIR": str(data),
        "ATELIER_GATEWAY_LISTEN": address,
        "ATELIER_GATEWAY_CATALOG_ADDRESS": catalog,
        "ATELIER_GATEWAY_GENERATOR_ADDRESS": generator,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.envoy"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        began = time.monotonic()
        while not is_ready(address, "/readyz/generator"):
            if process.poll() is not None or time.monotonic() - began > WAIT_SECONDS:
                raise RuntimeError("the gateway did not start")
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _service(name: str, data: Path, more: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    announced = data / f"{name}.address"
    environment = {
        **os.environ,
        **more,
        "ATELIER_DATA_DIR": str(data),
        f"ATELIER_{name.upper()}_ANNOUNCE_FILE": str(announced),
        "ATELIER_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", f"services.{name}"], env=environment)
    try:
        began = time.monotonic()
        while not announced.exists():
            if process.poll() is not None or time.monotonic() - began > WAIT_SECONDS:
                raise RuntimeError(f"the {name} did not start")
            time.sleep(0.02)
        yield announced.read_text(), process.pid
    finally:
        process.terminate()
        process.wait(60)
