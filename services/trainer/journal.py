"""The stored events of jobs, to read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from services.common.rows import Transactions
from services.trainer.domain import Checkpoint, Event, JobStatus, Sample
from services.trainer.tables import event_from_row, events, jobs, promotions


@dataclass(frozen=True, slots=True)
class Head:
    """Where a job's events stand."""

    last_sequence: int
    status: JobStatus


class Journal:
    """Reads what the store has written."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def heads(self, job_ids: Iterable[str]) -> dict[str, Head]:
        """Where these jobs' events stand; deleted jobs are left out."""
        query = sa.select(jobs.c.id, jobs.c.last_sequence, jobs.c.status).where(jobs.c.id.in_(list(job_ids)))
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        return {row.id: Head(row.last_sequence, JobStatus(row.status)) for row in rows}

    async def read(
        self, job_id: str, *, after: int = 0, limit: int | None = None, kind: str | None = None
    ) -> list[Event]:
        """Stored events in order, those after a sequence number, of one kind if named."""
        query = sa.select(events).where(events.c.job_id == job_id, events.c.sequence > after)
        if kind is not None:
            query = query.where(events.c.kind == kind)
        async with self._db.read() as connection:
            rows = (await connection.execute(query.order_by(events.c.sequence).limit(limit))).all()
        return [event_from_row(row) for row in rows]

    async def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """All that the job has ever reported, in the order they were made."""
        return [each.body for each in await self.read(job_id, kind="checkpoint") if isinstance(each.body, Checkpoint)]

    async def samples(self, job_id: str) -> list[Sample]:
        """All that the job has ever drawn, in the order they were reported."""
        return [each.body for each in await self.read(job_id, kind="sample") if isinstance(each.body, Sample)]

    async def promotions(self, job_id: str) -> dict[int, int | None]:
        """The steps whose checkpoints are promoted, and the models; None where one is not registered yet."""
        query = sa.select(promotions.c.step, promotions.c.model_id).where(promotions.c.job_id == job_id)
        async with self._db.read() as connection:
            return {row.step: row.model_id for row in await connection.execute(query)}

    async def curve(self, job_id: str) -> list[tuple[int, int, float]]:
        """(sequence, step, loss) of every step event, without the bodies."""
        query = sa.select(events.c.sequence, events.c.step, events.c.loss)
        query = query.where(events.c.job_id == job_id, events.c.kind == "step").order_by(events.c.sequence)
        async with self._db.read() as connection:
            return [(row.sequence, row.step, row.loss) for row in await connection.execute(query)]

    async def at(self, job_id: str, sequences: Sequence[int]) -> list[Event]:
        """The events with these numbers, in order."""
        found = []
        async with self._db.read() as connection:
            for start in range(0, len(sequences), 500):  # SQLite bounds the parameters of one statement
                some = sequences[start : start + 500]
                query = sa.select(events).where(events.c.job_id == job_id, events.c.sequence.in_(some))
                found += [event_from_row(row) for row in await connection.execute(query.order_by(events.c.sequence))]
        return found
