"""Who asks, for fair turns: the name that a gateway which signs people in gives, or where the call comes from."""

from typing import Any

import grpc

HEADER = "x-atelier-principal"


def principal_of(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The header's name, which is taken at its word; else the first address that the proxy has seen; else the peer's
    host, without its port."""
    told = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    if name := told.get(HEADER, "").strip():
        return name[:200]
    if forwarded := told.get("x-forwarded-for", "").split(",")[0].strip():
        return forwarded[:200]
    return context.peer().rpartition(":")[0] or context.peer()
