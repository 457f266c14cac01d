"""The one table between domain errors and gRPC statuses, in both directions.

Details follow https://google.aip.dev/193: ErrorInfo always, BadRequest for broken field rules, ResourceInfo for things
that are missing or there already, RetryInfo where trying again makes sense.
"""

from typing import Any, Protocol

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from services.common import errors


class RpcFailure(Protocol):
    """What `grpc.RpcError` has in either of its two families, blocking and aio."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


DOMAIN = "atelier"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[errors.AtelierError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
}


def code_of(error: errors.AtelierError) -> grpc.StatusCode:
    """The status code of an error: its own class's, or its nearest base's."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def status_of(error: errors.AtelierError) -> status_pb2.Status:
    """The `google.rpc.Status` of an error, details included."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidArgument):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=rule)
            for field, rule in error.violations.items()
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, errors.NotFound | errors.AlreadyExists):
        details.append(
            error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.id, description=error.message)
        )
    if isinstance(error, errors.ResourceExhausted | errors.Unavailable) and error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: RpcFailure) -> tuple[str | None, dict[str, str], tuple[str, str] | None, float | None]:
    """Reason, violations, (resource kind, id) and retry delay in seconds out of a peer's status details."""
    reason: str | None = None
    violations: dict[str, str] = {}
    resource: tuple[str, str] | None = None
    retry: float | None = None
    status = status_pb2.Status()
    for key, value in dict(error.trailing_metadata() or ()).items():
        if key == DETAILS_KEY:
            try:
                status.ParseFromString(value)
            except DecodeError:
                break
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    named, delay = error_details_pb2.ResourceInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(named):
            resource = (named.resource_type, named.resource_name)
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToNanoseconds() / 1e9
    return reason, violations, resource, retry


def error_from_rpc(error: RpcFailure, *, peer: str) -> errors.AtelierError:
    """A peer's answer as the domain error that it was there.

    What has no counterpart (INTERNAL, UNKNOWN, DEADLINE_EXCEEDED) becomes Unavailable naming `peer`.
    """
    reason, violations, resource, retry = _details(error)
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidArgument.of(violations or {"request": message}, reason=reason)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS):
        kind, id = resource or ("resource", "")
        if code is grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(kind, id, message=message, reason=reason)
        return errors.AlreadyExists(kind, id, message, reason=reason)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.ResourceExhausted(message, reason=reason, retry_after_seconds=retry)
    if code is grpc.StatusCode.UNAVAILABLE and reason is not None:
        return errors.Unavailable(message, reason=reason, retry_after_seconds=retry)
    plain: dict[grpc.StatusCode, type[errors.AtelierError]] = {
        grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
        grpc.StatusCode.DATA_LOSS: errors.DataLoss,
        grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
        grpc.StatusCode.CANCELLED: errors.Cancelled,
    }
    if code in plain:
        return plain[code](message, reason=reason)
    return errors.Unavailable(
        f"{peer} did not answer: {code.name}: {message}", reason=reason, retry_after_seconds=retry
    )
