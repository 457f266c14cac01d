"""Envoy's bootstrap configuration, the same wherever Envoy runs.

Written as Python because two parts follow from the contracts (which methods may be retried, which query parameters are
enums) and the rest is short. Field names are those of Envoy's v3 API: https://www.envoyproxy.io/docs/envoy/latest/api-v3/
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.envoy.contracts import SERVICES, reads, short_enums

Config = dict[str, Any]

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
IDLE_SECONDS = 3600
"""A stream on which nothing moves is closed after so long. Ours beat every few seconds; a unary call that waits for a
busy GPU does not, and may take long."""
MAX_CONNECTIONS = 10_000
FILE_READERS = {"thread_pool": {"thread_count": 2}}
GRPC_HEADERS = "content-type,x-grpc-web,x-user-agent,grpc-timeout,x-request-id,authorization"
EXPOSED_HEADERS = "grpc-status,grpc-message,grpc-status-details-bin,x-request-id"
# Mantine writes style elements at run time; no script but the app's own files ever runs.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
    " connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
PAGES = "/(datasets|training|text-to-image|image-to-video|models)?(/.*)?"
"""The web app's own paths: each is answered with its index.html, and the app does the rest."""


@dataclass(frozen=True)
class Edge:
    """What differs from place to place."""

    host: str
    port: int
    upstreams: dict[str, tuple[str, int]]
    """catalog, trainer and generator: host and port."""
    descriptors: Path
    admin: Config
    """Envoy's `admin.address`."""
    web_dir: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    read_seconds: float = 60.0
    """What a unary call that only reads may take."""


def bootstrap(edge: Edge) -> Config:
    """The whole configuration."""
    return {
        "admin": {"address": edge.admin},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "edge",
                    "address": _address(edge.host, edge.port),
                    "filter_chains": [{"filters": [_http(edge)]}],
                }
            ],
            "clusters": [_cluster(name, *edge.upstreams[name]) for name in SERVICES],
        },
    }


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host.strip("[]"), "port_value": port}}


def _typed(name: str, message: str, **fields: Any) -> Config:
    """An HTTP filter: `name` is also its package, `message` its configuration's."""
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{HTTP}.{name}.v3.{message}", **fields}}


def _per_route(name: str, message: str, **fields: Any) -> Config:
    return {f"envoy.filters.http.{name}": {"@type": f"{HTTP}.{name}.v3.{message}", **fields}}


def _cluster(name: str, host: str, port: int) -> Config:
    """One service: HTTP/2, checked by the gRPC health protocol, dead connections noticed by pings."""
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "20s"}}
                },
            }
        },
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "5s",
                "no_traffic_interval": "5s",
                "unhealthy_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
    }


def _http(edge: Edge) -> Config:
    """The connection manager. Nothing in it ends a stream that is alive."""
    package = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{package}.HttpConnectionManager",
            "stat_prefix": "edge",
            "use_remote_address": True,
            "server_name": "atelier",
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_headers_timeout": "10s",
            "stream_idle_timeout": f"{IDLE_SECONDS}s",
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "20s"}},
            "access_log": [_access_log()],
            "local_reply_config": _own_errors(),
            "http_filters": _filters(edge),
            "route_config": {"name": "edge", "virtual_hosts": [_virtual_host(edge)]},
        },
    }


def _own_errors() -> Config:
    """Errors that are Envoy's and not a service's, in JSON too; gRPC clients get them as a status."""
    errors = {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "edge.errors_from"}}}
    body = {"json_format": {"message": "%LOCAL_REPLY_BODY%", "http_status": "%RESPONSE_CODE%"}}
    return {"mappers": [{"filter": {"status_code_filter": errors}, "body_format_override": body}]}


def _access_log() -> Config:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                    "rpc": "%REQ(:PATH)%",
                    "protocol": "%PROTOCOL%",
                    "status": "%RESPONSE_CODE%",
                    "grpc_status": "%GRPC_STATUS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "millis": "%DURATION%",
                    "bytes_in": "%BYTES_RECEIVED%",
                    "bytes_out": "%BYTES_SENT%",
                    "service": "%UPSTREAM_CLUSTER%",
                    "origin": "%REQ(ORIGIN)%",
                    "user_agent": "%REQ(USER-AGENT)%",
                }
            },
        },
    }


def _filters(edge: Edge) -> list[Config]:
    """In the order in which a request meets them."""
    headers = [{"append": _header(name, value)} for name, value in SECURITY_HEADERS.items()]
    filters = [
        _typed("header_mutation", "HeaderMutation", mutations={"response_mutations": headers}),
        _typed(
            "health_check",
            "HealthCheck",
            pass_through_mode=False,
            headers=[{"name": ":path", "string_match": {"exact": "/healthz"}}],
            cluster_min_healthy_percentages={name: {"value": 100} for name in SERVICES},
        ),
        _typed("cors", "Cors"),
        # A page of another origin may not make a browser change anything here, whatever it sends.
        _typed("csrf", "CsrfPolicy", filter_enabled={"default_value": {"numerator": 0, "denominator": "HUNDRED"}}),
        _typed(
            "compressor",
            "Compressor",
            response_direction_config={
                "common_config": {
                    "min_content_length": 1024,
                }
            },
            compressor_library={
                "name": "gzip",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"},
            },
        ),
        _typed("grpc_web", "GrpcWeb"),
        _typed("lua", "Lua", default_source_code={"inline_string": enum_script()}),
        _typed(
            "grpc_json_transcoder",
            "GrpcJsonTranscoder",
            proto_descriptor=str(edge.descriptors),
            services=[service.full_name for service in SERVICES.values()],
            convert_grpc_status=True,
            case_insensitive_enum_parsing=True,
            print_options={
                "always_print_primitive_fields": True,
                "preserve_proto_field_names": True,
                "stream_newline_delimited": True,
            },
            request_validation_options={"reject_unknown_query_parameters": True},
            max_request_body_size=edge.max_body_bytes,
            max_response_body_size=edge.max_body_bytes,
        ),
    ]
    if edge.web_dir is not None:
        filters.append(_typed("file_server", "FileServerConfig", manager_config=FILE_READERS))
    return [*filters, _typed("router", "Router", suppress_envoy_headers=True)]


def _header(name: str, value: str) -> Config:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def enum_script() -> str:
    """Lua that completes short enum values in a query: `?category=image` to `?category=MODEL_CATEGORY_image`.

    The transcoder reads enum values by name, whatever their case.
    """
    rows = ",\n".join(f'  {{"{each.path}", "{each.parameter}", "{each.prefix}"}}' for each in short_enums())
    return f"""local enums = {{
{rows}
}}
function envoy_on_request(handle)
  local whole = handle:headers():get(":path") or ""
  local path, query = whole:match("^([^?]*)%?(.*)$")
  if query == nil or path:sub(1, 5) ~= "/api/" then return end
  for _, enum in ipairs(enums) do
    if path:match(enum[1]) then
      query = ("&" .. query):gsub("&" .. enum[2] .. "=([%w_]+)", function(value)
        if value:match("^%d+$") or value:upper():sub(1, #enum[3]) == enum[3] then return nil end
        return "&" .. enum[2] .. "=" .. enum[3] .. value
      end):sub(2)
    end
  end
  handle:headers():replace(":path", path .. "?" .. query)
end
"""


def _virtual_host(edge: Edge) -> Config:
    origins = [{"exact": origin} for origin in edge.allowed_origins]
    hosts = [{"exact": urlsplit(origin).netloc} for origin in edge.allowed_origins]  # all that the check compares
    routes = [
        *_grpc_routes(edge.read_seconds),
        _missing("/api/"),
        *(_web_routes(edge.web_dir) if edge.web_dir else [_no_web()]),
    ]
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "name": "edge",
        "domains": ["*"],
        # Browsers name the origin of a page that calls; other clients have none, and nothing to be protected from.
        "routes": [*(_from_page(route, always, hosts) for route in routes), *routes],
        "typed_per_filter_config": _per_route(
            "cors",
            "CorsPolicy",
            allow_origin_string_match=origins,
            allow_methods="GET,POST,PATCH,DELETE,OPTIONS",
            allow_headers=GRPC_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age="7200",
            forward_not_matching_preflights=False,
        ),
    }


def _from_page(route: Config, always: Config, hosts: list[Config]) -> Config:
    """The same route for requests that a page makes: refused unless it is one of ours or of the allow-list."""
    headers = [*route["match"].get("headers", []), {"name": "origin", "present_match": True}]
    match = {**route["match"], "headers": headers}
    check = _per_route("csrf", "CsrfPolicy", filter_enabled=always, additional_origins=hosts)
    return {**route, "match": match, "typed_per_filter_config": {**route.get("typed_per_filter_config", {}), **check}}


def _grpc_routes(read_seconds: float) -> list[Config]:
    """Every method of the three services. What only reads is tried again where a service was not reached, and has to
    end in time: a service waits for the rest of a torn request, and would wait for ever."""
    uncompressed = _per_route("compressor", "CompressorPerRoute", disabled=True)
    endless = {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    again = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
    }
    routes = []
    for name, service in SERVICES.items():
        prefix = f"/{service.full_name}/"
        routes += [
            {
                "match": {"path": prefix + method},
                "route": {"cluster": name, "timeout": f"{read_seconds}s", "retry_policy": again},
                "typed_per_filter_config": uncompressed,
            }
            for method in reads(service)
        ]
        routes.append(
            {
                "match": {"prefix": prefix},
                "route": {"cluster": name, **endless},
                "typed_per_filter_config": uncompressed,
            }
        )
    for name in (*SERVICES, ""):  # reflection and health: of the service that the caller names, else of the Catalog
        chosen = {"headers": [{"name": "x-atelier-service", "string_match": {"exact": name}}]} if name else {}
        routes += [
            {
                "match": {"prefix": prefix, **chosen},
                "route": {"cluster": name or "catalog", **endless},
                "typed_per_filter_config": uncompressed,
            }
            for prefix in ("/grpc.reflection.", "/grpc.health.v1.Health/")
        ]
    return routes


def _missing(prefix: str) -> Config:
    """What REST does not have."""
    return {
        "match": {"prefix": prefix},
        "direct_response": {"status": 404, "body": {"inline_string": "there is no such path in the API"}},
    }


def _web_routes(folder: Path) -> list[Config]:
    """The built app: hashed files for ever, index.html never from a cache, and at every path of the app."""
    index = {
        "direct_response": {"status": 200, "body": {"filename": str(folder / "index.html")}},
        "response_headers_to_add": [
            _header("content-type", "text/html; charset=utf-8"),
            _header("cache-control", "no-cache"),
        ],
    }
    return [
        _files("/assets/", folder / "assets", "public, max-age=31536000, immutable"),
        {"match": {"safe_regex": {"regex": PAGES}}, **index},
        _files("/", folder, "public, max-age=3600"),
    ]


def _files(prefix: str, folder: Path, cache: str) -> Config:
    kinds = {
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
        "png": "image/png",
        "ico": "image/x-icon",
        "json": "application/json",
        "woff2": "font/woff2",
        "txt": "text/plain; charset=utf-8",
        "webmanifest": "application/manifest+json",
    }
    served = _per_route(
        "file_server",
        "FileServerConfig",
        manager_config=FILE_READERS,
        path_mappings=[{"request_path_prefix": prefix.rstrip("/") or "/", "file_path_prefix": str(folder)}],
        content_types=kinds,
        default_content_type="application/octet-stream",
    )
    cached = _per_route(
        "header_mutation",
        "HeaderMutationPerRoute",
        mutations={"response_mutations": [{"append": _header("cache-control", cache)}]},
    )
    return {
        "match": {"prefix": prefix},
        "direct_response": {"status": 404, "body": {"inline_string": "there is no such file"}},
        "typed_per_filter_config": {**served, **cached},
    }


def _no_web() -> Config:
    message = "the web app is not built here (make web); the API answers under /api/ and over gRPC"
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": message}}}
