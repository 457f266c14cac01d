"""The errors that use-cases raise: what went wrong in the domain's words. `status.py` alone knows their gRPC codes."""

from collections.abc import Mapping


class AtelierError(Exception):
    """Something that the caller can understand.

    `message` names the thing and the rule; `reason` is a stable UPPER_SNAKE word for programs.
    """

    default_reason = "FAILED"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason


class InvalidArgument(AtelierError):
    """A request breaks a rule. `violations` maps field paths (`config.lora.rank`) to the rules broken."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, field: str, reason: str | None = None) -> None:
        super().__init__(message if message.startswith(field) else f"{field}: {message}", reason=reason)
        self.violations: dict[str, str] = {field: message}

    @classmethod
    def of(cls, violations: Mapping[str, str], *, reason: str | None = None) -> "InvalidArgument":
        """One error of several broken rules. Raises ValueError when there is none."""
        if not violations:
            raise ValueError("an InvalidArgument names at least one field")
        first, *_ = violations
        error = cls(violations[first], field=first, reason=reason)
        error.violations = dict(violations)
        error.message = "; ".join(f"{field}: {rule}" for field, rule in violations.items())
        error.args = (error.message,)
        return error


class NotFound(AtelierError):
    """There is no such thing."""

    default_reason = "NOT_FOUND"

    def __init__(self, kind: str, id: object, *, message: str | None = None, reason: str | None = None) -> None:
        super().__init__(message or f"there is no {kind} {id}", reason=reason)
        self.kind = kind
        self.id = str(id)


class AlreadyExists(AtelierError):
    """Such a thing is there already."""

    default_reason = "ALREADY_EXISTS"

    def __init__(self, kind: str, id: object, message: str | None = None, *, reason: str | None = None) -> None:
        super().__init__(message or f"there is a {kind} {id} already", reason=reason)
        self.kind = kind
        self.id = str(id)


class FailedPrecondition(AtelierError):
    """The request is well formed, and the state of things forbids it."""

    default_reason = "FAILED_PRECONDITION"


class ResourceExhausted(AtelierError):
    """A limit is reached: a queue, memory, a quota."""

    default_reason = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, reason: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(AtelierError):
    """Something needed is out of reach just now; the same request may succeed later."""

    default_reason = "UNAVAILABLE"

    def __init__(self, message: str, *, reason: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds


class DataLoss(AtelierError):
    """What was stored is gone or damaged."""

    default_reason = "DATA_LOSS"


class PermissionDenied(AtelierError):
    """The caller may not do this."""

    default_reason = "PERMISSION_DENIED"


class Cancelled(AtelierError):
    """The work was cancelled on somebody's request."""

    default_reason = "CANCELLED"
