"""Which request goes where: RPCs to their service, pages and assets to the built web app."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from gateway.envoy.config import EdgeSettings
from gateway.envoy.contract import PUBLIC, is_read, methods, path_of
from gateway.envoy.filters import FILE_THREADS, Config, header_mutations, message_of

SILENCE_SECONDS = 300
"""A stream may be silent for so long; the services' heartbeats come every 15 seconds."""
ANSWER_SECONDS = 3600
"""A unary call that draws or counts is silent until it answers."""
RETRIES: Config = {
    "retry_on": "connect-failure,refused-stream,reset,unavailable",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
}
BY_SERVICE = "x-atelier-service"
"""Header that says whose health or reflection is asked; the Catalog's without it."""
SHARED = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)

JSON = "application/json"
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": JSON,
    "webmanifest": "application/manifest+json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
    "txt": "text/plain; charset=utf-8",
    "map": JSON,
}
PAGE_HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'self'",
            "script-src 'self'",
            "style-src 'self' 'unsafe-inline'",  # component libraries set styles on elements
            "img-src 'self' blob: data:",
            "media-src 'self' blob:",  # clips as they are drawn
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
FOR_GOOD = {"cache-control": "public, max-age=31536000, immutable"}
ASK_AGAIN = {"cache-control": "no-cache"}


def route_config(settings: EdgeSettings, openapi: str) -> Config:
    """All routes. `openapi` is the document that /api/openapi.json answers."""
    routes = [
        *(rpc_route(name, method) for name, method in methods()),
        *(service_route(name, service.full_name) for name, service in PUBLIC.items()),
        *(shared_route(prefix, name) for prefix in SHARED for name in ("trainer", "generator", "catalog")),
        # Open to every page that may ask at all: the cors filter passes over fixed answers.
        answer({"path": "/api/openapi.json"}, 200, openapi, JSON, {"access-control-allow-origin": "*"}),
        no_such_path(),
        *(web_routes(settings) if settings.has_web() else no_web_routes()),
    ]
    return {
        "name": "edge",
        "ignore_port_in_host_matching": True,
        "validate_clusters": False,  # no_such_path names one that is not there
        "max_direct_response_body_size_bytes": max(4096, len(openapi.encode())),
        "virtual_hosts": [
            {
                "name": "atelier",
                "domains": settings.answered_hosts(),
                "routes": routes,
                "typed_per_filter_config": {"envoy.filters.http.cors": cors(settings)},
            },
            *([] if settings.answered_hosts() == ["*"] else [other_hosts()]),
        ],
    }


def rpc_route(name: str, method: MethodDescriptor) -> Config:
    """One RPC, by gRPC, gRPC-Web or transcoded JSON: no limit on its length, one on its silence."""
    streams = method.client_streaming or method.server_streaming
    quick = streams or is_read(method)
    action: Config = {
        "cluster": name,
        "timeout": "0s",
        "idle_timeout": f"{SILENCE_SECONDS if quick else ANSWER_SECONDS}s",
    }
    if is_read(method):
        action["retry_policy"] = RETRIES
    route: Config = {"match": {"path": path_of(method)}, "route": action}
    if method.server_streaming:  # a compressor would hold messages back
        off = message_of("compressor", "CompressorPerRoute", disabled=True)
        route["typed_per_filter_config"] = {"compressor.brotli": off, "compressor.gzip": off}
    return route


def service_route(name: str, service: str) -> Config:
    """Methods that we do not know: the service says UNIMPLEMENTED."""
    return {"match": {"prefix": f"/{service}/"}, "route": {"cluster": name, "timeout": "0s"}}


def shared_route(prefix: str, name: str) -> Config:
    """Health and reflection, which every service answers under the same path."""
    match: Config = {"prefix": prefix}
    if name != "catalog":
        match["headers"] = [{"name": BY_SERVICE, "string_match": {"exact": name}}]
    return {"match": match, "route": {"cluster": name, "timeout": "0s", "idle_timeout": f"{SILENCE_SECONDS}s"}}


def no_such_path() -> Config:
    """What /api/ begins with before the transcoder has named its RPC, and what it stays where there is none.

    A route to no cluster and not a fixed answer: Envoy's cors filter passes over requests whose first route is one.
    """
    action = {"cluster": "none", "cluster_not_found_response_code": "NOT_FOUND"}
    return {"match": {"prefix": "/api/"}, "route": action}


def web_routes(settings: EdgeSettings) -> list[Config]:
    """Hashed assets for good; other files asked for again. A page's path is /index.html by now (request.lua)."""
    return [
        files({"prefix": "/assets/"}, settings, FOR_GOOD),
        files({"safe_regex": {"regex": "/[^/]+\\.[a-z0-9]+"}}, settings, ASK_AGAIN),
        answer({"prefix": "/"}, 404, "no such page\n"),
    ]


def files(match: Config, settings: EdgeSettings, headers: dict[str, str]) -> Config:
    server = message_of(
        "file_server",
        "FileServerConfig",
        **FILE_THREADS,
        path_mappings=[{"request_path_prefix": "/", "file_path_prefix": str(settings.web_dir)}],
        content_types=CONTENT_TYPES,
        default_content_type="application/octet-stream",
    )
    mutations = {"response_mutations": header_mutations({**PAGE_HEADERS, **headers})}
    return {
        "match": match,
        "direct_response": {"status": 404},  # reached by nothing but what the file server lets pass
        "typed_per_filter_config": {
            "envoy.filters.http.file_server": server,
            "envoy.filters.http.header_mutation": message_of(
                "header_mutation", "HeaderMutationPerRoute", mutations=mutations
            ),
        },
    }


def no_web_routes() -> list[Config]:
    about = {"name": "Atelier", "api": "/api/openapi.json", "web": "not built here: see gateway/web"}
    return [
        answer({"path": "/"}, 200, json.dumps(about) + "\n", JSON),
        answer({"prefix": "/"}, 404, "no such page; the web app is not built here\n"),
    ]


def answer(
    match: Config, status: int, text: str, content_type: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> Config:
    """A fixed answer; plain text, and to gRPC a status, where no content type is given."""
    route: Config = {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}
    if content_type:
        headers = {"content-type": content_type, **headers}
    if headers:
        route["response_headers_to_add"] = [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ]
    return route


def cors(settings: EdgeSettings) -> dict[str, Any]:
    return message_of(
        "cors",
        "CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in settings.cors_origins],
        allow_methods="GET, POST, PUT, PATCH, DELETE",
        allow_headers="content-type, x-grpc-web, x-user-agent, grpc-timeout, x-request-id",
        expose_headers="grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        max_age="7200",
    )


def other_hosts() -> Config:
    """A page whose name was pointed at this machine (DNS rebinding) must not pass for one of ours."""
    text = "this Host is not answered here: see ATELIER_GATEWAY_HOSTS\n"
    return {"name": "others", "domains": ["*"], "routes": [answer({"prefix": "/"}, 421, text)]}
