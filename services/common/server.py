"""A gRPC server as every service runs it: health, reflection, validation, errors, and a clean stop."""

import asyncio
import importlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.clients import CHANNEL_OPTIONS
from services.common.interceptors import RpcInterceptor
from services.common.telemetry import Logger, get_logger


class Service(NamedTuple):
    """One gRPC service: its generated `add_..._to_server`, the object that serves it, its full name."""

    add_to_server: Callable[[Any, grpc.aio.Server], None]
    servicer: Any
    name: str


class Server:
    """Serves `services` at `listen` (host:port, port 0 lets the system choose)."""

    def __init__(
        self,
        services: Sequence[Service | tuple[Any, Any, str]],
        *,
        listen: str = "127.0.0.1:0",
        log: Logger | None = None,
        before_stop: Callable[[], None] | None = None,
    ) -> None:
        self._before_stop = before_stop  # is told before calls are cut, which services might take for clients that left
        self._services = [Service(*each) for each in services]
        self._listen = listen
        self._log = log or get_logger("server")
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self.port = 0

    @property
    def address(self) -> str:
        return f"{self._listen.rpartition(':')[0]}:{self.port}"

    async def start(self) -> int:
        """Binds, serves and reports healthy. Returns the bound port; raises OSError when it is taken."""
        server = grpc.aio.server(
            interceptors=[RpcInterceptor(self._log)], options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)]
        )
        for service in self._services:
            service.add_to_server(service.servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [service.name for service in self._services]
        listed = {*names, *_all_contracts(), health.SERVICE_NAME, reflection.SERVICE_NAME}
        reflection.enable_server_reflection(sorted(listed), server)
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: {error}") from error
        await server.start()
        for name in ["", *names]:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        return self.port

    async def stop(self, grace: float = 1.0) -> None:
        """Tells health probes, lets running calls end for `grace` seconds, then cuts them."""
        if self._server is not None:
            if self._before_stop is not None:
                self._before_stop()
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0.2)


def _all_contracts() -> list[str]:
    """The services that clients call, whichever process serves them: behind the gateway one is asked about all."""
    names = []
    for package in ("catalog", "trainer", "generator"):
        importlib.import_module(f"atelier.{package}.v1.{package}_service_pb2")  # reflection describes what is loaded
        names.append(f"atelier.{package}.v1.{package.capitalize()}Service")
    return names


def announce(file: Path, address: str) -> None:
    """Writes `address` to `file` so that a reader sees all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(address)
    aside.replace(file)


async def run(server: Server, *, announce_file: Path | None, grace: float, log: Logger) -> None:
    """Serves until SIGTERM or SIGINT, then stops cleanly."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await server.start()
    if announce_file is not None:
        announce(announce_file, server.address)
    log.info("serving", address=server.address)
    await stopping.wait()
    log.info("stopping")
    await server.stop(grace)
