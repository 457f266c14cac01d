"""Channels between services, and a peer's errors as domain errors."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from services.common.status import error_from_rpc

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Larger than any image that is taken; longer things are streamed."""

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]

Message = TypeVar("Message")


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` (host:port) with the message sizes and keepalive that the servers expect."""
    return grpc.aio.insecure_channel(address, options=[*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)])


@contextmanager
def peer_errors(peer: str) -> Iterator[None]:
    """Turns a gRPC error from `peer` ("the Catalog") into the domain error it stands for."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, peer=peer) from error


async def peer_stream(peer: str, messages: AsyncIterable[Message]) -> AsyncIterator[Message]:
    """`messages`, with a gRPC error in mid-stream turned as `peer_errors` does."""
    with peer_errors(peer):
        async for message in messages:
            yield message
