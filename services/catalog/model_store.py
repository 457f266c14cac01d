"""What the Catalog remembers of models."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.domain import Model, ModelCategory, ModelFamily, ModelFile, ModelType, NewModel, StoredWeights
from services.catalog.tables import model_files, model_from_row, model_to_row, models, weights_to_path
from services.common.errors import FailedPrecondition, NotFound
from services.common.rows import Transactions, insert_or_ignore, now

MAX_LINEAGE = 32
"""Deeper than anybody fine-tunes; a bound for the walk."""


class ModelStore:
    """Models and the list of their files, in the Catalog's database."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def register(self, model: NewModel, *, request_id: str | None = None) -> Model:
        """Adds a model, once: the same `job_id` or `request_id` again gives the first. Raises NotFound for its base."""
        async with self._db.begin() as connection:
            id = await self._insert(connection, model, request_id=request_id)
            if id is None:
                id = (await connection.execute(_made_by(model.outcome_of, request_id))).scalar_one()
            return await self._one(connection, id)

    async def registered(self, *, job_id: str, request_id: str | None) -> Model | None:
        """The model that this job or request has made before."""
        async with self._db.snapshot() as connection:
            id = (await connection.execute(_made_by(job_id, request_id))).scalar_one_or_none()
            return None if id is None else await self._one(connection, id)

    async def seed(self, id: int, model: NewModel) -> bool:
        """Adds a model under a fixed id, unless one has it. Returns whether this call added it."""
        async with self._db.begin() as connection:
            return await self._insert(connection, model, id=id) is not None

    async def replace_weights(self, id: int, weights: StoredWeights) -> None:
        """Gives a model other files, if they differ. Raises NotFound."""
        path = weights_to_path(weights)
        async with self._db.begin() as connection:
            moved = await connection.execute(
                sa.update(models).where(models.c.id == id, models.c.path != path).values(path=path, updated_at=now())
            )
            if moved.rowcount:
                await connection.execute(sa.delete(model_files).where(model_files.c.model_id == id))
                await self._insert_files(connection, id, weights.files)
            await self._one(connection, id)

    async def _insert(
        self, connection: AsyncConnection, model: NewModel, *, id: int | None = None, request_id: str | None = None
    ) -> int | None:
        moment = now()
        values: dict[str, Any] = {
            **model_to_row(model),
            "request_id": request_id,
            "is_active": True,
            "created_at": moment,
            "updated_at": moment,
        }
        if id is not None:
            values["id"] = id
        insert = insert_or_ignore(models, connection.dialect).values(**values).returning(models.c.id)
        try:
            added: int | None = (await connection.execute(insert)).scalar_one_or_none()
        except sa.exc.IntegrityError as error:
            raise NotFound(
                "model", model.base_model_id, message=f"there is no base model {model.base_model_id}"
            ) from error
        if added is not None and isinstance(model.weights, StoredWeights):
            await self._insert_files(connection, added, model.weights.files)
        return added

    async def _insert_files(self, connection: AsyncConnection, id: int, files: Sequence[ModelFile]) -> None:
        await connection.execute(sa.insert(model_files), [{"model_id": id, **asdict(file)} for file in files])

    async def get(self, model_id: int) -> Model:
        """Raises NotFound."""
        async with self._db.snapshot() as connection:
            return await self._one(connection, model_id)

    async def find(
        self,
        *,
        after: int,
        limit: int,
        category: ModelCategory | None = None,
        type: ModelType | None = None,
        family: ModelFamily | None = None,
        is_active: bool | None = None,
        name: str = "",
        base_model_id: int | None = None,
    ) -> tuple[list[Model], int]:
        """Up to `limit` models with ids above `after`, by id; and how many match in all."""
        wanted: dict[str, Any] = {
            "category": category and category.value,
            "type": type and type.value,
            "family": family and family.value,
            "is_active": is_active,
            "name": name or None,
            "base_model_id": base_model_id,
        }
        matches = [models.c[column] == value for column, value in wanted.items() if value is not None]
        query = sa.select(models).where(models.c.id > after, *matches).order_by(models.c.id).limit(limit)
        async with self._db.snapshot() as connection:
            rows = (await connection.execute(query)).all()
            total = await connection.execute(sa.select(sa.func.count()).select_from(models).where(*matches))
            return await self._with_files(connection, rows), int(total.scalar_one())

    async def update(self, model_id: int, changes: dict[str, Any]) -> Model:
        """Sets `name`, `description`, `is_active` or `trigger_words`. Raises NotFound."""
        async with self._db.begin() as connection:
            update = sa.update(models).where(models.c.id == model_id).values(**changes, updated_at=now())
            await connection.execute(update)
            return await self._one(connection, model_id)

    async def delete(self, model_id: int) -> None:
        """Raises NotFound, and FailedPrecondition while other models are built on it."""
        child = models.alias("child")
        children = sa.exists().where(child.c.base_model_id == model_id)
        async with self._db.begin() as connection:
            try:
                gone = await connection.execute(sa.delete(models).where(models.c.id == model_id, ~children))
            except sa.exc.IntegrityError as error:  # a child came in between
                raise _has_children(model_id) from error
            if not gone.rowcount:
                await self._one(connection, model_id)
                raise _has_children(model_id)

    async def ancestors(self, model: Model) -> tuple[Model, ...]:
        """The base model, its base, and so on; nearest first."""
        found: list[Model] = []
        async with self._db.snapshot() as connection:
            above = model.base_model_id
            while above is not None and len(found) < MAX_LINEAGE:
                found.append(await self._one(connection, above))
                above = found[-1].base_model_id
        return tuple(found)

    async def _one(self, connection: AsyncConnection, model_id: int) -> Model:
        row = (await connection.execute(sa.select(models).where(models.c.id == model_id))).one_or_none()
        if row is None:
            raise NotFound("model", model_id)
        return (await self._with_files(connection, [row]))[0]

    async def _with_files(self, connection: AsyncConnection, rows: Sequence[Any]) -> list[Model]:
        query = sa.select(model_files).where(model_files.c.model_id.in_([row.id for row in rows]))
        files: dict[int, list[ModelFile]] = {row.id: [] for row in rows}
        for row in await connection.execute(query.order_by(model_files.c.path)):
            files[row.model_id].append(ModelFile(row.path, row.sha256, row.size_bytes))
        return [model_from_row(row, tuple(files[row.id])) for row in rows]


def _made_by(job_id: str, request_id: str | None) -> sa.Select[int]:
    """The id of the model of a job or a request, each of which makes one at most; the job's where they differ."""
    by_job = models.c.job_id == job_id if job_id else sa.false()
    by_request = models.c.request_id == request_id if request_id else sa.false()
    return sa.select(models.c.id).where(sa.or_(by_job, by_request)).order_by(sa.case((by_job, 0), else_=1)).limit(1)


def _has_children(model_id: int) -> FailedPrecondition:
    return FailedPrecondition(f"model {model_id} has models built on it; delete those first", reason="MODEL_IN_USE")
