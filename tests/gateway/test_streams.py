"""gRPC, gRPC-Web and JSON through the edge: the same calls, the same errors, nothing held back."""

import itertools
import json
import uuid
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from atelier_client import Atelier
from google.rpc import error_details_pb2

from tests.gateway import grpc_web
from tests.gateway.http import Http

CATALOG = "/atelier.catalog.v1.CatalogService"
TRAINER = "/atelier.trainer.v1.TrainerService"


def test_the_whole_sdk_works_through_the_one_port(edge: Atelier, starter: int, dataset: int) -> None:
    job = edge.training.create(dataset, starter, config={"max_steps": 3, "batch_size": 1}, start=True)
    events = list(edge.training.watch(job.id))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].WhichOneof("event") == "done"
    drawing = edge.generate("red apple", model=edge.training.get(job.id).model_id, seed=3, steps=2)
    assert len(drawing) == 1


def test_grpc_web_answers_a_unary_call(http: Http) -> None:
    request = catalog_pb.ListModelsRequest(page_size=2)
    answer = grpc_web.unary(http, f"{CATALOG}/ListModels", request, catalog_pb.ListModelsResponse)
    assert [model.id for model in answer.models] == [1, 2]


def test_grpc_web_errors_carry_their_details(http: Http) -> None:
    request = catalog_pb.GetDatasetRequest(dataset_id=999_999)
    with pytest.raises(grpc_web.GrpcWebError, match="no dataset 999999") as caught:
        grpc_web.unary(http, f"{CATALOG}/GetDataset", request, catalog_pb.GetDatasetResponse)
    assert caught.value.code == grpc.StatusCode.NOT_FOUND.value[0]
    info = error_details_pb2.ErrorInfo()
    assert caught.value.status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("atelier", "NOT_FOUND")


def test_grpc_errors_name_the_field_through_the_edge(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        CatalogServiceStub(channel).GetDataset(catalog_pb.GetDatasetRequest(dataset_id=0))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert b"dataset_id" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


def watch_grpc(http: Http, job_id: str) -> Iterator[trainer_pb.WatchTrainingJobResponse]:
    with grpc.insecure_channel(http.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield from TrainerServiceStub(channel).WatchTrainingJob(trainer_pb.WatchTrainingJobRequest(job_id=job_id))


def watch_grpc_web(http: Http, job_id: str) -> Iterator[trainer_pb.WatchTrainingJobResponse]:
    request = trainer_pb.WatchTrainingJobRequest(job_id=job_id)
    return grpc_web.stream(http, f"{TRAINER}/WatchTrainingJob", request, trainer_pb.WatchTrainingJobResponse)


def watch_json(http: Http, job_id: str) -> Iterator[trainer_pb.WatchTrainingJobResponse]:
    from google.protobuf import json_format

    # A browser's fetch asks for compression always: a compressor that gathers would hold messages back.
    with http.open("GET", f"/api/training/{job_id}/events", accept_encoding="gzip, br") as response:
        assert response.getheader("content-encoding") is None
        while line := response.readline():
            yield json_format.Parse(line, trainer_pb.WatchTrainingJobResponse())


@pytest.mark.parametrize("watch", [watch_grpc, watch_grpc_web, watch_json])
def test_a_message_arrives_before_the_next_one_exists(
    http: Http, edge: Atelier, starter: int, dataset: int, watch: object
) -> None:
    job = edge.training.create(dataset, starter, config={"max_steps": 100_000, "batch_size": 1})
    messages = watch(http, job.id)  # type: ignore[operator]
    # A pending job has no events: this heartbeat reached us, and only then is there anything else to send.
    assert next(messages).event.WhichOneof("event") == "heartbeat"
    edge.training.start(job.id)
    events = (message.event for message in messages if message.event.WhichOneof("event") != "heartbeat")
    assert next(events).sequence == 1
    # The first step reached us while the job runs on, for 100,000 steps if nobody stops it.
    assert next(event for event in events if event.WhichOneof("event") == "step").step.step == 1
    edge.training.cancel(job.id)
    *_, last = events
    assert last.WhichOneof("event") == "cancelled"


def test_a_watch_that_was_cut_goes_on_without_a_gap(http: Http, edge: Atelier, starter: int, dataset: int) -> None:
    config = {"max_steps": 20, "batch_size": 1}
    job = edge.training.create(dataset, starter, config=config, start=True)
    path = f"/api/training/{job.id}/events"

    def events_of(response: HTTPResponse) -> Iterator[dict[str, Any]]:
        told = (json.loads(line)["event"] for line in response)
        return (event for event in told if "heartbeat" not in event)

    with http.open("GET", path) as response:  # and leaves in mid-stream
        seen = [event["sequence"] for event in itertools.islice(events_of(response), 3)]
    with http.open("GET", f"{path}?after_sequence={seen[-1]}") as response:
        rest = list(events_of(response))
    seen += [event["sequence"] for event in rest]
    # 64-bit numbers are strings in protobuf's JSON.
    assert seen == [str(number) for number in range(1, len(seen) + 1)]
    assert "done" in rest[-1]


def test_an_upload_stream_of_any_length_passes(channel: grpc.Channel, edge: Atelier) -> None:
    """80 MiB on one stream: more than any one message or REST body may have."""
    from tests.gateway.conftest import noise

    made = edge.datasets.create(f"long {uuid.uuid4()}")
    pictures = [noise(1536) for _ in range(12)]
    assert sum(map(len, pictures)) > 80 * 2**20

    def parts() -> Iterator[catalog_pb.UploadImagesRequest]:
        yield catalog_pb.UploadImagesRequest(start=catalog_pb.UploadStart(dataset_id=made.id))
        for number, data in enumerate(pictures):
            yield catalog_pb.UploadImagesRequest(file=catalog_pb.UploadFile(filename=f"{number}.png"))
            for offset in range(0, len(data), 2**20):
                piece = data[offset : offset + 2**20]
                yield catalog_pb.UploadImagesRequest(chunk=catalog_pb.UploadChunk(offset=offset, data=piece))

    answer = CatalogServiceStub(channel).UploadImages(parts(), timeout=100)
    assert (len(answer.accepted), len(answer.refused)) == (12, 0)


def test_grpc_web_streams_two_calls_side_by_side(http: Http, edge: Atelier, starter: int, dataset: int) -> None:
    jobs = [edge.training.create(dataset, starter, config={"max_steps": 2}) for _ in range(2)]
    watches = [watch_grpc_web(http, job.id) for job in jobs]
    firsts = [next(watch) for watch in itertools.chain(watches, watches)]
    assert all(first.event.WhichOneof("event") == "heartbeat" for first in firsts)
    for watch, job in zip(watches, jobs, strict=True):
        edge.training.cancel(job.id)
        *_, last = watch
        assert last.event.WhichOneof("event") == "cancelled"
