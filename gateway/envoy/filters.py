"""What every request passes on its way in, and every answer on its way out."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from gateway.envoy.config import EdgeSettings
from gateway.envoy.contract import PUBLIC, descriptor_set, query_enums

Config = dict[str, Any]

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
COMPRESSION = "type.googleapis.com/envoy.extensions.compression"
COMPRESSED = ["application/json", "application/javascript", "text/javascript", "text/css", "text/html", "image/svg+xml"]
FROM_BYTES = 1024
"""Smaller answers are not worth compressing."""
SAFE_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
FILE_THREADS: Config = {"manager_config": {"thread_pool": {"thread_count": 2}}}


def filters(settings: EdgeSettings) -> list[Config]:
    """The chain, outermost first: a request meets the first one first, an answer meets it last."""
    return [
        probe("/healthz", []),
        probe("/readyz", list(PUBLIC)),
        *(probe(f"/readyz/{name}", [name]) for name in PUBLIC),
        compressor("brotli", {"quality": 4}),
        compressor("gzip", {}),
        typed("cors", "Cors"),
        typed("lua", "Lua", default_source_code={"inline_string": lua(settings)}),
        typed("grpc_web", "GrpcWeb"),
        transcoder(settings),
        typed("header_mutation", "HeaderMutation", mutations={"response_mutations": header_mutations(SAFE_HEADERS)}),
        *([typed("file_server", "FileServerConfig", **FILE_THREADS)] if settings.has_web() else []),  # routes say which
        typed("router", "Router", suppress_envoy_headers=True),
    ]


def typed(name: str, message: str, **settings: Any) -> Config:
    """A filter of Envoy with its settings."""
    return {"name": f"envoy.filters.http.{name}", "typed_config": message_of(name, message, **settings)}


def message_of(name: str, message: str, **settings: Any) -> Config:
    return {"@type": f"{HTTP}.{name}.v3.{message}", **settings}


def header_mutations(headers: dict[str, str]) -> list[Config]:
    return [
        {"append": {"header": {"key": key, "value": value}, "append_action": "ADD_IF_ABSENT"}}
        for key, value in headers.items()
    ]


def probe(path: str, services: list[str]) -> Config:
    """Answers 200 while the edge serves and each of `services` is healthy, else 503."""
    return typed(
        "health_check",
        "HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": path}}],
        cluster_min_healthy_percentages={name: {"value": 100} for name in services},
    )


def compressor(name: str, library: Config) -> Config:
    filter_ = typed(
        "compressor",
        "Compressor",
        response_direction_config={
            "common_config": {
                "min_content_length": FROM_BYTES,
                "content_type_matcher": [{"exact": each} for each in COMPRESSED],
            },
            "disable_on_etag_header": True,
        },
        choose_first=name == "brotli",
        compressor_library={
            "name": name,
            "typed_config": {
                "@type": f"{COMPRESSION}.{name}.compressor.v3.{name.capitalize()}",
                **library,
            },
        },
    )
    return {**filter_, "name": f"compressor.{name}"}


def transcoder(settings: EdgeSettings) -> Config:
    """JSON over the paths that the contracts name, from the contracts themselves."""
    return typed(
        "grpc_json_transcoder",
        "GrpcJsonTranscoder",
        proto_descriptor_bin=base64.b64encode(descriptor_set()).decode(),
        services=[service.full_name for service in PUBLIC.values()],
        convert_grpc_status=True,
        case_insensitive_enum_parsing=True,
        query_param_unescape_plus=True,
        request_validation_options={
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        print_options={
            "preserve_proto_field_names": True,  # as in the paths and queries
            "always_print_primitive_fields": True,
            "stream_newline_delimited": True,
        },
        max_request_body_size=settings.max_rest_bytes,
        max_response_body_size=settings.max_rest_bytes,
    )


def lua(settings: EdgeSettings) -> str:
    """request.lua with its tables."""
    origins = dict.fromkeys(settings.cors_origins, True)
    code = (Path(__file__).parent / "request.lua").read_text()
    enums = {lua_pattern(template): parameters for template, parameters in query_enums().items()}
    tables = {"ORIGINS": lua_table(origins), "ENUMS": lua_table(enums), "WEB": json.dumps(settings.has_web())}
    return "".join(f"local {name} = {value}\n" for name, value in tables.items()) + code


def lua_pattern(template: str) -> str:
    """A Lua pattern of the paths that a template such as /api/images/{image_id} stands for."""
    return f"^{re.sub('{[^}]*}', '[^/]+', template.replace('-', '%-'))}$"


def lua_table(values: dict[str, Any]) -> str:
    """A Lua table of nested dictionaries of strings and booleans; JSON's strings and booleans are Lua's too."""
    items = (
        f"[{json.dumps(key)}] = {lua_table(value) if isinstance(value, dict) else json.dumps(value)}"
        for key, value in values.items()
    )
    return "{" + ", ".join(items) + "}"
