"""What the Generator remembers: generations and their pictures. Domain values in and out, never rows.

Every write that could race is one statement whose WHERE clause decides the winner.
"""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import NotFound
from services.common.rows import Transactions, now
from services.generator import domain
from services.generator.tables import (
    failure_text,
    generation_of,
    generation_row,
    generations,
    picture_of,
    picture_row,
    pictures,
)


class Store:
    """The tables of one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._db = Transactions(engine, "the Generator")

    async def add(self, generation: domain.Generation) -> domain.Generation:
        """Stores a new generation, or gives the one that has its request id already."""
        try:
            async with self._db.begin() as connection:
                await connection.execute(generations.insert().values(generation_row(generation)))
            return generation
        except IntegrityError:
            if generation.request_id and (found := await self.by_request(generation.request_id)):
                return found
            raise

    async def get(self, generation_id: str) -> domain.Generation:
        """Raises NotFound."""
        found = await self._select(generations.c.id == generation_id)
        if not found:
            raise NotFound("generation", generation_id)
        return found[0]

    async def by_request(self, request_id: str) -> domain.Generation | None:
        found = await self._select(generations.c.request_id == request_id)
        return found[0] if found else None

    async def unfinished(self) -> list[domain.Generation]:
        """Queued and running ones, in the order of their arrival."""
        return await self._select(generations.c.status.in_([each.value for each in domain.UNFINISHED]))

    async def page(
        self, size: int, *, before: int | None, model_id: int | None, status: domain.Status | None
    ) -> tuple[list[domain.Generation], int | None, int]:
        """Newest first: a page, the number to go on before (None at the end), and how many there are in all."""
        wanted = sa.and_(
            sa.true(),
            *([generations.c.model_id == model_id] if model_id is not None else []),
            *([generations.c.status == status.value] if status is not None else []),
        )
        query = sa.select(generations).where(wanted).order_by(generations.c.number.desc()).limit(size + 1)
        if before is not None:
            query = query.where(generations.c.number < before)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            total = (
                await connection.execute(sa.select(sa.func.count()).select_from(generations).where(wanted))
            ).scalar_one()
            found = await self._with_pictures(connection, rows[:size])
        return found, (rows[size - 1]["number"] if len(rows) > size else None), total

    async def move(
        self,
        generation_id: str,
        status: domain.Status,
        *,
        failure: domain.Failure | None = None,
        warnings: Sequence[str] | None = None,
    ) -> bool:
        """Takes the generation to `status` if it may go there from where it is; False when it may not."""
        values: dict[str, object] = {"status": status.value, "failure": failure_text(failure)}
        if status not in domain.UNFINISHED:
            values["finished_at"] = now()
        if warnings is not None:
            values["warnings"] = json.dumps(list(warnings))
        allowed = generations.c.status.in_([each.value for each in domain.MOVES[status]])
        statement = generations.update().where(generations.c.id == generation_id, allowed).values(values)
        async with self._db.begin() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def add_pictures(self, generation_id: str, drawn: Sequence[domain.Picture]) -> None:
        """Stores finished pictures, in place of those with the same index from before a restart."""
        places = [picture.index for picture in drawn]
        rows = [picture_row(generation_id, picture) for picture in drawn]
        async with self._db.begin() as connection:
            await connection.execute(
                pictures.delete().where(pictures.c.generation_id == generation_id, pictures.c.position.in_(places))
            )
            await connection.execute(pictures.insert(), rows)

    async def delete(self, generation_id: str) -> bool:
        """Removes a finished generation with its pictures' rows; False when it is not there or not finished.

        The bytes stay: the blob store is shared, and a dataset may hold the same picture.
        """
        unfinished = [each.value for each in domain.UNFINISHED]
        statement = generations.delete().where(
            generations.c.id == generation_id, generations.c.status.not_in(unfinished)
        )
        async with self._db.begin() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def _select(self, where: sa.ColumnElement[bool]) -> list[domain.Generation]:
        query = sa.select(generations).where(where).order_by(generations.c.number)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            return await self._with_pictures(connection, rows)

    async def _with_pictures(
        self, connection: AsyncConnection, rows: Sequence[sa.RowMapping]
    ) -> list[domain.Generation]:
        ids = [row["id"] for row in rows]
        query = sa.select(pictures).where(pictures.c.generation_id.in_(ids)).order_by(pictures.c.position)
        drawn: dict[str, list[domain.Picture]] = {id: [] for id in ids}
        if ids:
            for row in (await connection.execute(query)).mappings():
                drawn[row["generation_id"]].append(picture_of(row))
        return [generation_of(row, tuple(drawn[row["id"]])) for row in rows]
