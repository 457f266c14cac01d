"""What the Trainer remembers. A move of a job is one UPDATE whose WHERE decides, its events in the same transaction."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import NotFound
from services.common.rows import Transactions, UtcTime, now
from services.trainer import domain
from services.trainer.codec import dump
from services.trainer.domain import Appended, Event, EventBody, Job, JobStatus, Stage
from services.trainer.journal import Journal
from services.trainer.tables import event_to_row, events, job_from_row, jobs, promotions

MOST_LOSSES = 3
"""Workers that may be lost without a checkpoint between them: what kills each of them would kill the next."""
TURN = (jobs.c.priority.desc(), jobs.c.queued_at, jobs.c.id)
"""In which order queued jobs are trained."""
QUEUED_AGAIN = "the worker was stopped or lost; the job is queued again and goes on from its last checkpoint"
ANNOUNCED = 100
"""Queued jobs that hear of their place when the queue moves; those further behind hear when they come near."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    status: JobStatus | None = None
    dataset_id: int | None = None
    unfinished: bool = False


def _unless_set(column: sa.Column[datetime]) -> sa.ColumnElement[datetime]:
    """The column, or now where it is empty."""
    return sa.func.coalesce(column, sa.literal(now(), UtcTime()))


def _training(token: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Still the attempt of this token, and still training."""
    return (
        jobs.c.token == token,
        jobs.c.status == JobStatus.RUNNING.value,
        jobs.c.stage == Stage.TRAINING.value,
    )


def _ended(status: JobStatus) -> dict[str, object]:
    return {"status": status.value, "stage": "", "finished_at": now(), "lease_expires_at": None}


def _idle(status: JobStatus) -> dict[str, object]:
    """Without a worker: the attempt's token is worth nothing any more. `queued_at`, the place in the queue, stays."""
    return {
        **dict.fromkeys(("stage", "token", "owner"), ""),
        **dict.fromkeys(("lease_expires_at", "pause_requested_at"), None),
        "status": status.value,
    }


def _anew() -> dict[str, object]:
    """Queued by somebody's wish, last of its priority; what was wished and what went wrong before is forgotten."""
    forgotten = ("finished_at", "failure", "cancel_requested_at")
    return {**_idle(JobStatus.QUEUED), "queued_at": now(), "losses": 0, **dict.fromkeys(forgotten, None)}


class Store:
    """Jobs in a database, SQLite or Postgres, and their events as they happen; `journal` reads them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._db = Transactions(engine, "the Trainer")
        self.journal = Journal(self._db)

    # --- reading ---

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        async with self._db.snapshot() as connection:
            row = (await connection.execute(sa.select(jobs).where(jobs.c.id == job_id))).one_or_none()
            if row is None:
                raise NotFound("training job", job_id)
            position = await self._position(connection, row) if row.status == JobStatus.QUEUED.value else 0
            return job_from_row(row, position)

    async def find_request(self, request_id: str) -> Job | None:
        """The job that a create request with this id made."""
        async with self._db.read() as connection:
            id = await connection.scalar(sa.select(jobs.c.id).where(jobs.c.request_id == request_id))
        return await self.get(id) if id else None

    async def list_jobs(
        self, where: JobFilter, *, limit: int, before: tuple[datetime, str] | None = None
    ) -> tuple[list[Job], int]:
        """Newest first, those older than `before` (created_at, id); and how many match in all."""
        conditions = []
        if where.status is not None:
            conditions.append(jobs.c.status == where.status.value)
        if where.dataset_id is not None:
            conditions.append(
                sa.or_(*(each == where.dataset_id for each in (jobs.c.dataset_id, jobs.c.class_dataset_id)))
            )
        if where.unfinished:
            conditions.append(jobs.c.status.in_([status.value for status in domain.UNFINISHED]))
        page = sa.select(jobs).where(*conditions).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        if before is not None:
            created_at, id = before
            older = sa.and_(jobs.c.created_at == created_at, jobs.c.id < id)
            page = page.where(sa.or_(jobs.c.created_at < created_at, older))
        async with self._db.snapshot() as connection:
            total = await connection.scalar(sa.select(sa.func.count()).select_from(jobs).where(*conditions))
            rows = (await connection.execute(page)).all()
            queued = (await connection.scalars(self._queue())).all() if rows else []
        places = {id: place for place, id in enumerate(queued, start=1)}
        return [job_from_row(row, places.get(row.id, 0)) for row in rows], total or 0

    async def running(self, owner: str) -> list[Job]:
        """The jobs that this replica runs."""
        return await self._select(jobs.c.status == JobStatus.RUNNING.value, jobs.c.owner == owner)

    async def expired(self) -> list[Job]:
        """Running jobs, of any replica, whose lease is over."""
        return await self._select(jobs.c.status == JobStatus.RUNNING.value, jobs.c.lease_expires_at < now())

    # --- moving ---

    async def create(self, new: domain.NewJob) -> Job:
        """Stores a pending job; a request id that is known answers the job it made."""
        row = {
            **{name: getattr(new, name) for name in ("id", "request_id", "dataset_id", "base_model_id", "output_name")},
            "snapshot_digest": new.snapshot_digest,
            "class_dataset_id": new.config.dreambooth.class_dataset_id if new.config.dreambooth else None,
            "class_snapshot_digest": new.class_snapshot_digest,
            "num_items": new.num_items,
            "type": new.method.value,
            "config": dump(new.config),
            "status": JobStatus.PENDING.value,
            "created_at": now(),
            **dict.fromkeys(("last_sequence", "announced_position", "last_report", "log_offset"), 0),
            **dict.fromkeys(("losses", "priority"), 0),
            **dict.fromkeys(("stage", "owner", "token"), ""),
        }
        try:
            async with self._db.begin() as connection:
                await connection.execute(sa.insert(jobs).values(row))
        except sa.exc.IntegrityError:
            earlier = await self.find_request(new.request_id) if new.request_id else None
            if earlier is None:
                raise
            return earlier
        return await self.get(new.id)

    async def queue(self, job_id: str, *, since: Collection[JobStatus] = (JobStatus.PENDING,)) -> Appended | None:
        """From one of these statuses into the queue. None when it has none of them."""
        async with self._db.begin() as connection:
            waiting = jobs.c.status.in_([status.value for status in since])
            moved = await self._move(connection, job_id, waiting, jobs.c.trained.is_(None), values=_anew())
            return moved and await self._announce(connection, moved.job)

    async def register_again(self, job_id: str) -> Appended | None:
        """A failed job whose model was trained: its registration is whoever's takes it first. None for all others."""
        values = {
            "status": JobStatus.RUNNING.value,
            "stage": Stage.REGISTERING.value,
            "token": uuid.uuid4().hex,
            "lease_expires_at": now(),
            **dict.fromkeys(("finished_at", "failure"), None),
        }
        trained = (jobs.c.status == JobStatus.FAILED.value, jobs.c.trained.is_not(None))
        bodies = [domain.Loading(domain.LoadingStage.REGISTERING)]
        async with self._db.begin() as connection:
            return await self._move(connection, job_id, *trained, values=values, bodies=bodies)

    async def prioritize(self, job_id: str, priority: int) -> Appended | None:
        """None when it has ended."""
        going = jobs.c.status.in_([status.value for status in domain.UNFINISHED])
        async with self._db.begin() as connection:
            return await self._move(connection, job_id, going, values={"priority": priority})

    async def claim(self, *, owner: str, token: str, lease_seconds: float) -> Appended | None:
        """Leases the next job to `owner`; of several claimers each gets another. None: the queue is empty."""
        next_id = self._queue().limit(1).with_for_update(skip_locked=True).scalar_subquery()
        values = {
            "status": JobStatus.RUNNING.value,
            "stage": Stage.TRAINING.value,
            "owner": owner,
            "token": token,
            "started_at": _unless_set(jobs.c.started_at),
            "lease_expires_at": now() + timedelta(seconds=lease_seconds),
            **dict.fromkeys(("announced_position", "last_report", "log_offset"), 0),
        }
        starting = domain.Loading(domain.LoadingStage.STARTING_WORKER)
        async with self._db.begin() as connection:
            queued = jobs.c.status == JobStatus.QUEUED.value
            return await self._move(connection, next_id, queued, values=values, bodies=[starting])

    async def renumber_queue(self) -> list[Appended]:
        """Tells queued jobs whose place has changed."""
        told = []
        async with self._db.read() as connection:
            queue = sa.select(jobs.c.id, jobs.c.announced_position).where(jobs.c.status == JobStatus.QUEUED.value)
            ordered = queue.order_by(*TURN).limit(ANNOUNCED)
            rows = (await connection.execute(ordered)).all()
        moved = [(row.id, place) for place, row in enumerate(rows, start=1) if row.announced_position != place]
        for id, place in moved:
            conditions = (jobs.c.status == JobStatus.QUEUED.value, jobs.c.announced_position != place)
            async with self._db.begin() as connection:
                values = {"announced_position": place}
                one = await self._move(connection, id, *conditions, values=values, bodies=[domain.Queued(place)])
            told += [one] if one else []
        return told

    async def renew(self, job_id: str, token: str, *, lease_seconds: float) -> bool:
        """The attempt lives. False: it is no longer the job's."""
        values = {"lease_expires_at": now() + timedelta(seconds=lease_seconds)}
        async with self._db.begin() as connection:
            running = jobs.c.status == JobStatus.RUNNING.value
            return await self._move(connection, job_id, jobs.c.token == token, running, values=values) is not None

    async def append_reports(
        self, job_id: str, token: str, *, first: int, reports: Sequence[domain.Report], lease_seconds: float
    ) -> Appended | None:
        """Stores a worker's reports `first`, `first + 1`, ... and what they mean for the job, in one transaction.

        None: the attempt is no longer the job's, or `first` is not what comes next.
        """
        values: dict[str, object] = {
            "last_report": first + len(reports) - 1,
            "lease_expires_at": now() + timedelta(seconds=lease_seconds),
        }
        conditions = (*_training(token), jobs.c.last_report == first - 1)
        bodies: list[EventBody] = [report for report in reports if not isinstance(report, domain.Trained)]
        steps = [body for body in bodies if isinstance(body, domain.Progress)]
        if steps:
            values["progress"] = dump(steps[-1])
        if any(isinstance(body, domain.Checkpoint) for body in bodies):
            values["losses"] = 0
        async with self._db.begin() as connection:
            match reports[-1]:
                case domain.Trained() as trained:
                    values |= {"stage": Stage.REGISTERING.value, "trained": dump(trained)}
                    bodies.append(domain.Loading(domain.LoadingStage.REGISTERING))
                case domain.Failure() as failure:
                    values |= {**_ended(JobStatus.FAILED), "failure": dump(failure)}
                case domain.Cancelled() | domain.Paused():
                    return await self._stopped(connection, job_id, *conditions, values=values, bodies=bodies)
            return await self._move(connection, job_id, *conditions, values=values, bodies=bodies)

    async def append_output(
        self, job_id: str, token: str, lines: Sequence[domain.Log], log_offset: int
    ) -> Appended | None:
        """Stores what a worker printed, and up to where its output has been read."""
        async with self._db.begin() as connection:
            values = {"log_offset": log_offset}
            return await self._move(connection, job_id, *_training(token), values=values, bodies=lines)

    async def request_pause(self, job_id: str) -> Appended | None:
        """Pauses a queued job; notes the wish for one in training. None for all others."""
        queued = jobs.c.status == JobStatus.QUEUED.value
        training = (jobs.c.status == JobStatus.RUNNING.value, jobs.c.stage == Stage.TRAINING.value)
        async with self._db.begin() as connection:
            idle = _idle(JobStatus.PAUSED)
            moved = await self._move(connection, job_id, queued, values=idle, bodies=[domain.Paused()])
            asked = {"pause_requested_at": _unless_set(jobs.c.pause_requested_at)}
            return moved or await self._move(
                connection, job_id, *training, jobs.c.cancel_requested_at.is_(None), values=asked
            )

    async def withdraw_pause(self, job_id: str) -> Appended | None:
        """A job in training that was to pause goes on. None for all others."""
        asked = (jobs.c.status == JobStatus.RUNNING.value, jobs.c.pause_requested_at.is_not(None))
        async with self._db.begin() as connection:
            return await self._move(connection, job_id, *asked, values={"pause_requested_at": None})

    async def request_cancel(self, job_id: str) -> Appended | None:
        """Cancels a waiting job; notes the wish for one in training. None for all others."""
        idle = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.PAUSED)
        waiting = jobs.c.status.in_([status.value for status in idle])
        training = (jobs.c.status == JobStatus.RUNNING.value, jobs.c.stage == Stage.TRAINING.value)
        async with self._db.begin() as connection:
            ended = _ended(JobStatus.CANCELLED)
            moved = await self._move(connection, job_id, waiting, values=ended, bodies=[domain.Cancelled()])
            asked = {"cancel_requested_at": _unless_set(jobs.c.cancel_requested_at)}
            return moved or await self._move(connection, job_id, *training, values=asked)

    async def end_attempt(
        self,
        job_id: str,
        token: str,
        failure: domain.Failure,
        lines: Sequence[domain.Log] = (),
        *,
        expired: bool = False,
    ) -> Appended | None:
        """A worker is gone without a last word: its job is cancelled or paused if that was wished. Else it is queued
        again, or has failed if the worker could not be started or too many were lost. None: it had a last word.

        With `expired` only if its lease is still over.
        """
        training = [*_training(token), *([jobs.c.lease_expires_at < now()] if expired else [])]
        async with self._db.begin() as connection:
            asked = (*training, jobs.c.cancel_requested_at.is_not(None))
            ended = _ended(JobStatus.CANCELLED)
            bodies: list[EventBody] = [*lines, domain.Cancelled()]
            if moved := await self._move(connection, job_id, *asked, values=ended, bodies=bodies):
                return moved
            lost = {"losses": jobs.c.losses + 1}
            if failure.reason == "WORKER_LOST":
                bodies = [*lines, domain.Log(domain.LogLevel.ERROR, failure.message)]
                asked = (*training, jobs.c.pause_requested_at.is_not(None))
                idle = lost | _idle(JobStatus.PAUSED)
                if moved := await self._move(
                    connection, job_id, *asked, values=idle, bodies=[*bodies, domain.Paused()]
                ):
                    return moved
                few = (*training, jobs.c.losses < MOST_LOSSES - 1)
                if moved := await self._back(connection, job_id, *few, values=lost, bodies=bodies):
                    return moved
            values = {**_ended(JobStatus.FAILED), "failure": dump(failure)}
            return await self._move(connection, job_id, *training, values=values, bodies=[*lines, failure])

    async def requeue(self, job_id: str, token: str) -> Appended | None:
        """Takes a job back from its worker into the queue, unless it was to be cancelled or paused."""
        unasked = (jobs.c.cancel_requested_at.is_(None), jobs.c.pause_requested_at.is_(None))
        async with self._db.begin() as connection:
            return await self._back(connection, job_id, *_training(token), *unasked)

    async def take_registration(self, job_id: str, token: str, *, owner: str, lease_seconds: float) -> Job | None:
        """Takes over the registering of a trained model from a replica that was at `token`; one taker wins."""
        lease = now() + timedelta(seconds=lease_seconds)
        values = {"owner": owner, "token": uuid.uuid4().hex, "lease_expires_at": lease}
        registering = (jobs.c.token == token, jobs.c.stage == Stage.REGISTERING.value)
        async with self._db.begin() as connection:
            moved = await self._move(connection, job_id, *registering, values=values)
        return moved.job if moved else None

    async def complete(self, job_id: str, done: domain.Done) -> Appended | None:
        """The model is registered. None: the job is no longer at that."""
        values = {**_ended(JobStatus.COMPLETED), "model_id": done.model_id}
        return await self._end_registration(job_id, values, done)

    async def fail_registration(self, job_id: str, failure: domain.Failure) -> Appended | None:
        """The model could not be registered; `trained` is kept."""
        return await self._end_registration(job_id, {**_ended(JobStatus.FAILED), "failure": dump(failure)}, failure)

    async def promote(self, job_id: str, step: int) -> None:
        """From now on the checkpoint of this step is kept; again is no harm."""
        async with self._db.begin() as connection:
            known = sa.exists().where(promotions.c.job_id == job_id, promotions.c.step == step)
            row = sa.select(sa.literal(job_id), sa.literal(step)).where(~known)
            await connection.execute(sa.insert(promotions).from_select(["job_id", "step"], row))

    async def note_promoted(self, job_id: str, step: int, model_id: int | None) -> None:
        """The promoted checkpoint is this model; None: it is not promoted after all, unless it is a model already."""
        which = (promotions.c.job_id == job_id, promotions.c.step == step)
        async with self._db.begin() as connection:
            if model_id is None:
                await connection.execute(sa.delete(promotions).where(*which, promotions.c.model_id.is_(None)))
            else:
                await connection.execute(sa.update(promotions).where(*which).values(model_id=model_id))

    async def delete(self, job_id: str) -> bool:
        """Deletes a job without a worker and its events. False when it is queued, running or not there."""
        deletable = [status.value for status in (*domain.ENDED, JobStatus.PENDING, JobStatus.PAUSED)]
        async with self._db.begin() as connection:
            query = sa.delete(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(deletable)).returning(jobs.c.id)
            return await connection.scalar(query) is not None

    # --- how ---

    async def _end_registration(self, job_id: str, values: Mapping[str, object], body: EventBody) -> Appended | None:
        registering = (jobs.c.status == JobStatus.RUNNING.value, jobs.c.stage == Stage.REGISTERING.value)
        async with self._db.begin() as connection:
            return await self._move(connection, job_id, *registering, values=values, bodies=[body])

    async def _move(
        self,
        connection: AsyncConnection,
        job_id: str | sa.ScalarSelect[str],
        *where: sa.ColumnElement[bool],
        values: Mapping[str, object],
        bodies: Sequence[EventBody] = (),
    ) -> Appended | None:
        """One UPDATE that wins or does nothing (None), and the events of it. The row's lock orders their numbers.

        A change of status happens only where the table of legal moves has it.
        """
        update = sa.update(jobs).where(jobs.c.id == job_id, *where)
        if "status" in values:
            legal = [status.value for status in domain.sources(JobStatus(values["status"]))]
            update = update.where(jobs.c.status.in_(legal))
        update = update.values(last_sequence=jobs.c.last_sequence + len(bodies), **values).returning(*jobs.c)
        row = (await connection.execute(update)).one_or_none()
        if row is None:
            return None
        at, first = now(), row.last_sequence - len(bodies) + 1
        stored = tuple(Event(sequence, at, body) for sequence, body in enumerate(bodies, start=first))
        if stored:
            await connection.execute(sa.insert(events), [event_to_row(row.id, event) for event in stored])
        return Appended(job_from_row(row), stored)

    async def _stopped(
        self,
        connection: AsyncConnection,
        job_id: str,
        *where: sa.ColumnElement[bool],
        values: Mapping[str, object],
        bodies: Sequence[EventBody],
    ) -> Appended | None:
        """After a worker's last word, Cancelled or Paused: what was wished last decides. Where nothing was, it was
        stopped from outside, and its job runs again."""
        said = bodies[:-1]
        cancelled = {**values, **_ended(JobStatus.CANCELLED)}
        asked = (*where, jobs.c.cancel_requested_at.is_not(None))
        if moved := await self._move(connection, job_id, *asked, values=cancelled, bodies=[*said, domain.Cancelled()]):
            return moved
        paused = {**values, **_idle(JobStatus.PAUSED)}
        asked = (*where, jobs.c.pause_requested_at.is_not(None))
        if moved := await self._move(connection, job_id, *asked, values=paused, bodies=[*said, domain.Paused()]):
            return moved
        return await self._back(connection, job_id, *where, values=values, bodies=said)

    async def _back(
        self,
        connection: AsyncConnection,
        job_id: str,
        *where: sa.ColumnElement[bool],
        values: Mapping[str, object] = MappingProxyType({}),
        bodies: Sequence[EventBody] = (),
    ) -> Appended | None:
        """Back into the queue, at its old place, from a worker that has gone."""
        line = domain.Log(domain.LogLevel.WARNING, QUEUED_AGAIN)
        back = {**values, **_idle(JobStatus.QUEUED)}
        moved = await self._move(connection, job_id, *where, values=back, bodies=[*bodies, line])
        return moved and await self._announce(connection, moved.job, moved.events)

    async def _announce(self, connection: AsyncConnection, job: Job, before: tuple[Event, ...] = ()) -> Appended:
        """Gives a job that has just been queued its place and the event that says so."""
        row = (await connection.execute(sa.select(jobs).where(jobs.c.id == job.id))).one()
        place = await self._position(connection, row)
        values = {"announced_position": place}
        queued = jobs.c.status == JobStatus.QUEUED.value
        moved = await self._move(connection, job.id, queued, values=values, bodies=[domain.Queued(place)])
        assert moved is not None, "this transaction queued it"
        row = (await connection.execute(sa.select(jobs).where(jobs.c.id == job.id))).one()
        return Appended(job_from_row(row, place), before + moved.events)

    async def _position(self, connection: AsyncConnection, row: sa.Row[Any]) -> int:
        same = sa.and_(jobs.c.queued_at == row.queued_at, jobs.c.id <= row.id)
        earlier = sa.and_(jobs.c.priority == row.priority, sa.or_(jobs.c.queued_at < row.queued_at, same))
        ahead = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == JobStatus.QUEUED.value)
        return await connection.scalar(ahead.where(sa.or_(jobs.c.priority > row.priority, earlier))) or 0

    async def _select(self, *where: sa.ColumnElement[bool]) -> list[Job]:
        async with self._db.read() as connection:
            rows = await connection.execute(sa.select(jobs).where(*where).order_by(jobs.c.started_at, jobs.c.id))
            return [job_from_row(row) for row in rows]

    @staticmethod
    def _queue() -> sa.Select[tuple[str]]:
        waiting = jobs.c.status == JobStatus.QUEUED.value
        return sa.select(jobs.c.id).where(waiting).order_by(*TURN)
