"""`atelier seed`"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from atelier.catalog.v1.catalog_service_pb2 import SeedModelsResponse

from atelier_client.addresses import read_addresses
from atelier_client.cli.session import JsonOption, Session, err, out, print_json, session_of
from atelier_client.client import Atelier


def seed(context: typer.Context, json: JsonOption = False) -> None:
    """Add the base models and the starter model; what is there stays. Needs no running Atelier."""
    with _catalog(session_of(context)) as client:
        answer = client.models.seed()
    if json:
        print_json(answer)
    else:
        print_seeded(answer)


def print_seeded(answer: SeedModelsResponse) -> None:
    for model in answer.models:
        state = "added" if model.id in answer.added_ids else "there already"
        out.print(f"{model.name} (ID: {model.id}): {state}", markup=False)


@contextmanager
def _catalog(session: Session) -> Iterator[Atelier]:
    """A client of the running Catalog; where none runs, of one started on the data folder for this one command."""
    if session.catalog or read_addresses(session.data):
        with session.client() as client:
            yield client
        return
    from atelier_client.stack import Stack

    err.print(f"No Atelier runs on {session.data}; starting its Catalog for this.", markup=False)
    with Stack(session.data, services=["catalog"]) as stack, stack.client() as client:
        yield client
