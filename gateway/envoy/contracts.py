"""What the gateway knows of the contracts: read from the generated Python, so never older than the services."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from atelier.catalog.v1 import catalog_service_pb2
from atelier.generator.v1 import generator_service_pb2
from atelier.trainer.v1 import trainer_service_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

SERVICES: dict[str, ServiceDescriptor] = {
    "catalog": catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
    "trainer": trainer_service_pb2.DESCRIPTOR.services_by_name["TrainerService"],
    "generator": generator_service_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
}
"""What clients may call, by the name of the process that answers. WorkerService is for a Trainer's workers alone."""


@dataclass(frozen=True)
class ShortEnum:
    """A query parameter that is an enum, and the prefix of its values: `category` and `MODEL_CATEGORY_`."""

    path: str
    """A Lua pattern of the REST path."""
    parameter: str
    prefix: str


def descriptor_set() -> bytes:
    """The services' files and all they import, in the order of their imports, as JSON transcoders take it."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        found.setdefault(file.name, file)

    for service in SERVICES.values():
        add(service.file)
    for errors in (status_pb2, error_details_pb2):  # so that errors come out as JSON, with their details
        add(errors.DESCRIPTOR)
    files = [FileDescriptorProto.FromString(file.serialized_pb) for file in found.values()]
    return FileDescriptorSet(file=files).SerializeToString()


def rest_path(method: MethodDescriptor) -> tuple[str, str] | None:
    """The HTTP verb and path of a method, or None where it has none."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), getattr(rule, verb)) if verb else None


def reads(service: ServiceDescriptor) -> Iterator[str]:
    """The unary methods that change nothing, which REST has as GET: they may be tried again."""
    for method in service.methods:
        rest = rest_path(method)
        if rest and rest[0] == "GET" and not method.server_streaming:
            yield method.name


def short_enums() -> Iterator[ShortEnum]:
    """Query parameters whose enum values people may write short: `?category=image`, as the guide has it."""
    for service in SERVICES.values():
        for method in service.methods:
            rest = rest_path(method)
            if rest is None or rest[0] != "GET":
                continue
            escaped = re.sub(r"([-.+])", r"%\1", re.sub(r"\{[^}]+\}", "[^/]+", rest[1]))
            for field in method.input_type.fields:
                if field.enum_type is not None:
                    zero = field.enum_type.values_by_number[0].name
                    yield ShortEnum(f"^{escaped}$", field.name, zero.removesuffix("UNSPECIFIED"))
