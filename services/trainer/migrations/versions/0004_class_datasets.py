"""DreamBooth's class as a dataset, pinned like the other.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("class_dataset_id", sa.Integer))
    op.add_column("training_jobs", sa.Column("class_snapshot_digest", sa.String(64), nullable=False, server_default=""))
