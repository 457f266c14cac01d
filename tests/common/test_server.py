"""The interceptors around a small servicer of the real contract, over a real channel."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import (
    CatalogServiceServicer,
    CatalogServiceStub,
    add_CatalogServiceServicer_to_server,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common import errors
from services.common.clients import open_channel, peer_errors, peer_stream
from services.common.server import Server

NAME = "atelier.catalog.v1.CatalogService"


class Small(CatalogServiceServicer):
    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        if request.dataset_id == 1:
            raise errors.NotFound("dataset", 1)
        if request.dataset_id == 2:
            raise RuntimeError("a secret")
        await asyncio.sleep(5 if request.dataset_id == 3 else 0)
        return pb.GetDatasetResponse()

    async def StreamSnapshot(
        self, request: pb.StreamSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.StreamSnapshotResponse]:
        yield pb.StreamSnapshotResponse()
        raise errors.DataLoss("the manifest is torn", reason="TORN")

    async def UploadImages(
        self, requests: AsyncIterator[pb.UploadImagesRequest], context: Any
    ) -> pb.UploadImagesResponse:
        async for _ in requests:
            pass
        return pb.UploadImagesResponse()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server([(add_CatalogServiceServicer_to_server, Small(), NAME)]) as server:
        yield server


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(server.address) as channel:
        yield channel


async def test_a_domain_error_becomes_its_status(channel: grpc.aio.Channel) -> None:
    with pytest.raises(errors.NotFound) as caught, peer_errors("the Catalog"):
        await CatalogServiceStub(channel).GetDataset(pb.GetDatasetRequest(dataset_id=1))
    assert (caught.value.kind, caught.value.id) == ("dataset", "1")


async def test_an_error_in_mid_stream_keeps_its_status(channel: grpc.aio.Channel) -> None:
    stream = CatalogServiceStub(channel).StreamSnapshot(pb.StreamSnapshotRequest(digest="0" * 64))
    items = peer_stream("the Catalog", stream)
    assert isinstance(await anext(items), pb.StreamSnapshotResponse)
    with pytest.raises(errors.DataLoss) as caught:
        await anext(items)
    assert caught.value.reason == "TORN"


async def test_an_unexpected_error_tells_an_id_and_no_secret(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await CatalogServiceStub(channel).GetDataset(
            pb.GetDatasetRequest(dataset_id=2), metadata=(("x-request-id", "req-42"),)
        )
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "req-42" in (caught.value.details() or "")
    assert "secret" not in (caught.value.details() or "")


async def test_the_protos_rules_hold_before_the_servicer_runs(channel: grpc.aio.Channel) -> None:
    with pytest.raises(errors.InvalidArgument) as caught, peer_errors("the Catalog"):
        await CatalogServiceStub(channel).GetDataset(pb.GetDatasetRequest(dataset_id=0))
    assert caught.value.violations == {"dataset_id": "must be greater than or equal to 1"}


async def test_a_streams_first_message_is_validated_too(channel: grpc.aio.Channel) -> None:
    stream = CatalogServiceStub(channel).StreamSnapshot(pb.StreamSnapshotRequest(digest="no digest"))
    with pytest.raises(errors.InvalidArgument) as caught:
        await anext(peer_stream("the Catalog", stream))
    assert list(caught.value.violations) == ["digest"]


async def test_each_message_of_an_upload_is_validated(channel: grpc.aio.Channel) -> None:
    async def parts() -> AsyncIterator[pb.UploadImagesRequest]:
        yield pb.UploadImagesRequest(start=pb.UploadStart(dataset_id=1))
        yield pb.UploadImagesRequest()

    with pytest.raises(errors.InvalidArgument) as caught, peer_errors("the Catalog"):
        await CatalogServiceStub(channel).UploadImages(parts())
    assert list(caught.value.violations) == ["part"]


@pytest.mark.parametrize("method", ["GetDataset", "StreamSnapshot"])
async def test_a_request_that_ends_before_its_message_is_answered(channel: grpc.aio.Channel, method: str) -> None:
    call = channel.stream_stream(f"/{NAME}/{method}")(iter(()), timeout=5)
    with pytest.raises(errors.InvalidArgument, match="request: is torn") as caught:
        await anext(peer_stream("the Catalog", call))
    assert caught.value.reason == "TORN_REQUEST"


async def test_a_client_that_leaves_before_its_request_leaves_nothing_behind(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_channel(server.address) as channel:
        call = channel.stream_stream(f"/{NAME}/GetDataset")()
        await call.wait_for_connection()
        await asyncio.sleep(0.1)
        call.cancel()
    async with open_channel(server.address) as channel:
        await asyncio.sleep(0.1)
        await CatalogServiceStub(channel).GetDataset(pb.GetDatasetRequest(dataset_id=9))
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "error" not in said.out + said.err


async def test_what_is_not_implemented_says_so(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await CatalogServiceStub(channel).ListDatasets(pb.ListDatasetsRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_and_reflection_answer_public_tools(channel: grpc.aio.Channel) -> None:
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    names = {service.name async for answer in answers for service in answer.list_services_response.service}
    assert NAME in names


async def test_a_taken_port_is_a_clear_error(server: Server) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {server.address}"):
        await Server([], listen=server.address).start()


async def test_stopping_cuts_calls_after_the_grace() -> None:
    server = Server([(add_CatalogServiceServicer_to_server, Small(), NAME)])
    await server.start()
    async with open_channel(server.address) as channel:
        call = asyncio.ensure_future(CatalogServiceStub(channel).GetDataset(pb.GetDatasetRequest(dataset_id=3)))
        await asyncio.sleep(0.1)
        await server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
