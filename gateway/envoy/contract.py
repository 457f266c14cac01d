"""What the edge knows of the contracts, read from the generated modules: nothing about an RPC is written down twice."""

from collections.abc import Iterator
from pathlib import Path

from atelier.catalog.v1 import catalog_service_pb2
from atelier.generator.v1 import generator_service_pb2
from atelier.trainer.v1 import trainer_service_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

PUBLIC: dict[str, ServiceDescriptor] = {
    "catalog": catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
    "trainer": trainer_service_pb2.DESCRIPTOR.services_by_name["TrainerService"],
    "generator": generator_service_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
}
"""The services that are offered, by the name of the process that serves them. WorkerService is not."""

READS = ("Get", "List", "Find", "Download")
"""How the names of RPCs that change nothing begin (docs/adr/0007)."""


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every offered RPC with the name of the process that serves it."""
    for name, service in PUBLIC.items():
        for method in service.methods:
            yield name, method


def path_of(method: MethodDescriptor) -> str:
    """Where gRPC and gRPC-Web find it."""
    return f"/{method.containing_service.full_name}/{method.name}"


def is_read(method: MethodDescriptor) -> bool:
    """Whether it can be sent twice without harm."""
    return method.name.startswith(READS) and not method.client_streaming and not method.server_streaming


def http_rule(method: MethodDescriptor) -> tuple[str, str] | None:
    """The verb and the path of its REST form; None where it has none."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), getattr(rule, verb)) if verb else None


def openapi() -> str:
    """The REST paths as an OpenAPI document: generated, like the modules that it lies beside."""
    return (Path(catalog_service_pb2.__file__).parents[2] / "openapi.json").read_text()


def descriptor_set() -> bytes:
    """A FileDescriptorSet of the public services, of what they import, and of the details an error carries."""
    files: dict[str, bytes] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                add(imported)
            files[file.name] = file.serialized_pb

    for module in (error_details_pb2, status_pb2):
        add(module.DESCRIPTOR)
    for service in PUBLIC.values():
        add(service.file)
    whole = FileDescriptorSet()
    for content in files.values():
        whole.file.add().ParseFromString(content)
    return whole.SerializeToString(deterministic=True)


def query_enums() -> dict[str, dict[str, dict[str, str]]]:
    """The short names that a query may use, `category=image`: path template -> parameter -> short -> full name."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for _, method in methods():
        rule = http_rule(method)
        enums = {field.name: short_names(field.enum_type) for field in method.input_type.fields if field.enum_type}
        if rule and rule[0] == "GET" and enums:
            found[rule[1]] = enums
    return found


def short_names(enum: EnumDescriptor) -> dict[str, str]:
    """MODEL_CATEGORY_IMAGE as `image`: without the prefix that all values share, in lower case."""
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.name for value in enum.values[1:]}
