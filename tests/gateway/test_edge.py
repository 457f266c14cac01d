"""gRPC, gRPC-Web, REST and files on one port, and what the edge refuses."""

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb2
from atelier.trainer.v1 import worker_service_pb2
from atelier.trainer.v1.training_pb2 import JOB_STATUS_CANCELLED, TrainingJob
from atelier.trainer.v1.worker_service_pb2_grpc import WorkerServiceStub
from atelier_client import Atelier, NotFound
from atelier_client.stack import Stack

from tests.e2e.conftest import import_path
from tests.gateway.conftest import FRIEND, SCRIPT, WebStream, call, frame

CATALOG = "/atelier.catalog.v1.CatalogService"
TRAINER = "/atelier.trainer.v1.TrainerService"
GRPC_WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}


@contextmanager
def two_jobs(client: Atelier, starter: int, pictures: Path) -> Iterator[tuple[TrainingJob, TrainingJob]]:
    """One that trains for long, and one that waits behind it: nothing happens to it until it is cancelled."""
    dataset = client.datasets.create("two jobs")
    client.datasets.upload(dataset, pictures)
    jobs = [client.training.create(dataset, starter, config={"max_steps": 100_000}, start=True) for _ in range(2)]
    try:
        yield jobs[0], jobs[1]
    finally:
        for job in reversed(jobs):
            if client.training.get(job.id).status != JOB_STATUS_CANCELLED:
                client.training.cancel(job.id)
                client.training.wait(job.id)
        client.datasets.delete(dataset)


def test_the_sdk_does_the_whole_job_through_the_gateway(client: Atelier, starter: int, pictures: Path) -> None:
    dataset = client.datasets.create("through the gateway")
    assert len(client.datasets.upload(dataset, pictures).accepted) == 3
    job = client.training.create(dataset, starter, config={"max_steps": 3, "batch_size": 2}, start=True)
    events = list(client.training.watch(job.id))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    drawing = client.generate("an apple", model=client.training.get(job.id).model_id, seed=1, steps=2)
    assert drawing[0].data.startswith(b"\x89PNG")
    with pytest.raises(NotFound):
        client.datasets.get(9999)


def test_the_workers_service_is_not_for_clients(edge: str) -> None:
    with grpc.insecure_channel(edge) as channel, pytest.raises(grpc.RpcError) as caught:
        list(WorkerServiceStub(channel).Attach(iter([worker_service_pb2.AttachRequest()])))
    assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN)


def test_grpc_web_answers_and_refuses_as_grpc_does(client: Atelier, edge: str) -> None:
    found = WebStream(edge, f"{CATALOG}/ListModels", catalog_pb2.ListModelsRequest())
    trailers, data = found.next()
    assert not trailers
    assert len(catalog_pb2.ListModelsResponse.FromString(data).models) >= 4
    assert found.next() == (True, b"grpc-status:0\r\ngrpc-message:\r\n")
    answer = call(
        edge, "POST", f"{CATALOG}/GetDataset", frame(catalog_pb2.GetDatasetRequest(dataset_id=9999)), GRPC_WEB
    )
    assert answer.headers["grpc-status"] == "5"
    assert "grpc-status-details-bin" in answer.headers


def test_a_message_of_a_stream_arrives_before_the_next_is_sent(
    client: Atelier, edge: str, starter: int, pictures: Path
) -> None:
    with two_jobs(client, starter, pictures) as (_, waiting):
        stream = WebStream(edge, f"{TRAINER}/WatchTrainingJob", trainer_pb2.WatchTrainingJobRequest(job_id=waiting.id))
        trailers, data = stream.next()
        assert not trailers
        first = trainer_pb2.WatchTrainingJobResponse.FromString(data).event
        assert first.WhichOneof("event") == "queued"
        client.training.cancel(waiting.id)  # only now is there another event
        kinds = []
        while not (frame_ := stream.next())[0]:
            kinds.append(trainer_pb2.WatchTrainingJobResponse.FromString(frame_[1]).event.WhichOneof("event"))
        assert kinds[-1] == "cancelled"
        stream.close()


def test_rest_has_the_paths_of_the_guide(client: Atelier, edge: str, starter: int, pictures: Path) -> None:
    names = [model["name"] for model in call(edge, "GET", "/api/models?category=image").json["models"]]
    assert "Stable Diffusion 1.5" in names
    assert "Stable Video Diffusion" not in names
    created = call(edge, "POST", "/api/datasets", json.dumps({"name": "by rest"}))
    dataset = created.json["dataset"]["id"]
    png = (pictures / "0.png").read_bytes()
    path = f"/api/datasets/{dataset}/images?filename=a.png&caption=an%20apple"
    image = call(edge, "POST", path, png, {"content-type": "image/png"}).json["image"]
    assert (image["filename"], image["caption"], image["width"]) == ("a.png", "an apple", 64)
    content = call(edge, "GET", f"/api/images/{image['id']}/content")
    assert (content.headers["content-type"], content.body) == ("image/png", png)

    order = {"dataset_id": dataset, "base_model_id": starter, "config": {"max_steps": 2, "batch_size": 1}}
    job = call(edge, "POST", "/api/training", json.dumps(order)).json["job"]
    assert job["config"]["lora"]["rank"] > 0, "defaults are visible"
    assert call(edge, "POST", f"/api/training/{job['id']}/start", "{}").status == 200
    lines = call(edge, "GET", f"/api/training/{job['id']}/events").body.decode().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert [event["sequence"] for event in events if event["sequence"] != "0"] == [
        str(number) for number in range(1, len(events) + 1)
    ]
    assert "done" in events[-1]
    trained = call(edge, "GET", f"/api/training/{job['id']}").json["job"]
    assert trained["status"] == "JOB_STATUS_COMPLETED"

    wish = {"settings": {"model_id": trained["model_id"], "prompt": "an apple", "steps": 2, "seed": "7"}}
    drawn = call(edge, "POST", "/api/generate/text-to-image", json.dumps(wish)).json["generation"]
    picture = call(edge, "GET", f"/api/generations/{drawn['id']}/images/0")
    assert picture.headers["content-type"] == "image/png"
    assert call(edge, "DELETE", f"/api/datasets/{dataset}").status == 200


def test_rest_errors_name_the_field_and_the_rule(edge: str, client: Atelier) -> None:
    answer = call(edge, "POST", "/api/datasets", json.dumps({"name": ""}))
    assert (answer.status, answer.json["code"]) == (400, 3)
    (violations,) = [each["field_violations"] for each in answer.json["details"] if "field_violations" in each]
    assert violations[0]["field"] == "name"
    assert call(edge, "GET", "/api/datasets/9999").status == 404
    assert "nonsense" in call(edge, "GET", "/api/models?nonsense=1").body.decode()
    assert call(edge, "POST", "/api/datasets", "{").status == 400
    missing = call(edge, "GET", "/api/nothing")
    assert (missing.status, missing.json["http_status"]) == (404, 404)


def test_too_large_an_upload_is_refused_and_nothing_is_hurt(edge: str, client: Atelier) -> None:
    dataset = client.datasets.create("too large")
    path = f"/api/datasets/{dataset.id}/images?filename=a.png"
    assert large(edge, path) == 413
    assert client.datasets.get(dataset.id).num_items == 0


def large(edge: str, path: str) -> int:
    """The status of an upload of 100 MB, of which the server may take as little as it likes."""
    host, _, port = edge.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: {edge}\r\ncontent-type: image/png\r\ncontent-length: 100000000\r\n\r\n"
        connection.sendall(head.encode())
        connection.setblocking(False)
        sent = 0
        while sent < 100_000_000:
            readable, writable, _ = select.select([connection], [connection], [], 30)
            if readable or not writable:
                break
            sent += connection.send(bytes(1 << 16))
        return int(connection.recv(4096).split(b" ")[1])


@pytest.mark.parametrize(
    "body", [b"", b"\x00\x00", b"\x00\xff\xff\xff\xff", b"hello", frame(catalog_pb2.ListModelsRequest())[:3]]
)
def test_torn_grpc_web_frames_are_an_error_and_no_more(edge: str, client: Atelier, body: bytes) -> None:
    answer = call(edge, "POST", f"{CATALOG}/GetDataset", body, GRPC_WEB)
    assert answer.headers.get("grpc-status", "") != "0"
    assert b"grpc-status:0" not in answer.body
    assert client.models.list()


def test_a_cut_upload_leaves_no_image_and_a_living_service(edge: str, client: Atelier, pictures: Path) -> None:
    dataset = client.datasets.create("cut")
    host, _, port = edge.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /api/datasets/{dataset.id}/images?filename=a.png HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"
        )
        connection.sendall(head.encode() + b"content-length: 5000\r\n\r\n" + b"\x89PNG")
    time.sleep(0.2)
    assert client.datasets.get(dataset.id).num_items == 0
    assert len(client.datasets.upload(dataset, pictures).accepted) == 3


def test_a_page_of_another_origin_is_refused(edge: str, client: Atelier) -> None:
    for origin, status in (("http://evil.example", 403), (f"http://{edge}", 200), (FRIEND, 200)):
        body = json.dumps({"name": f"from {origin.partition('//')[2]}"})
        answer = call(edge, "POST", "/api/datasets", body, {"origin": origin})
        assert answer.status == status, origin
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-grpc-web"}
    friend = call(edge, "OPTIONS", f"{CATALOG}/ListModels", headers={"origin": FRIEND, **preflight})
    assert friend.headers["access-control-allow-origin"] == FRIEND
    stranger = call(edge, "OPTIONS", f"{CATALOG}/ListModels", headers={"origin": "http://evil.example", **preflight})
    assert "access-control-allow-origin" not in stranger.headers
    reading = call(edge, "GET", "/api/models", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in reading.headers


def test_the_apps_paths_are_answered_with_its_page(edge: str) -> None:
    for path in ("/", "/datasets", "/datasets/3", "/training/a-b", "/text-to-image", "/models"):
        answer = call(edge, "GET", path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
        assert answer.headers["cache-control"] == "no-cache"
        assert "<title>Atelier</title>" in answer.body.decode()
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    script = call(edge, "GET", "/assets/app-1f.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.body.decode() == SCRIPT
    packed = call(edge, "GET", "/assets/app-1f.js", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(SCRIPT) / 2
    assert call(edge, "GET", "/favicon.svg").headers["content-type"] == "image/svg+xml"
    assert call(edge, "GET", "/assets/gone.js").status == 404


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/assets/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt"]
)
def test_no_path_leads_out_of_the_apps_folder(edge: str, path: str) -> None:
    answer = call(edge, "GET", path)
    assert answer.status >= 400
    assert b"not yours" not in answer.body


def test_a_request_has_one_id_from_the_edge_to_the_service(edge: str, stack: Stack, client: Atelier) -> None:
    answer = call(edge, "GET", "/api/datasets/31415")
    request_id = answer.headers["x-request-id"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # Envoy writes its access log in intervals
        logs = {name: (stack.log_dir / f"{name}.log").read_text() for name in ("gateway", "catalog")}
        if all(request_id in log for log in logs.values()):
            break
        time.sleep(0.1)
    (line,) = [json.loads(line) for line in logs["gateway"].splitlines() if request_id in line]
    assert (line["path"], line["status"], line["service"]) == ("/api/datasets/31415", 404, "catalog")
    assert request_id in logs["catalog"]


@pytest.mark.parametrize("protocol", ["grpc", "grpcweb"])
def test_public_tools_find_their_way_by_reflection(edge: str, client: Atelier, protocol: str) -> None:
    buf = Path(sys.executable).with_name("buf")
    plain = ["--http2-prior-knowledge"] if protocol == "grpc" else []
    url = f"http://{edge}{CATALOG}/ListModels"
    command = [str(buf), "curl", "--protocol", protocol, *plain, "--reflect-protocol", "grpc-v1alpha", "-d", "{}", url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Stable Diffusion 1.5" in result.stdout, result.stderr


def test_a_gateway_without_services_says_so(tmp_path: Path) -> None:
    announced = tmp_path / "address"
    nowhere = {f"ATELIER_GATEWAY_{name}_ADDRESS": "127.0.0.1:9" for name in ("CATALOG", "TRAINER", "GENERATOR")}
    environment = {**import_path(), **nowhere, "ATELIER_GATEWAY_ANNOUNCE_FILE": str(announced)}
    environment["ATELIER_GATEWAY_WEB_DIR"] = str(tmp_path / "not built")
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 30
        while not announced.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        edge = announced.read_text()
        assert call(edge, "GET", "/healthz").status == 503
        assert call(edge, "GET", "/api/models").status == 503
        assert "not built" in call(edge, "GET", "/").json["message"]
        with grpc.insecure_channel(edge) as channel, pytest.raises(grpc.RpcError) as caught:
            CatalogServiceStub(channel).ListModels(catalog_pb2.ListModelsRequest(), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        process.terminate()
        assert process.wait(15) == 0
