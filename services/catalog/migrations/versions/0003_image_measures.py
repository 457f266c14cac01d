"""What is measured of pictures.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_measures",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("likeness", sa.String(16), nullable=False),
        sa.Column("pixels", sa.String(64), nullable=False),
        sa.Column("sharpness", sa.Double, nullable=False),
        sa.Column("clipped", sa.Double, nullable=False),
    )
