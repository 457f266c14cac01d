"""One channel to one service: message sizes, retries with bounded backoff, and errors as exceptions."""

import random
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import grpc

from atelier_client.errors import AtelierError, ResourceExhausted, Unavailable, error_from_rpc

MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # the services' own limit
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # A restarted service is found again within a second or two, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
CALL_ATTEMPTS = 5
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0

Request = TypeVar("Request")
Response = TypeVar("Response")


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt 0, 1, 2, ...: doubling, bounded, with jitter against herds."""
    ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**attempt)
    return ceiling * random.uniform(0.5, 1.0)


class Transport:
    """A channel to the service called `name` at `address` (host:port), opened at the first call."""

    def __init__(self, name: str, address: str) -> None:
        self.peer = f"{name} at {address}"
        self._address = address

    @cached_property
    def channel(self) -> grpc.Channel:
        """Raises Unavailable when the address is empty."""
        if not self._address:
            raise Unavailable(f"the address of the {self.peer.split()[0]} is not known", reason="NO_ADDRESS")
        return grpc.insecure_channel(self._address, options=CHANNEL_OPTIONS)

    def call(
        self,
        method: Callable[..., Response],
        request: Request,
        *,
        timeout: float | None = 60.0,
        attempts: int = CALL_ATTEMPTS,
    ) -> Response:
        """The answer of a unary call; tries again while the service is unavailable.

        Trying again is safe because every create carries a request id. `timeout` is seconds for one attempt.
        Raises atelier_client.errors.AtelierError.
        """
        attempt = 0
        while True:
            try:
                return method(request, timeout=timeout)
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error, peer=self.peer)
                attempt += 1
                if not isinstance(error, Unavailable) or attempt >= attempts:
                    raise error from rpc_error
                time.sleep(delay_after(error, attempt - 1))

    def stream(
        self, method: Callable[..., Iterator[Response]], request: Request, *, timeout: float | None = None
    ) -> Iterator[Response]:
        """The messages of a server stream, once; leaving the iteration cancels the call. `timeout` is seconds for all
        of them. Raises AtelierError."""
        call = method(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise error_from_rpc(error, peer=self.peer) from error
        finally:
            call.cancel()  # type: ignore[attr-defined]  # the stubs type the call as a bare iterator

    def close(self) -> None:
        if "channel" in self.__dict__:
            self.channel.close()


def delay_after(error: AtelierError, attempt: int) -> float:
    """Seconds until the next attempt: what the server asked for, within bounds, else our own backoff."""
    if isinstance(error, Unavailable | ResourceExhausted) and error.retry_after_seconds is not None:
        return min(error.retry_after_seconds, LONGEST_DELAY_SECONDS)
    return backoff(attempt)
