"""What a generation failed of, for a client that asks again."""

from typing import Any

from services.common import errors
from services.common.errors import AtelierError
from services.generator.domain import Failure


def error_of(failure: Failure | None) -> AtelierError:
    """The error that a stored failure was, for a client that asks again."""
    if failure is None:
        return AtelierError("the generation failed", reason="INTERNAL")
    kind: Any = getattr(errors, failure.kind, None)
    if kind is errors.InvalidArgument:
        field, _, rule = failure.message.partition(": ")
        return errors.InvalidArgument(rule or field, field=field if rule else "settings", reason=failure.reason)
    if kind in (errors.FailedPrecondition, errors.ResourceExhausted, errors.DataLoss, errors.Unavailable):
        again: AtelierError = kind(failure.message, reason=failure.reason)
        return again
    if failure.kind == "WeightsUnavailable":
        return errors.FailedPrecondition(failure.message, reason=failure.reason)
    return AtelierError(failure.message, reason=failure.reason)
