"""A real Envoy before real services, with a small built app of the shape that Vite writes."""

import http.client
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from atelier_client import Atelier
from atelier_client.stack import Stack
from google.protobuf.message import Message
from PIL import Image

from tests.tiny import make_tiny_pipeline

FRIEND = "https://studio.example"
SCRIPT = "export const numbers = [" + ", ".join(str(number) for number in range(1000)) + "];\n"


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    (folder / "assets").mkdir()
    (folder / "index.html").write_text("<!doctype html><title>Atelier</title><script src=/assets/app-1f.js></script>")
    (folder / "assets" / "app-1f.js").write_text(SCRIPT)
    (folder / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder.parent / "secret.txt").write_text("not yours")
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, web: Path) -> Iterator[Stack]:
    environment = {
        "ATELIER_CATALOG_STARTER_MODEL_DIR": str(make_tiny_pipeline(tmp_path_factory.mktemp("starter"))),
        "ATELIER_GATEWAY_WEB_DIR": str(web),
        "ATELIER_GATEWAY_ALLOWED_ORIGINS": json.dumps([FRIEND]),
        "ATELIER_GATEWAY_READ_SECONDS": "3",
        "ATELIER_LOG_LEVEL": "debug",
        "OMP_NUM_THREADS": "1",
    }
    with Stack(tmp_path_factory.mktemp("stack"), gateway=True, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def edge(stack: Stack) -> str:
    """host:port of the gateway."""
    return stack.addresses.gateway


@pytest.fixture(scope="session")
def client(edge: str) -> Iterator[Atelier]:
    """The SDK, with the gateway as the address of every service."""
    with Atelier(catalog=edge, trainer=edge, generator=edge) as connected:
        connected.models.seed()
        yield connected


@pytest.fixture(scope="session")
def starter(client: Atelier) -> int:
    (model,) = [each for each in client.models.list() if each.id <= 100 and each.WhichOneof("weights") == "stored"]
    return model.id


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (80 * index, 200 - 80 * index, 90)).save(folder / f"{index}.png")
    return folder


@dataclass(frozen=True)
class Answer:
    """What came over HTTP/1.1; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(
    edge: str, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own."""
    host, _, port = edge.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def frame(message: Message) -> bytes:
    """A gRPC-Web data frame: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md"""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


class WebStream:
    """A gRPC-Web answer, read frame by frame as it comes."""

    def __init__(self, edge: str, path: str, message: Message) -> None:
        host, _, port = edge.rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        self._connection.request("POST", path, frame(message), headers)
        self.response = self._connection.getresponse()

    def next(self) -> tuple[bool, bytes]:
        """The next frame: whether it holds the trailers, and its bytes."""
        flags, length = struct.unpack(">BI", self.response.read(5))
        return bool(flags & 0x80), self.response.read(length)

    def close(self) -> None:
        self._connection.close()
