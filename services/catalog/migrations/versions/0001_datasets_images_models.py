"""Datasets, images, snapshots and models.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
FIRST_REGISTERED_MODEL_ID = 101


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(36), unique=True),
        sa.Column("name", sa.String(100), unique=True, nullable=False),
        sa.Column("type", sa.String(50), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("num_items", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("dataset_id", sa.Integer, sa.ForeignKey("datasets.id", ondelete="CASCADE"), nullable=False),
        sa.Column("request_id", sa.String(36), unique=True),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("caption", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("format", sa.String(10), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.UniqueConstraint("dataset_id", "sha256", name="uq_images_dataset_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_images_dataset_id_id", "images", ["dataset_id", "id"])
    op.create_table(
        "thumbnails",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("thumbnail_sha256", sa.String(64), nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("num_items", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "snapshot_items",
        sa.Column("digest", sa.String(64), sa.ForeignKey("snapshots.digest"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("caption", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(36), unique=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("type", sa.String(50), nullable=False),
        sa.Column("category", sa.String(50), nullable=False),
        sa.Column("family", sa.String(50), nullable=False),
        sa.Column("layout", sa.String(50), nullable=False),
        sa.Column("path", sa.String(500), nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("base_model_id", sa.Integer, sa.ForeignKey("models.id")),
        sa.Column("job_id", sa.String(36), unique=True),
        sa.Column("dataset_id", sa.Integer),
        sa.Column("snapshot_digest", sa.String(64), nullable=False),
        sa.Column("checkpoint_step", sa.Integer),
        sa.Column("trigger_words", sa.JSON, nullable=False),
        sa.Column("license", sa.String(100), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("native_resolution", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_models_base_model_id", "models", ["base_model_id"])
    op.create_table(
        "model_files",
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("path", sa.String(255), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
    # Registered models start behind the ids that are kept for seeded ones.
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('models', {FIRST_REGISTERED_MODEL_ID - 1})")
    else:
        op.execute(f"ALTER SEQUENCE models_id_seq RESTART WITH {FIRST_REGISTERED_MODEL_ID}")
