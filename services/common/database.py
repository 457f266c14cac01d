"""A service's own database: a SQLite file, or a schema of a Postgres, brought up to date when it is opened."""

import asyncio
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.common.errors import Unavailable

MIGRATION_LOCK = 0x617465  # any number that all replicas share


def _on_sqlite_connect(connection: Any, _: object) -> None:
    """WAL lets readers go on beside a writer; foreign keys are off in SQLite unless asked for."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _on_sqlite_invalidate(connection: Any, *_: object) -> None:
    """Rolls back before the close. A statement whose task is cancelled has SQLAlchemy close the connection as it is, in
    mid-transaction, and SQLite keeps a closed connection's write lock until its last cursor is collected as garbage."""
    connection.rollback()


def create_engine(url: str, *, schema: str) -> AsyncEngine:
    """An engine on `url`. On Postgres every connection works in `schema`; a SQLite file is one service's own.

    Raises ValueError for another database.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), connect_args={"timeout": 30})
        event.listen(engine.sync_engine, "connect", _on_sqlite_connect)
        event.listen(engine.sync_engine, "invalidate", _on_sqlite_invalidate)
        return engine
    if parsed.get_backend_name() == "postgresql":
        return create_async_engine(
            parsed.set(drivername="postgresql+psycopg"),
            connect_args={"options": f"-csearch_path={schema}"},
            pool_pre_ping=True,
            pool_size=10,
        )
    raise ValueError(f"database {parsed.get_backend_name()!r}: only sqlite and postgresql are supported")


def _upgrade(connection: Connection, migrations: Path, schema: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.execute(sa.text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    else:
        connection.execute(sa.text("BEGIN IMMEDIATE"))
    command.upgrade(config, "head")


async def migrate(engine: AsyncEngine, *, schema: str, migrations: Path) -> None:
    """Applies what is missing of `migrations` (an Alembic folder), in one transaction; replicas take turns."""
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade, migrations, schema)
        await connection.commit()


async def open_database(url: str, *, schema: str, migrations: Path, attempts: int = 10) -> AsyncEngine:
    """The engine of an up-to-date database. Waits for a Postgres that is still starting.

    Raises Unavailable when it cannot be reached after `attempts` tries a second apart.
    """
    engine = create_engine(url, schema=schema)
    for attempt in range(attempts):
        try:
            await migrate(engine, schema=schema, migrations=migrations)
            return engine
        except sa.exc.OperationalError as error:
            if attempt + 1 == attempts:
                await engine.dispose()
                message = f"the database {make_url(url).render_as_string(hide_password=True)} does not answer"
                raise Unavailable(message, reason="DATABASE_UNAVAILABLE") from error
            await asyncio.sleep(1)
    raise AssertionError("unreachable: the loop returns or raises")
