"""Envoy's whole configuration as one value: listener, filters, routes, the three services behind it."""

from gateway.envoy.config import EdgeSettings, split_address
from gateway.envoy.contract import PUBLIC, openapi
from gateway.envoy.filters import Config, filters
from gateway.envoy.routes import route_config

EXTENSIONS = "type.googleapis.com/envoy.extensions"
ACCESS_LOG = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "rpc": "%REQ(:PATH)%",
    "service": "%UPSTREAM_CLUSTER%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "millis": "%DURATION%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "origin": "%REQ(ORIGIN)%",
    "user_agent": "%REQ(USER-AGENT)%",
}
CODES = {400: 3, 403: 7, 405: 12, 408: 4, 429: 8, 500: 13, 503: 14, 504: 4}
"""HTTP statuses of the edge's own errors, and the google.rpc codes they stand for in REST answers."""


def bootstrap(settings: EdgeSettings) -> Config:
    """The bootstrap document, for `envoy --config-path` as JSON."""
    return {
        "node": {"id": "gateway", "cluster": "atelier"},
        **admin(settings),
        "application_log_config": {
            "log_format": {
                "json_format": {"time": "%Y-%m-%dT%T.%eZ", "level": "%l", "logger": "%n", "event": "%j"},
            }
        },
        "overload_manager": {"resource_monitors": [connection_limit(settings.max_connections)]},
        "static_resources": {
            "listeners": [listener(settings)],
            "clusters": [cluster(name, address) for name, address in settings.upstreams().items()],
        },
    }


def admin(settings: EdgeSettings) -> Config:
    if not settings.admin:
        return {}
    if settings.admin.startswith("/"):
        return {"admin": {"address": {"pipe": {"path": settings.admin, "mode": 0o600}}}}
    return {"admin": {"address": socket_address(settings.admin)}}


def connection_limit(connections: int) -> Config:
    message = "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": f"{EXTENSIONS}.{message}", "max_active_downstream_connections": connections},
    }


def listener(settings: EdgeSettings) -> Config:
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "server_name": "atelier",
        "use_remote_address": True,
        "internal_address_config": {
            "unix_sockets": False
        },  # nobody outside may set x-envoy-* headers, loopback neither
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # A request id that came with the request is kept: client, edge and service log the same.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{EXTENSIONS}.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "300s",  # routes of RPCs have their own
        "access_log": [
            {
                "name": "envoy.access_loggers.stdout",
                "filter": {"not_health_check_filter": {}},
                "typed_config": {
                    "@type": f"{EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog",
                    "log_format": {"json_format": ACCESS_LOG},
                },
            }
        ],
        "local_reply_config": {
            "mappers": [
                rest_reply(413, 8, f"the body is larger than {settings.max_rest_bytes} bytes: stream it over gRPC"),
                rest_reply(404, 5, "no such path: see /api/openapi.json"),
                *(rest_reply(status, code) for status, code in CODES.items()),
                not_kept(),
            ]
        },
        "route_config": route_config(settings, openapi()),
        "http_filters": filters(settings),
    }
    return {
        "name": "edge",
        "address": socket_address(settings.listen),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def rest_reply(status: int, code: int, message: str = "%LOCAL_REPLY_BODY%") -> Config:
    """The edge's own error on a REST path, in the shape of the services' errors."""
    is_status = {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": f"edge.{status}"}}}
    # The transcoder has renamed the path where it got as far as the body.
    is_rest = [
        {"header_filter": {"header": {"name": name, "string_match": {"prefix": "/api/"}}}}
        for name in (":path", "x-envoy-original-path")
    ]
    filters = [{"status_code_filter": is_status}, {"or_filter": {"filters": is_rest}}]
    return {
        "filter": {"and_filter": {"filters": filters}},
        "body_format_override": {
            "json_format": {"code": code, "message": message, "details": []},
            "content_type": "application/json",
        },
    }


def not_kept() -> Config:
    """An error of the edge is not to be cached as the file that it stands for would be."""
    is_error = {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "edge.error"}}}
    header = {"header": {"key": "cache-control", "value": "no-store"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"filter": {"status_code_filter": is_error}, "headers_to_add": [header]}


def cluster(name: str, address: str) -> Config:
    """One service: HTTP/2, its health asked for by gRPC.

    A service that is one process is called even while its probe is late (Envoy's panic threshold): that tells more
    than a refusal would. What has gone is refused by its connection.
    """
    protocol = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "20s"}}
        },
    }
    host, port = split_address(address)
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "health_checks": [
            {
                "timeout": "5s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": PUBLIC[name].full_name},
            }
        ],
        # Thousands may watch one job; every watch is a request.
        "circuit_breakers": {"thresholds": [{"max_requests": 20000, "max_pending_requests": 20000, "max_retries": 50}]},
    }


def socket_address(address: str) -> Config:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port, "ipv4_compat": host == "::"}}
