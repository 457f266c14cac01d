"""The Trainer's two tables, their rows as domain values, and the connections to them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import Unavailable
from services.trainer import domain
from services.trainer.codec import dump, load

metadata = sa.MetaData()


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


jobs = sa.Table(
    "training_jobs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("request_id", sa.String(36), unique=True),
    sa.Column("dataset_id", sa.Integer, nullable=False),
    sa.Column("base_model_id", sa.Integer, nullable=False),
    sa.Column("type", sa.String(50), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("stage", sa.String(20), nullable=False),
    sa.Column("output_name", sa.String(100), nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("snapshot_digest", sa.String(64), nullable=False),
    sa.Column("num_items", sa.BigInteger, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("queued_at", UtcTime),
    sa.Column("started_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.Column("progress", sa.Text),
    sa.Column("failure", sa.Text),
    sa.Column("model_id", sa.Integer),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("announced_position", sa.Integer, nullable=False),
    # The lease: who runs the job, the attempt's secret, and until when it is believed to live.
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("last_report", sa.BigInteger, nullable=False),
    sa.Column("log_offset", sa.BigInteger, nullable=False),
    sa.Column("lease_expires_at", UtcTime),
    sa.Column("cancel_requested_at", UtcTime),
    sa.Column("trained", sa.Text),
)

# One row an event. The body is typed JSON and not protobuf, so that the store knows no wire format and a row can be
# read with any database tool; step and loss have columns of their own because the loss curve is thinned by them.
events = sa.Table(
    "training_events",
    metadata,
    sa.Column("job_id", sa.String(36), sa.ForeignKey("training_jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("loss", sa.Double),
    sa.Column("body", sa.Text, nullable=False),
)

KINDS: dict[str, type[domain.EventBody]] = {
    "queued": domain.Queued,
    "loading": domain.Loading,
    "step": domain.Progress,
    "sample": domain.Sample,
    "checkpoint": domain.Checkpoint,
    "log": domain.Log,
    "done": domain.Done,
    "failed": domain.Failure,
    "cancelled": domain.Cancelled,
}
KIND_OF = {kind: name for name, kind in KINDS.items()}


def job_from_row(row: sa.Row[Any], queue_position: int = 0) -> domain.Job:
    return domain.Job(
        id=row.id,
        status=domain.JobStatus(row.status),
        dataset_id=row.dataset_id,
        base_model_id=row.base_model_id,
        method=domain.Method(row.type),
        output_name=row.output_name,
        config=load(domain.TrainingConfig, row.config),
        snapshot_digest=row.snapshot_digest,
        num_items=row.num_items,
        created_at=row.created_at,
        queued_at=row.queued_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        progress=load(domain.Progress, row.progress) if row.progress else None,
        queue_position=queue_position,
        failure=load(domain.Failure, row.failure) if row.failure else None,
        model_id=row.model_id,
        last_sequence=row.last_sequence,
        stage=domain.Stage(row.stage),
        token=row.token,
        last_report=row.last_report,
        log_offset=row.log_offset,
        cancel_requested_at=row.cancel_requested_at,
        trained=load(domain.Trained, row.trained) if row.trained else None,
    )


def event_from_row(row: sa.Row[Any]) -> domain.Event:
    return domain.Event(row.sequence, row.created_at, load(KINDS[row.kind], row.body))


def event_to_row(job_id: str, event: domain.Event) -> dict[str, object]:
    body = event.body
    return {
        "job_id": job_id,
        "sequence": event.sequence,
        "created_at": event.created_at,
        "kind": KIND_OF[type(body)],
        "step": body.step if isinstance(body, domain.Progress | domain.Sample | domain.Checkpoint) else None,
        "loss": body.loss if isinstance(body, domain.Progress) else None,
        "body": dump(body),
    }


@contextmanager
def _database_errors() -> Iterator[None]:
    """A database out of reach as Unavailable: the same call may succeed later."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise Unavailable("the Trainer's database does not answer", reason="DATABASE_UNAVAILABLE") from error


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read with. Raises Unavailable."""
    with _database_errors():
        async with engine.connect() as connection:
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction, committed at the end or undone by an error. Raises Unavailable."""
    with _database_errors():
        async with engine.begin() as connection:
            yield connection
