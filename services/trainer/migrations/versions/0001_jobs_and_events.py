"""Training jobs and their events.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "training_jobs",
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
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("queued_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("progress", sa.Text),
        sa.Column("failure", sa.Text),
        sa.Column("model_id", sa.Integer),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("announced_position", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("last_report", sa.BigInteger, nullable=False),
        sa.Column("log_offset", sa.BigInteger, nullable=False),
        sa.Column("lease_expires_at", TIME),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("trained", sa.Text),
    )
    op.create_index("training_jobs_by_status", "training_jobs", ["status", "queued_at", "id"])
    op.create_index("training_jobs_by_age", "training_jobs", ["created_at", "id"])
    op.create_index("training_jobs_by_dataset", "training_jobs", ["dataset_id"])
    op.create_table(
        "training_events",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("training_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("loss", sa.Double),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("training_events_by_kind", "training_events", ["job_id", "kind", "sequence"])


def downgrade() -> None:
    op.drop_table("training_events")
    op.drop_table("training_jobs")
