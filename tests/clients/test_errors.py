"""Every domain error of the services arrives in the client as its counterpart, over a real connection."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import atelier_client
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from atelier_client import Atelier

from services.common import errors
from services.common.server import Server

NAME = "atelier.catalog.v1.CatalogService"


class Failing(CatalogServiceServicer):
    """Fails with the errors it is given, one a call; then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.request_ids: list[str] = []

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: object) -> pb.CreateDatasetResponse:
        self.request_ids.append(request.request_id)
        self._fail()
        answer = pb.CreateDatasetResponse()
        answer.dataset.name = request.name
        return answer

    async def StreamSnapshot(
        self, request: pb.StreamSnapshotRequest, context: object
    ) -> AsyncIterator[pb.StreamSnapshotResponse]:
        self._fail()
        yield pb.StreamSnapshotResponse()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


@contextmanager
def served(servicer: Failing) -> Iterator[Atelier]:
    """A client of `servicer`, which runs on a loop of its own: the client's calls block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server([(add_CatalogServiceServicer_to_server, servicer, NAME)])
    try:
        port = asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        with Atelier(catalog=f"127.0.0.1:{port}", trainer="", generator="") as client:
            yield client
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (errors.NotFound("dataset", 7), atelier_client.NotFound),
        (errors.AlreadyExists("dataset", "n"), atelier_client.AlreadyExists),
        (errors.FailedPrecondition("not now", reason="BUSY"), atelier_client.FailedPrecondition),
        (errors.ResourceExhausted("full", retry_after_seconds=2.5), atelier_client.ResourceExhausted),
        (errors.DataLoss("gone"), atelier_client.DataLoss),
        (errors.PermissionDenied("no"), atelier_client.PermissionDenied),
        (errors.Cancelled("stopped"), atelier_client.Cancelled),
        (errors.InvalidArgument("must be short", field="name"), atelier_client.InvalidArgument),
        (RuntimeError("a bug"), atelier_client.InternalError),
    ],
)
def test_each_domain_error_arrives_as_its_counterpart(raised: Exception, expected: type[Exception]) -> None:
    with served(Failing(raised)) as client, pytest.raises(expected) as caught:
        client.datasets.create("n")
    error = caught.value
    if isinstance(raised, errors.AtelierError):
        assert isinstance(error, atelier_client.AtelierError)
        assert (error.message, error.reason) == (raised.message, raised.reason)
    else:
        assert "a bug" not in str(error), "the inside of a service is not shown"


def test_details_arrive() -> None:
    violations = {"name": "must be short", "type": "must be known"}
    failures = (
        errors.InvalidArgument.of(violations),
        errors.NotFound("dataset", 7),
        errors.ResourceExhausted("full", retry_after_seconds=2.5),
    )
    with served(Failing(*failures)) as client:
        with pytest.raises(atelier_client.InvalidArgument) as invalid:
            client.datasets.create("n")
        assert invalid.value.fields == violations
        with pytest.raises(atelier_client.NotFound) as missing:
            client.datasets.create("n")
        assert (missing.value.kind, missing.value.id) == ("dataset", "7")
        with pytest.raises(atelier_client.ResourceExhausted) as full:
            client.datasets.create("n")
        assert full.value.retry_after_seconds == 2.5


def test_a_rule_of_the_protos_names_its_field() -> None:
    with served(Failing()) as client, pytest.raises(atelier_client.InvalidArgument) as caught:
        client.datasets.create("")
    assert list(caught.value.fields) == ["name"]


def test_a_create_is_tried_again_under_one_request_id_while_unavailable() -> None:
    servicer = Failing(errors.Unavailable("busy", retry_after_seconds=0.01), errors.Unavailable("busy"))
    with served(servicer) as client:
        assert client.datasets.create("n").name == "n"
    assert len(servicer.request_ids) == 3
    assert len(set(servicer.request_ids)) == 1


def test_trying_again_ends() -> None:
    busy = errors.Unavailable("busy", retry_after_seconds=0.01)
    servicer = Failing(*[busy] * 20)
    with served(servicer) as client, pytest.raises(atelier_client.Unavailable, match="busy"):
        client.datasets.create("n")
    assert len(servicer.request_ids) == 5


def test_nobody_at_the_address_is_said_with_name_and_address() -> None:
    with (
        Atelier(catalog="127.0.0.1:9", trainer="", generator="") as client,
        pytest.raises(atelier_client.Unavailable, match=r"the Catalog at 127\.0\.0\.1:9 does not answer"),
    ):
        client.datasets.list()
