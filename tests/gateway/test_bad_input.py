"""What a careless or hostile client does, and that everybody else notices nothing."""

import base64
import select
import socket
import struct
import uuid
from collections.abc import Iterator

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier_client import Atelier
from atelier_client.stack import Stack, is_healthy, is_ready
from google.api.httpbody_pb2 import HttpBody

from tests.gateway.conftest import ALLOWED, eventually, lines_of, noise
from tests.gateway.grpc_web import frame, unary
from tests.gateway.http import Http

CALL = "/atelier.catalog.v1.CatalogService/CreateDataset"
READ = "/atelier.catalog.v1.CatalogService/ListModels"
STREAM = "/atelier.catalog.v1.CatalogService/StreamSnapshot"
WEB = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1"}


@pytest.fixture(autouse=True)
def _everything_lives_on(stack: Stack) -> Iterator[None]:
    pids = [stack.pid(name) for name in ("catalog", "trainer", "generator", "gateway")]
    yield
    stack.check()
    assert pids == [stack.pid(name) for name in ("catalog", "trainer", "generator", "gateway")]
    assert is_ready(stack.addresses.gateway, "/readyz")
    assert is_healthy(stack.addresses.catalog)


def test_a_rest_upload_of_100_mb_is_refused_with_the_limit(http: Http, dataset: int) -> None:
    host, _, port = http.address.rpartition(":")
    size = 100 * 10**6
    head = f"POST /api/datasets/{dataset}/images?filename=a.png HTTP/1.1\r\nHost: {http.address}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        sent = 0
        while not select.select([connection], [], [], 0)[0]:  # until it is answered, as a client would
            assert sent < size, "all of it was taken"
            try:
                sent += connection.send(bytes(1 << 18))
            except ConnectionError:  # it was answered while this waited for room, and closed
                break
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"larger than 67108864 bytes: stream it over gRPC" in answer
    assert http("GET", f"/api/datasets/{dataset}").json["dataset"]["num_items"] == "3"


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">BI", 0, 3) + b"\xff\xff\xff",  # no message
        struct.pack(">BI", 0, 2**32 - 1) + b"x" * 100,  # a length that nobody has
        struct.pack(">BI", 0x80, 5) + b"hello",  # trailers, from a client
        struct.pack(">BI", 1, 4) + b"nope",  # said to be compressed
    ],
)
def test_malformed_grpc_web_frames_are_refused(http: Http, edge: Atelier, body: bytes) -> None:
    before = edge.datasets.list()
    answer = http("POST", CALL, body, **WEB)
    text = answer.body.decode(errors="replace") + str(answer.headers)
    assert answer.status >= 400 or "grpc-status" in text
    assert "grpc-status:0" not in text
    assert "'grpc-status': '0'" not in text
    assert edge.datasets.list() == before


TORN = "the request ends within its message"


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the request ends before its message begins"),
        (b"\x00", "the request ends before its message begins"),
        (b"\x00\x00\x00\x00\x05ab", f"{TORN}: 2 of 5 bytes came"),
        (b"GET / HTTP/1.1\r\n\r\n", TORN),
        (struct.pack(">BI", 0, 2**32 - 1) + b"x" * 100, f"{TORN}: 100 of 4294967295 bytes came"),
        (struct.pack(">BI", 0, 500_000) + b"x" * 400_000, f"{TORN}: 400000 of 500000 bytes came"),
    ],
)
def test_a_grpc_web_request_that_ends_too_early_is_told_so_at_once(
    http: Http, body: bytes, words: str, text: bool
) -> None:
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    sent = base64.b64encode(body) if text else body
    answer = http("POST", CALL, sent, content_type=kind, x_grpc_web="1")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "3")
    message = answer.headers["grpc-message"]
    # Base64 says how many bytes there are to within two.
    assert message.startswith(TORN if text and words.startswith(TORN) else words)


@pytest.mark.parametrize("call", [CALL, READ, STREAM])
@pytest.mark.parametrize("size", [10**7, 2], ids=["large", "of unknown length"])
def test_a_torn_request_that_the_edge_does_not_look_into_is_answered_at_once(http: Http, call: str, size: int) -> None:
    body = struct.pack(">BI", 0, size) + bytes(min(size, 10**6 * 2) - 1)
    answer = http("POST", call, body if size > 2 else iter([body]), **WEB)
    assert answer.headers["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert answer.headers["grpc-message"] == "request: is torn: it ended before its message did"


def test_a_grpc_web_upload_cut_in_the_middle_leaves_nothing_behind(http: Http, edge: Atelier, dataset: int) -> None:
    host, _, port = http.address.rpartition(":")
    content = HttpBody(content_type="image/png", data=noise(1024))
    whole = frame(pb.UploadImageRequest(dataset_id=dataset, filename="cut.png", content=content))
    path = "/atelier.catalog.v1.CatalogService/UploadImage"
    types = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in WEB.items())
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {http.address}\r\n{types}Content-Length: {len(whole)}\r\n\r\n"
        connection.sendall(head.encode() + whole[: len(whole) // 2])
    assert edge.datasets.get(dataset).num_items == 3
    assert http("POST", path, whole, **WEB).status == 200, "the same file again, whole"
    assert edge.datasets.get(dataset).num_items == 4


def test_grpc_web_text_and_large_requests_pass(http: Http, edge: Atelier, dataset: int) -> None:
    name = f"by text {uuid.uuid4()}"
    sent = base64.b64encode(frame(pb.CreateDatasetRequest(name=name)))
    answer = http("POST", CALL, sent, content_type="application/grpc-web-text+proto", x_grpc_web="1")
    assert answer.status == 200
    assert edge.datasets.get(name).name == name
    picture = noise(900)  # more than the edge looks at
    assert len(picture) > 2_000_000
    upload = pb.UploadImageRequest(dataset_id=dataset, filename="large.png")
    upload.content.CopyFrom(HttpBody(content_type="image/png", data=picture))
    answered = unary(http, CALL.replace("CreateDataset", "UploadImage"), upload, pb.UploadImageResponse)
    assert answered.image.size_bytes == len(picture)


def test_an_upload_cut_in_the_middle_leaves_nothing_behind(http: Http, dataset: int) -> None:
    host, _, port = http.address.rpartition(":")
    picture = noise()
    path = f"/api/datasets/{dataset}/images?filename=cut.png"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {http.address}\r\nContent-Length: {len(picture)}\r\n\r\n"
        connection.sendall(head.encode() + picture[: len(picture) // 2])
    assert http("GET", f"/api/datasets/{dataset}").json["dataset"]["num_items"] == "3"
    assert http("POST", path, picture, content_type="image/png").status == 200, "the same file again, whole"


def test_a_stream_cut_in_the_middle_of_a_file_loses_no_file_that_was_whole(
    channel: grpc.Channel, edge: Atelier
) -> None:
    made = edge.datasets.create(f"cut {uuid.uuid4()}")
    pictures = [noise(512) for _ in range(4)]

    def parts(*, until: int | None) -> Iterator[pb.UploadImagesRequest]:
        yield pb.UploadImagesRequest(start=pb.UploadStart(dataset_id=made.id))
        for number, data in enumerate(pictures):
            yield pb.UploadImagesRequest(file=pb.UploadFile(filename=f"{number}.png", size_bytes=len(data)))
            if number == until:
                yield pb.UploadImagesRequest(chunk=pb.UploadChunk(offset=0, data=data[:1000]))
                raise ConnectionError("the cable is pulled")
            yield pb.UploadImagesRequest(chunk=pb.UploadChunk(offset=0, data=data))

    stub = CatalogServiceStub(channel)
    with pytest.raises(grpc.RpcError):
        stub.UploadImages(parts(until=3), timeout=30)
    answer = stub.UploadImages(parts(until=None), timeout=60)
    assert len(answer.accepted) + len(answer.duplicates) == 4
    assert answer.dataset.num_items == 4


def test_a_page_of_a_wrong_origin_may_neither_read_nor_write(http: Http, edge: Atelier) -> None:
    before = edge.datasets.list()
    for origin in ("https://evil.example", "null", "https://studio.example.evil.example", f"x{ALLOWED}"):
        answer = http("POST", "/api/datasets", {"name": "from elsewhere"}, origin=origin, content_type="text/plain")
        assert answer.status == 403
        assert "ATELIER_GATEWAY_CORS_ORIGINS" in answer.json["message"]
        assert "access-control-allow-origin" not in answer.headers
        asked = http("OPTIONS", CALL, origin=origin, access_control_request_method="POST")
        assert asked.status == 403
        assert "access-control-allow-origin" not in asked.headers
    assert edge.datasets.list() == before


def test_a_page_of_an_allowed_origin_and_our_own_may(http: Http) -> None:
    asked = http("OPTIONS", CALL, origin=ALLOWED, access_control_request_method="POST")
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == ALLOWED
    assert "x-grpc-web" in asked.headers["access-control-allow-headers"]
    answer = http("GET", "/api/models", origin=ALLOWED)
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "grpc-status-details-bin" in answer.headers["access-control-expose-headers"]
    assert http("GET", "/api/models", origin=f"http://{http.address}").status == 200
    document = http("GET", "/api/openapi.json", origin=ALLOWED)
    assert (document.status, document.headers["access-control-allow-origin"]) == (200, "*")
    assert http("GET", "/api/openapi.json", origin="https://evil.example").status == 403


def test_a_name_that_was_pointed_at_this_machine_is_not_answered(http: Http) -> None:
    for path in ("/", "/api/models"):
        assert http("GET", path, host="rebound.example").status == 421
    assert http("GET", "/api/models", host="localhost:1234").status == 200


def test_the_workers_service_is_not_reached_through_the_edge(channel: grpc.Channel) -> None:
    attach = channel.stream_stream("/atelier.trainer.v1.WorkerService/Attach")
    with pytest.raises(grpc.RpcError) as caught:
        next(iter(attach(iter([b""]), timeout=10)))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_client_that_leaves_in_mid_stream_ends_the_call_at_the_service(
    http: Http, stack: Stack, edge: Atelier, starter: int, dataset: int
) -> None:
    job = edge.training.create(dataset, starter)
    mine = str(uuid.uuid4())
    with http.open("GET", f"/api/training/{job.id}/events", x_request_id=mine) as response:
        assert response.status == 200
        response.readline()

    def ended() -> bool:
        return any(line.get("request_id") == mine for line in lines_of(stack.log_dir / "trainer.log"))

    assert eventually(ended)
