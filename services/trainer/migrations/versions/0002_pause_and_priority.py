"""Pausing, lost workers counted, priorities.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True)))
    op.add_column("training_jobs", sa.Column("losses", sa.Integer, nullable=False, server_default="0"))
    op.add_column("training_jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
