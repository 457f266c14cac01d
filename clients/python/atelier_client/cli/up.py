"""`atelier up`"""

import signal
from types import FrameType
from typing import Annotated

import typer

from atelier_client.addresses import DEFAULT_PORTS, GATEWAY, SERVICES
from atelier_client.cli.session import err, out, print_table, session_of


class StopRequested(Exception):
    """SIGINT or SIGTERM came."""


def up(
    context: typer.Context,
    catalog_port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORTS["catalog"],
    trainer_port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORTS["trainer"],
    generator_port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORTS["generator"],
    gateway_port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORTS[GATEWAY],
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Let the system choose the ports.")] = False,
    host: Annotated[str, typer.Option(help="The interface to listen on.")] = "127.0.0.1",
    seed: Annotated[bool, typer.Option("--seed/--no-seed", help="Add the base models and the starter model.")] = True,
) -> None:
    """Start the Catalog, the Trainer, the Generator and the gateway here, and stop them with Ctrl-C."""
    from atelier_client.stack import Stack, gateway_problem  # brings grpc_health, which a client alone does without

    wanted = {"catalog": catalog_port, "trainer": trainer_port, "generator": generator_port}
    problem = gateway_problem()
    if not problem:
        wanted[GATEWAY] = gateway_port
    ports = {} if free_ports else wanted
    _raise_on_signals()
    stack = Stack(session_of(context).data, ports=ports, host=host)
    try:
        with stack:
            if seed:
                with stack.client() as client:
                    client.models.seed()
            where = stack.addresses
            names = (*SERVICES, GATEWAY) if where.gateway else SERVICES
            rows = ((name, getattr(where, name), stack.log_dir / f"{name}.log") for name in names)
            print_table(["SERVICE", "ADDRESS", "LOG"], rows, empty="")
            if problem:
                err.print(f"No gateway, so no browser and no REST: {problem}.")
            at = f" at http://{where.gateway}" if where.gateway else ""
            out.print(f"Atelier is up{at}. Ctrl-C stops it.")
            stack.wait()
    except StopRequested:
        err.print("Stopped.")


def _raise_on_signals() -> None:
    """The first SIGINT or SIGTERM raises StopRequested; later ones do nothing, so that nothing cuts the stop short."""
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if not requested:
            requested = True
            raise StopRequested

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request)
