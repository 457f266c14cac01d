"""What every service's tables and stores share."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import Unavailable


class UtcTime(sa.types.TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases; SQLite itself knows no time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def database_errors(whose: str) -> Iterator[None]:
    """A database out of reach as Unavailable naming `whose` ("the Catalog"): the same call may succeed later."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise Unavailable(f"{whose}'s database does not answer", reason="DATABASE_UNAVAILABLE") from error


class Transactions:
    """Opens transactions on one engine; a database that is out of reach is Unavailable, naming `whose` it is."""

    def __init__(self, engine: AsyncEngine, whose: str) -> None:
        self._engine = engine
        self._whose = whose
        # SQLite has one writer at a time, and those who wait for its lock poll with growing pauses; here they queue.
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes. On SQLite its first statement has to be a write, which takes the lock."""
        with database_errors(self._whose):
            async with self._turn, self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with, once."""
        with database_errors(self._whose):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """One to read with several times: all see the same moment."""
        async with self.read() as connection:
            if connection.dialect.name == "sqlite":
                await connection.exec_driver_sql("BEGIN")
            else:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection


def insert_or_ignore(table: sa.Table, dialect: Dialect) -> Any:
    """An INSERT that leaves a row alone that breaks a unique constraint, on either database."""
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
