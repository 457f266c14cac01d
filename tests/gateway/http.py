"""Plain HTTP as any client speaks it, on the standard library."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """Requests to one host:port, a connection each."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body` is bytes, an iterator of them sent in chunks, or a value sent as JSON.

        Header names are written with underscores.
        """
        with self.open(method, path, body, **headers) as response:
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )

    @contextmanager
    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """The answer, its body still to be read."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        sent = body if body is None or isinstance(body, bytes | Iterator) else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, {key.replace("_", "-"): value for key, value in headers.items()})
            yield connection.getresponse()
        finally:
            connection.close()
