"""The whole system behind a real Envoy, and a web folder as a build leaves it."""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from atelier_client import Atelier
from atelier_client.stack import Stack
from PIL import Image

from tests.gateway.http import Http
from tests.tiny import make_tiny_pipeline

ALLOWED = "https://studio.example"
INDEX = b"<!doctype html><title>Atelier</title><script type=module src=/assets/app-1a2b3c.js></script>"
SCRIPT = b"export const answer = 42;\n" * 200


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built app, and beside its folder a file that is nobody's business."""
    folder = tmp_path_factory.mktemp("site") / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "assets" / "app-1a2b3c.js").write_bytes(SCRIPT)
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, web: Path) -> Iterator[Stack]:
    environment = {
        "ATELIER_CATALOG_STARTER_MODEL_DIR": str(make_tiny_pipeline(tmp_path_factory.mktemp("starter"))),
        "ATELIER_TRAINER_HEARTBEAT_SECONDS": "0.5",
        "ATELIER_GATEWAY_WEB_DIR": str(web),
        "ATELIER_GATEWAY_CORS_ORIGINS": json.dumps([ALLOWED]),
        "ATELIER_LOG_LEVEL": "debug",
        "ATELIER_LOG_FORMAT": "json",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with Stack(tmp_path_factory.mktemp("stack"), environment=environment) as running:
        with running.client() as client:
            client.models.seed()
        yield running


@pytest.fixture(scope="session")
def http(stack: Stack) -> Http:
    """The edge by plain HTTP."""
    return Http(stack.addresses.gateway)


@pytest.fixture(scope="session")
def edge(stack: Stack) -> Iterator[Atelier]:
    """The SDK, all of it through the edge."""
    where = stack.addresses.gateway
    with Atelier(catalog=where, trainer=where, generator=where) as client:
        yield client


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    """Native gRPC to the edge."""
    with grpc.insecure_channel(stack.addresses.gateway, options=[("grpc.enable_http_proxy", 0)]) as opened:
        yield opened


@pytest.fixture(scope="session")
def starter(edge: Atelier) -> int:
    (model,) = [each for each in edge.models.list() if each.id <= 100 and each.WhichOneof("weights") == "stored"]
    return model.id


@pytest.fixture
def dataset(edge: Atelier, tmp_path: Path, request: pytest.FixtureRequest) -> int:
    """A dataset of three captioned pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, word in enumerate(("red apple", "blue heart", "cat")):
        Image.new("RGB", (64, 64), (80 * index, 200, 90)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(word)
    made = edge.datasets.create(request.node.name[:100])
    edge.datasets.upload(made, folder)
    return made.id


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]


def eventually(find: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `find` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def unzipped(body: bytes) -> bytes:
    return gzip.decompress(body)


def noise(side: int = 64) -> bytes:
    """A PNG like no other."""
    import io

    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(out, "PNG")
    return out.getvalue()
