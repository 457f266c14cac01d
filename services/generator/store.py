"""What the Generator remembers: generations and their pictures. Domain values in and out, never rows.

Every write that could race is one statement whose WHERE clause decides the winner.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

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
    inputs,
    model_rows,
    models,
    picture_row,
    pictures,
)


class Store:
    """The tables of one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._db = Transactions(engine, "the Generator")

    async def add(self, generation: domain.Generation, sizes: Mapping[str, int] | None = None) -> domain.Generation:
        """Stores a new generation with the bytes that each of its input pictures takes, by their digests; or gives the
        one that has its request id already."""
        named = [
            {"generation_id": generation.id, "sha256": digest, "size_bytes": size}
            for digest, size in (sizes or {}).items()
        ]
        try:
            async with self._db.begin() as connection:
                await connection.execute(generations.insert().values(generation_row(generation)))
                await connection.execute(models.insert(), model_rows(generation))
                if named:
                    await connection.execute(inputs.insert(), named)
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
        self,
        size: int,
        *,
        before: int | None = None,
        model_id: int | None = None,
        status: domain.Status | None = None,
        prompt_contains: str = "",
        is_kept: bool | None = None,
    ) -> tuple[list[domain.Generation], int | None, int]:
        """Newest first: a page, the number to go on before (None at the end), and how many there are in all."""
        columns = generations.c
        wanted: sa.ColumnElement[bool] = sa.true()
        if model_id is not None:
            of_model = sa.select(models.c.generation_id).where(models.c.model_id == model_id)
            wanted = sa.and_(wanted, columns.id.in_(of_model))
        if status is not None:
            wanted = sa.and_(wanted, columns.status == status.value)
        if prompt_contains:
            wanted = sa.and_(wanted, columns.prompt.contains(prompt_contains.casefold(), autoescape=True))
        if is_kept is not None:
            wanted = sa.and_(wanted, columns.is_kept == is_kept)
        query = sa.select(generations).where(wanted).order_by(columns.number.desc()).limit(size + 1)
        if before is not None:
            query = query.where(columns.number < before)
        async with self._db.snapshot() as connection:
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
        """Takes the generation to `status` if it may go there from where it is; False when it may not. Of the cancelled
        ones only those that were abandoned may be queued again."""
        values: dict[str, object] = {
            "status": status.value,
            "failure": failure_text(failure),
            "finished_at": None if status in domain.UNFINISHED else now(),
        }
        if warnings is not None:
            values["warnings"] = json.dumps(list(warnings))
        allowed: sa.ColumnElement[bool] = generations.c.status.in_([each.value for each in domain.MOVES[status]])
        if domain.Status.CANCELLED in domain.MOVES[status]:
            ended = generations.c.status != domain.Status.CANCELLED.value
            allowed &= sa.or_(ended, generations.c.failure == failure_text(domain.ABANDONED))
        statement = generations.update().where(generations.c.id == generation_id, allowed).values(values)
        async with self._db.begin() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def change(
        self, generation_id: str, *, is_kept: bool | None = None, keeps_drawing: bool | None = None
    ) -> domain.Generation:
        """Changes what is given, and gives the generation. Raises NotFound."""
        given = {"is_kept": is_kept, "keeps_drawing": keeps_drawing}
        values = {name: value for name, value in given.items() if value is not None}
        if values:
            async with self._db.begin() as connection:
                statement = generations.update().where(generations.c.id == generation_id).values(values)
                await connection.execute(statement)
        return await self.get(generation_id)

    async def add_pictures(self, generation_id: str, drawn: Sequence[domain.Picture]) -> None:
        """Stores finished pictures, in place of those with the same index from before a restart."""
        places = [picture.index for picture in drawn]
        rows = [picture_row(generation_id, picture) for picture in drawn]
        async with self._db.begin() as connection:
            await connection.execute(
                pictures.delete().where(pictures.c.generation_id == generation_id, pictures.c.position.in_(places))
            )
            await connection.execute(pictures.insert(), rows)

    async def delete(self, generation_id: str, *, unless_kept: bool = False) -> dict[str, int] | None:
        """Removes a finished generation with its pictures' rows, and gives the digests that these named with the bytes
        that each takes; None when it is not there or not finished (or kept, where that counts)."""
        unfinished = [each.value for each in domain.UNFINISHED]
        wanted = sa.and_(generations.c.id == generation_id, generations.c.status.not_in(unfinished))
        if unless_kept:
            wanted = sa.and_(wanted, sa.not_(generations.c.is_kept))
        named = sa.union(
            sa.select(pictures.c.sha256, pictures.c.size_bytes).where(pictures.c.generation_id == generation_id),
            sa.select(inputs.c.sha256, inputs.c.size_bytes).where(inputs.c.generation_id == generation_id),
        )
        async with self._db.begin() as connection:
            # A write first: SQLite takes its lock with it. The digests are read before the rows leave with it.
            marked = generations.update().where(wanted).values(id=generation_id)
            if (await connection.execute(marked)).rowcount != 1:
                return None
            digests = {row.sha256: int(row.size_bytes) for row in await connection.execute(named)}
            await connection.execute(generations.delete().where(generations.c.id == generation_id))
            return digests

    async def unnamed(self, digests: Collection[str]) -> set[str]:
        """Those of `digests` that no generation names."""
        left = set(digests)
        async with self._db.snapshot() as connection:
            for table in (pictures, inputs):
                found = sa.select(table.c.sha256).where(table.c.sha256.in_(left)).distinct()
                left -= set((await connection.execute(found)).scalars())
        return left

    async def removable(self, limit: int, *, finished_before: datetime | None = None) -> list[str]:
        """The oldest finished generations that nobody keeps, `limit` at most, by their ids."""
        columns = generations.c
        wanted = sa.and_(columns.status.not_in([each.value for each in domain.UNFINISHED]), sa.not_(columns.is_kept))
        if finished_before is not None:
            wanted = sa.and_(wanted, columns.finished_at < finished_before)
        query = sa.select(columns.id).where(wanted).order_by(columns.number).limit(limit)
        async with self._db.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def gallery_bytes(self) -> int:
        """What all pictures take together, those that several generations have counted once."""
        each = sa.union(
            sa.select(pictures.c.sha256, pictures.c.size_bytes), sa.select(inputs.c.sha256, inputs.c.size_bytes)
        ).subquery()
        async with self._db.read() as connection:
            total = (await connection.execute(sa.select(sa.func.sum(each.c.size_bytes)))).scalar_one()
        return int(total or 0)

    async def _select(self, where: sa.ColumnElement[bool]) -> list[domain.Generation]:
        query = sa.select(generations).where(where).order_by(generations.c.number)
        async with self._db.snapshot() as connection:
            rows = (await connection.execute(query)).mappings().all()
            return await self._with_pictures(connection, rows)

    async def _with_pictures(
        self, connection: AsyncConnection, rows: Sequence[sa.RowMapping]
    ) -> list[domain.Generation]:
        ids = [row["id"] for row in rows]
        query = sa.select(pictures).where(pictures.c.generation_id.in_(ids)).order_by(pictures.c.position)
        drawn: dict[str, list[sa.RowMapping]] = {id: [] for id in ids}
        if ids:
            for row in (await connection.execute(query)).mappings():
                drawn[row["generation_id"]].append(row)
        return [generation_of(row, tuple(drawn[row["id"]])) for row in rows]
