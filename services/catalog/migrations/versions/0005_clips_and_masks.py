"""Clips, and what of a picture counts.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("images", "snapshot_items"):
        op.add_column(table, sa.Column("num_frames", sa.Integer, nullable=False, server_default="0"))
        op.add_column(table, sa.Column("frames_per_second", sa.Double, nullable=False, server_default="0"))
        op.add_column(table, sa.Column("mask_sha256", sa.String(64), nullable=False, server_default=""))
