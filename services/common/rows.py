"""What every service's tables and stores share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

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
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise Unavailable(f"{whose}'s database does not answer", reason="DATABASE_UNAVAILABLE") from error


def insert_or_ignore(table: sa.Table, dialect: Dialect) -> Any:
    """An INSERT that leaves a row alone that breaks a unique constraint, on either database."""
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
