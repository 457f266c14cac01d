"""Who asks: what callers are told apart by, for their turns and their queues."""

from typing import Any
from urllib.parse import unquote

import grpc

PRINCIPAL_KEY = "x-atelier-principal"
"""What a gateway that signs people in calls them. It is taken at its word, so such a gateway has to remove what its own
clients send under this name, and be the only way in."""
FORWARDED_KEY = "x-forwarded-for"
MOST_LETTERS = 200


def principal_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The name that the gateway gave, or the address that it says it speaks for, or the peer's own, without its port.
    At most 200 letters, and never empty."""
    metadata = {key: str(value) for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    named = metadata.get(PRINCIPAL_KEY, "").strip()
    forwarded = metadata.get(FORWARDED_KEY, "").partition(",")[0].strip()
    return (named or forwarded or host_of(context.peer()))[:MOST_LETTERS]


def host_of(peer: str) -> str:
    """`127.0.0.1` of `ipv4:127.0.0.1:50051`, `::1` of `ipv6:%5B::1%5D:50051`, `unix` of a socket in the file system."""
    kind, _, rest = peer.partition(":")
    if kind == "ipv6":
        return unquote(rest).partition("]")[0].removeprefix("[") or kind
    if kind == "ipv4":
        return rest.rpartition(":")[0] or kind
    return kind or "unknown"
