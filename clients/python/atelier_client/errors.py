"""What a call can fail with, as Python exceptions made from gRPC statuses and their details (https://google.aip.dev/193)."""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class AtelierError(Exception):
    """A call failed. `message` is for people, `reason` is a stable UPPER_SNAKE word for programs."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class InvalidArgument(AtelierError):
    """A request breaks rules. `fields` maps field paths (`settings.steps`) to the rules they break."""

    def __init__(self, fields: Mapping[str, str], *, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__("; ".join(f"{field}: {rule}" for field, rule in fields.items()), reason=reason)
        self.fields = dict(fields)


class NotFound(AtelierError):
    """There is no such thing. `kind` and `id` say which."""

    def __init__(self, message: str, *, kind: str = "", id: str = "", reason: str = "NOT_FOUND") -> None:
        super().__init__(message, reason=reason)
        self.kind = kind
        self.id = id


class AlreadyExists(AtelierError):
    """Such a thing is there already. `kind` and `id` say which."""

    def __init__(self, message: str, *, kind: str = "", id: str = "", reason: str = "ALREADY_EXISTS") -> None:
        super().__init__(message, reason=reason)
        self.kind = kind
        self.id = id


class FailedPrecondition(AtelierError):
    """The request is well formed, and the state of things forbids it."""


class ResourceExhausted(AtelierError):
    """A limit is reached. `retry_after_seconds` says when to try again, where the server knows."""

    def __init__(self, message: str, *, reason: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(AtelierError):
    """The service, or something it needs, is out of reach; the same call may succeed later."""

    def __init__(self, message: str, *, reason: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class DataLoss(AtelierError):
    """What was stored is gone or damaged."""


class PermissionDenied(AtelierError):
    """The caller may not do this."""


class Cancelled(AtelierError):
    """The work was cancelled."""


class DeadlineExceeded(AtelierError):
    """The answer did not come in the time the caller gave it."""


class InternalError(AtelierError):
    """Something broke inside the service; its log knows the id in the message."""


_PLAIN: dict[grpc.StatusCode, type[AtelierError]] = {
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def error_from_rpc(error: grpc.RpcError, *, peer: str) -> AtelierError:
    """The exception that a failed call to `peer` (for example "Catalog at 127.0.0.1:50051") stands for."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    info, violations, resource, retry_after = _read_details(error.trailing_metadata() or ())
    reason = info.reason
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgument(violations or {"request": message}, reason=reason or "INVALID_ARGUMENT")
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(message, kind=resource.resource_type, id=resource.resource_name, reason=reason or "NOT_FOUND")
    if code is grpc.StatusCode.ALREADY_EXISTS:
        kind, id = resource.resource_type, resource.resource_name
        return AlreadyExists(message, kind=kind, id=id, reason=reason or "ALREADY_EXISTS")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhausted(message, reason=reason, retry_after_seconds=retry_after)
    if code is grpc.StatusCode.UNAVAILABLE:
        # Without our own details it is the transport that speaks: name whom it could not reach.
        text = message if reason else f"the {peer} does not answer: {message}"
        return Unavailable(text, reason=reason, retry_after_seconds=retry_after)
    if code in _PLAIN:
        return _PLAIN[code](message, reason=reason or code.name)
    return InternalError(f"the {peer} failed: {message}", reason=reason or code.name)


def _read_details(
    metadata: Iterable[Any],  # pairs of a key and a str or bytes
) -> tuple[error_details_pb2.ErrorInfo, dict[str, str], error_details_pb2.ResourceInfo, float | None]:
    status = status_pb2.Status()
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:  # a proxy's, not ours: the code and the message remain
                break
    info, resource = error_details_pb2.ErrorInfo(), error_details_pb2.ResourceInfo()
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, resource, bad, retry):
            detail.Unpack(target)
    violations = {violation.field: violation.description for violation in bad.field_violations}
    delay = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    return info, violations, resource, delay
