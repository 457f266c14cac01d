"""gRPC-Web as a browser speaks it: length-prefixed frames over HTTP/1.1, the trailers in the last of them."""

import base64
import struct
from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from tests.gateway.http import Http

Answer = TypeVar("Answer", bound=Message)
TRAILERS = 0x80


class GrpcWebError(Exception):
    def __init__(self, code: int, message: str, status: Status) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


def frame(message: Message) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def stream(http: Http, method: str, request: Message, answer: type[Answer], **headers: str) -> Iterator[Answer]:
    """The messages of a call, each as it comes. Raises GrpcWebError when the status in the trailers is not OK."""
    types = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1"}
    with http.open("POST", method, frame(request), **types, **headers) as response:
        if "grpc-status" in response.headers:
            check(dict(response.getheaders()))
            return
        while True:
            flag, size = struct.unpack(">BI", exactly(response, 5))
            data = exactly(response, size)
            if flag & TRAILERS:
                check(dict(line.split(":", 1) for line in data.decode().split("\r\n") if line))
                return
            message = answer()
            message.ParseFromString(data)
            yield message


def unary(http: Http, method: str, request: Message, answer: type[Answer], **headers: str) -> Answer:
    (only,) = stream(http, method, request, answer, **headers)
    return only


def exactly(response: Any, size: int) -> bytes:
    data = response.read(size)
    assert len(data) == size, "the stream ended within a frame"
    return bytes(data)


def check(trailers: dict[str, str]) -> None:
    found = {key.lower(): value.strip() for key, value in trailers.items()}
    code = int(found["grpc-status"])
    if code:
        details = found.get("grpc-status-details-bin", "")
        status = Status()
        status.ParseFromString(base64.b64decode(details + "=" * (-len(details) % 4)))
        raise GrpcWebError(code, found.get("grpc-message", ""), status)
