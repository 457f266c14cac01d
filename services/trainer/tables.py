"""The Trainer's two tables, their rows as domain values, and the connections to them."""

from typing import Any

import sqlalchemy as sa

from services.common.rows import UtcTime
from services.trainer import domain
from services.trainer.codec import dump, load

metadata = sa.MetaData()


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
    sa.Column("pause_requested_at", UtcTime),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("trained", sa.Text),
    sa.Column("class_dataset_id", sa.Integer),
    sa.Column("class_snapshot_digest", sa.String(64), nullable=False),
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

# Checkpoints that are kept as models of their own; without a model where the registration has not come about.
promotions = sa.Table(
    "training_promotions",
    metadata,
    sa.Column("job_id", sa.String(36), sa.ForeignKey("training_jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model_id", sa.Integer),
)

KINDS: dict[str, type[domain.EventBody]] = {
    "queued": domain.Queued,
    "loading": domain.Loading,
    "step": domain.Progress,
    "validation": domain.Validation,
    "sample": domain.Sample,
    "checkpoint": domain.Checkpoint,
    "log": domain.Log,
    "lent": domain.Lent,
    "done": domain.Done,
    "failed": domain.Failure,
    "cancelled": domain.Cancelled,
    "paused": domain.Paused,
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
        priority=row.priority,
        failure=load(domain.Failure, row.failure) if row.failure else None,
        model_id=row.model_id,
        last_sequence=row.last_sequence,
        class_snapshot_digest=row.class_snapshot_digest,
        stage=domain.Stage(row.stage),
        token=row.token,
        last_report=row.last_report,
        log_offset=row.log_offset,
        cancel_requested_at=row.cancel_requested_at,
        pause_requested_at=row.pause_requested_at,
        losses=row.losses,
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
