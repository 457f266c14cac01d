"""What every command shares: where the services are, and how errors and results are shown."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from atelier_client.addresses import find_addresses
from atelier_client.client import Atelier
from atelier_client.errors import AtelierError, Unavailable
from atelier_client.plain import to_plain

JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Session:
    """The global options."""

    data: Path
    catalog: str
    trainer: str
    generator: str

    @contextmanager
    def client(self) -> Iterator[Atelier]:
        found = find_addresses(catalog=self.catalog, trainer=self.trainer, generator=self.generator, folder=self.data)
        with Atelier(catalog=found.catalog, trainer=found.trainer, generator=found.generator) as client:
            yield client


class ErrorGroup(TyperGroup):
    """Shows what a command failed with as one line, and exits with 1. Usage errors exit with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AtelierError as error:
            fail(error)


def fail(error: AtelierError) -> None:
    """Prints the error and leaves with exit code 1."""
    err.print("error:", style="bold red", end=" ")
    err.print(error.message, markup=False)
    if isinstance(error, Unavailable) and "does not answer" in error.message:
        err.print("Is Atelier running? `atelier up` starts it.", markup=False)
    raise typer.Exit(1)


def print_json(value: Message | Sequence[Message] | dict[str, Any]) -> None:
    """`value` as indented JSON on stdout."""
    plain: object = value
    if isinstance(value, Message):
        plain = to_plain(value)
    elif not isinstance(value, dict):
        plain = [to_plain(each) for each in value]
    typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or `empty` where there are no rows."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    if table.row_count:
        out.print(table)
    else:
        out.print(empty, markup=False)


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if value not in ("", None):
            table.add_row(f"[bold]{name}[/bold]", _text(value))
    out.print(table)


def _text(cell: object) -> str:
    return str(cell).replace("[", r"\[")


def bytes_text(count: int) -> str:
    """1.4 MB for 1400000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit takes everything")


def time_text(timestamp: Any) -> str:
    """A Timestamp in local time to the minute, or empty when it is not set."""
    if not timestamp.seconds:
        return ""
    from datetime import UTC

    return str(timestamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M"))


def session_of(context: typer.Context) -> Session:
    session = context.find_root().obj
    if not isinstance(session, Session):
        raise RuntimeError("the root callback sets the session")
    return session
