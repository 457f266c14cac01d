"""The REST paths as an OpenAPI 3.1 document."""

import re
from collections.abc import Mapping
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.rpc import status_pb2

from gateway.envoy.contract import PUBLIC, http_rule, methods, short_names
from gateway.openapi.schemas import Schema, Schemas

JSON = "application/json"
BYTES = "application/octet-stream"  # what the bytes are is seen from themselves; tools offer a file for this type
ABOUT = (
    "Everything a script can do with Atelier by plain HTTP. The same services speak gRPC and gRPC-Web on this port, "
    "at `/package.Service/Method`. Answers that are streams have one JSON object a line."
)


def document(comments: Mapping[str, str]) -> dict[str, Any]:
    """The document; `comments` are those of the protos by full name."""
    schemas = Schemas(comments)
    paths: dict[str, dict[str, Any]] = {}
    for _, method in methods():
        if rule := http_rule(method):
            verb, path = rule
            paths.setdefault(path, {})[verb.lower()] = operation(schemas, method, path, comments)
    error = schemas.message(status_pb2.Status.DESCRIPTOR)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Atelier", "version": "v1", "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": service.name, "description": comments.get(service.full_name, "")} for service in PUBLIC.values()
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {
                "Error": {
                    "description": "What went wrong: `code` is the gRPC status, `details` name fields and reasons.",
                    "content": {JSON: {"schema": error}},
                }
            },
        },
    }


def operation(schemas: Schemas, method: MethodDescriptor, path: str, comments: Mapping[str, str]) -> Schema:
    http = method.GetOptions().Extensions[annotations_pb2.http]
    in_path = re.findall(r"{(\w+)}", path)
    rest = [field for field in method.input_type.fields if field.name not in in_path and field.name != http.body]
    parameters = [parameter(schemas, method.input_type.fields_by_name[name], "path") for name in in_path]
    described: Schema = {
        "operationId": f"{method.containing_service.name}_{method.name}",
        "tags": [method.containing_service.name],
        "description": comments.get(method.full_name, ""),
    }
    if http.body == "*":
        described["requestBody"] = {"content": {JSON: {"schema": schemas.object_of(method.input_type, rest)}}}
    else:
        parameters += [parameter(schemas, field, "query") for field in rest]
        if http.body:
            described["requestBody"] = {"required": True, "content": {BYTES: {}}}
    if parameters:
        described["parameters"] = parameters
    return {**described, "responses": {"200": answer(schemas, method, http.response_body), "default": ERROR}}


ERROR = {"$ref": "#/components/responses/Error"}


def parameter(schemas: Schemas, field: FieldDescriptor, place: str) -> Schema:
    schema = schemas.field(field)
    words = schema.pop("description", "")
    if field.enum_type is not None:  # request.lua reads the short names
        schema = {"type": "string", "enum": [*short_names(field.enum_type), *(v.name for v in field.enum_type.values)]}
    found: Schema = {"name": field.name, "in": place, "required": place == "path", "schema": schema}
    return {**found, "description": words} if words else found


def answer(schemas: Schemas, method: MethodDescriptor, bytes_field: str) -> Schema:
    if bytes_field:
        return {"description": "The bytes.", "content": {"image/*": {}}}
    content = {JSON: {"schema": schemas.message(method.output_type, answers=True)}}
    return {"description": "One such object a line." if method.server_streaming else "Done.", "content": content}
