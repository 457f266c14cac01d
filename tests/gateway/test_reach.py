"""Services that are away: who is told what, what is tried again, and what is not."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier_client.stack import Stack, is_ready
from pydantic import ValidationError

from gateway.envoy.bootstrap import bootstrap
from gateway.envoy.config import EdgeSettings
from tests.e2e.conftest import import_path
from tests.e2e.proxy import Proxy
from tests.gateway import grpc_web
from tests.gateway.conftest import eventually, lines_of
from tests.gateway.http import Http


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def gateway(folder: Path, **settings: str) -> Iterator[Http]:
    """An edge of its own, on a free port."""
    address = f"127.0.0.1:{free_port()}"
    environment = {f"ATELIER_GATEWAY_{name.upper()}": value for name, value in settings.items()}
    common = {**os.environ, **import_path(), "ATELIER_DATA_DIR": str(folder), "ATELIER_GATEWAY_LISTEN": address}
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.envoy"], env={**common, **environment}, stdout=log, stderr=log
        )
        try:
            eventually(lambda: is_ready(address, "/healthz"), 30)
            yield Http(address)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


def test_a_service_that_is_away_is_unavailable_by_every_protocol(tmp_path: Path, nobody: str) -> None:
    away = {"catalog_address": nobody, "trainer_address": nobody, "generator_address": nobody}
    with gateway(tmp_path, **away, web_dir=str(tmp_path)) as http:
        assert http("GET", "/healthz").status == 200, "the edge itself is well"
        assert http("GET", "/readyz").status == 503
        assert http("GET", "/readyz/trainer").status == 503
        rest = http("GET", "/api/models")
        assert (rest.status, rest.json["code"]) == (503, 14)
        request = pb.ListModelsRequest()
        with pytest.raises(grpc_web.GrpcWebError) as caught:
            grpc_web.unary(http, "/atelier.catalog.v1.CatalogService/ListModels", request, pb.ListModelsResponse)
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert http("GET", "/").json["api"] == "/api/openapi.json", "no web app is built there"
        assert http("GET", "/api/openapi.json").status == 200
        assert http("GET", "/api/docs").json["code"] == 5, "nor is the page of the paths"


def test_the_probes_tell_one_service_from_another(tmp_path: Path, stack: Stack, nobody: str) -> None:
    where = stack.addresses
    services = {"catalog_address": where.catalog, "trainer_address": nobody, "generator_address": where.generator}
    with gateway(tmp_path, **services) as http:
        assert eventually(lambda: http("GET", "/readyz/catalog").status == 200)
        assert eventually(lambda: http("GET", "/readyz/generator").status == 200)
        assert http("GET", "/readyz/trainer").status == 503
        assert http("GET", "/readyz").status == 503


def test_reads_are_tried_again_and_writes_are_not(tmp_path: Path, stack: Stack, nobody: str) -> None:
    where = stack.addresses
    with Proxy(where.catalog) as proxy:
        services = {
            "catalog_address": proxy.address,
            "trainer_address": where.trainer,
            "generator_address": where.generator,
        }
        with gateway(tmp_path, **services) as http:
            real, gone = proxy._target, ("127.0.0.1", int(nobody.rpartition(":")[2]))

            def lose() -> int:
                proxy._target = gone  # lets everybody in and closes at once
                proxy.cut()
                return proxy.accepted

            def back_after(accepted: int) -> None:
                eventually(lambda: proxy.accepted > accepted)
                proxy._target = real

            returning = threading.Thread(target=back_after, args=(lose(),))
            returning.start()
            assert http("GET", "/api/models").status == 200
            returning.join()

            lose()
            answer = http("POST", "/api/datasets", {"name": "written once or not at all"})
            assert (answer.status, answer.json["code"]) == (503, 14)
            proxy._target = real
        log = [line for line in lines_of(tmp_path / "gateway.log") if "rpc" in line]
    attempts = {line["path"]: line["attempts"] for line in log}
    assert attempts["/api/models"] > 1
    assert attempts["/api/datasets"] == 1


def test_the_admin_interface_stays_on_this_machine(tmp_path: Path, nobody: str) -> None:
    for admin in ("0.0.0.0:9901", "192.0.2.1:9901", "example.com:9901"):
        with pytest.raises(ValidationError, match="loopback"):
            EdgeSettings(admin=admin)
    assert "admin" not in bootstrap(EdgeSettings())
    with gateway(tmp_path, admin=nobody) as http:
        assert http("GET", "/stats").status in (404, 200)
        assert b"cluster_manager" not in http("GET", "/stats").body
        assert b"cluster_manager" in Http(nobody)("GET", "/stats").body


def test_the_same_document_comes_from_the_same_settings() -> None:
    assert json.dumps(bootstrap(EdgeSettings())) == json.dumps(bootstrap(EdgeSettings()))
