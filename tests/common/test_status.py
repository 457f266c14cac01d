import grpc
import pytest
from google.rpc import error_details_pb2

from services.common import errors, status


def error_classes(root: type[errors.AtelierError] = errors.AtelierError) -> list[type[errors.AtelierError]]:
    return [root, *(found for kind in root.__subclasses__() for found in error_classes(kind))]


@pytest.mark.parametrize("kind", error_classes()[1:])
def test_every_error_has_a_status_of_its_own_or_its_bases(kind: type[errors.AtelierError]) -> None:
    code = status.code_of(kind.__new__(kind))
    assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


class Rpc:
    """A status as it arrives at the other end."""

    def __init__(self, error: errors.AtelierError) -> None:
        self.error = error

    def code(self) -> grpc.StatusCode:
        return status.code_of(self.error)

    def details(self) -> str:
        return self.error.message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((status.DETAILS_KEY, status.status_of(self.error).SerializeToString()),)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument.of({"config.lora.rank": "must be at least 1", "name": "is empty"}),
        errors.NotFound("dataset", 7),
        errors.AlreadyExists("dataset", "cats"),
        errors.FailedPrecondition("the dataset is empty", reason="EMPTY_DATASET"),
        errors.ResourceExhausted("the queue is full", retry_after_seconds=2.5),
        errors.Unavailable("no database", retry_after_seconds=1.0),
        errors.DataLoss("a picture is gone"),
        errors.PermissionDenied("not this job's token"),
        errors.Cancelled("cancelled"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_the_wire_and_comes_back(error: errors.AtelierError) -> None:
    back = status.error_from_rpc(Rpc(error), peer="the Catalog")
    assert type(back) is type(error)
    assert (back.message, back.reason) == (error.message, error.reason)
    for name in ("violations", "kind", "id", "retry_after_seconds"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_an_unexplained_failure_names_the_peer() -> None:
    back = status.error_from_rpc(Rpc(errors.AtelierError("boom")), peer="the Catalog")
    assert isinstance(back, errors.Unavailable)
    assert "the Catalog did not answer" in back.message


def test_field_rules_travel_as_bad_request() -> None:
    wire = status.status_of(errors.InvalidArgument("must be at least 1", field="config.lora.rank"))
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in wire.details)
    assert [(v.field, v.description) for v in bad.field_violations] == [("config.lora.rank", "must be at least 1")]
    assert wire.message == "config.lora.rank: must be at least 1"
