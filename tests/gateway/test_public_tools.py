"""What people reach for when they have no client: buf curl, without a proto file, and a plain health probe."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from atelier_client.stack import Stack, is_healthy
from grpc_health.v1 import health_pb2, health_pb2_grpc

BUF = Path(sys.executable).parent / "buf"


@pytest.mark.parametrize("protocol", ["grpc", "grpcweb"])
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("atelier.catalog.v1.CatalogService/ListModels", "models"),
        ("atelier.trainer.v1.TrainerService/GetTrainerCapabilities", "methods"),
        ("atelier.generator.v1.GeneratorService/GetGeneratorCapabilities", "schedulers"),
    ],
)
def test_buf_curl_calls_every_service_by_reflection(stack: Stack, protocol: str, method: str, field: str) -> None:
    # gRPC-Web goes over HTTP/1.1; reflection is a stream both ways, which asks for HTTP/2 from the start.
    command = [str(BUF), "curl", "--protocol", protocol, "--http2-prior-knowledge"]
    ran = subprocess.run(
        [*command, f"http://{stack.addresses.gateway}/{method}"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)[field]


def test_reflection_lists_every_service_that_the_edge_offers(channel: grpc.Channel) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=10)
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {f"atelier.{name}.v1.{name.capitalize()}Service" for name in ("catalog", "trainer", "generator")}


@pytest.mark.parametrize("service", ["catalog", "trainer", "generator"])
def test_the_health_of_each_service_is_asked_through_the_edge(
    stack: Stack, channel: grpc.Channel, service: str
) -> None:
    assert is_healthy(stack.addresses.gateway)
    name = f"atelier.{service}.v1.{service.capitalize()}Service"
    stub = health_pb2_grpc.HealthStub(channel)
    asked = health_pb2.HealthCheckRequest(service=name)
    answer = stub.Check(asked, metadata=[("x-atelier-service", service)], timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
