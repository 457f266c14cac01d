"""The gallery: who asked, what is kept, which models and input pictures a generation has; what a picture is.

Revision ID: 0002
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _added() -> list[sa.Column[Any]]:
    return [
        sa.Column("principal", sa.String(200), nullable=False, server_default=""),
        sa.Column("prompt", sa.Text, nullable=False, server_default=""),
        sa.Column("is_kept", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("keeps_drawing", sa.Boolean, nullable=False, server_default=sa.false()),
    ]


def _added_to_pictures() -> list[sa.Column[Any]]:
    return [
        sa.Column("content_type", sa.String(50), nullable=False, server_default="image/png"),
        sa.Column("prompt", sa.Text),
        sa.Column("negative_prompt", sa.Text),
        sa.Column("model_id", sa.Integer),
        sa.Column("lora_weight", sa.Float),
        sa.Column("verdict", sa.Text),
        sa.Column("is_sheet", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("num_frames", sa.Integer, nullable=False, server_default="0"),
    ]


def upgrade() -> None:
    for column in _added():
        op.add_column("generations", column)
    for column in _added_to_pictures():
        op.add_column("generated_images", column)
    op.create_index("generated_images_by_digest", "generated_images", ["sha256"])
    models = op.create_table(
        "generation_models",
        sa.Column("generation_id", sa.String(36), _own(), primary_key=True),
        sa.Column("model_id", sa.Integer, primary_key=True),
    )
    op.create_index("generation_models_by_model", "generation_models", ["model_id"])
    op.create_table(
        "generation_inputs",
        sa.Column("generation_id", sa.String(36), _own(), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("generation_inputs_by_digest", "generation_inputs", ["sha256"])
    _fill(models)


def _own() -> sa.ForeignKey:
    return sa.ForeignKey("generations.id", ondelete="CASCADE")


def _fill(models: sa.Table) -> None:
    """What generations from before are found by."""
    connection = op.get_bind()
    generations = sa.table("generations", sa.column("id"), sa.column("settings"), sa.column("prompt"))
    for id, text in connection.execute(sa.select(generations.c.id, generations.c.settings)).all():
        settings = json.loads(text)
        found = {settings["model_id"], *(lora["model_id"] for lora in settings["loras"])}
        connection.execute(models.insert(), [{"generation_id": id, "model_id": each} for each in sorted(found)])
        prompt = settings["prompt"].casefold()
        connection.execute(generations.update().where(generations.c.id == id).values(prompt=prompt))


def downgrade() -> None:
    op.drop_table("generation_inputs")
    op.drop_table("generation_models")
    op.drop_index("generated_images_by_digest", "generated_images")
    for column in _added_to_pictures():
        op.drop_column("generated_images", column.name)
    for column in _added():
        op.drop_column("generations", column.name)
