"""The Generator's tables, and their rows as domain values."""

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from services.common.rows import UtcTime
from services.generator import domain
from services.generator.remembered import settings_from_json, settings_to_json

metadata = sa.MetaData()


generations = sa.Table(
    "generations",
    metadata,
    # The order of arrival: the queue's order, and the gallery's backwards.
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("request_id", sa.String(36), unique=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("model_id", sa.Integer, nullable=False),
    sa.Column("model_name", sa.String(100), nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime),
    sa.Column("failure", sa.Text),
    sa.Column("warnings", sa.Text, nullable=False),
    sa.Column("principal", sa.String(200), nullable=False),
    # All prompts, case folded: what is searched.
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("is_kept", sa.Boolean, nullable=False),
    sa.Column("keeps_drawing", sa.Boolean, nullable=False),
    sa.Index("generations_by_model", "model_id", "number"),
    sa.Index("generations_by_status", "status", "number"),
)

pictures = sa.Table(
    "generated_images",
    metadata,
    sa.Column("generation_id", sa.String(36), sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("content_type", sa.String(50), nullable=False),
    # None of those from before these columns: as the settings say.
    sa.Column("prompt", sa.Text),
    sa.Column("negative_prompt", sa.Text),
    sa.Column("model_id", sa.Integer),
    sa.Column("lora_weight", sa.Float),
    sa.Column("verdict", sa.Text),
    sa.Column("is_sheet", sa.Boolean, nullable=False),
    sa.Column("num_frames", sa.Integer, nullable=False),
    sa.Index("generated_images_by_digest", "sha256"),
)

models = sa.Table(
    "generation_models",
    metadata,
    sa.Column("generation_id", sa.String(36), sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_id", sa.Integer, primary_key=True),
    sa.Index("generation_models_by_model", "model_id"),
)
"""Which models a generation is found by."""

inputs = sa.Table(
    "generation_inputs",
    metadata,
    sa.Column("generation_id", sa.String(36), sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Index("generation_inputs_by_digest", "sha256"),
)
"""The pictures that generations began with: their bytes stay as long as one of these names them."""


def generation_row(generation: domain.Generation) -> dict[str, Any]:
    settings = generation.settings
    prompts = [settings.prompt, *(settings.grid.prompts if settings.grid else ())]
    return {
        "id": generation.id,
        "request_id": generation.request_id,
        "status": generation.status.value,
        "model_id": settings.model_id,
        "model_name": generation.model_name,
        "settings": settings_to_json(settings),
        "created_at": generation.created_at,
        "finished_at": generation.finished_at,
        "failure": failure_text(generation.failure),
        "warnings": json.dumps(generation.warnings),
        "principal": generation.principal,
        "prompt": "\n".join(prompts).casefold(),
        "is_kept": generation.is_kept,
        "keeps_drawing": generation.keeps_drawing,
    }


def model_rows(generation: domain.Generation) -> list[dict[str, Any]]:
    settings = generation.settings
    found = {settings.model_id, *(lora.model_id for lora in settings.loras)}
    found |= set(settings.grid.model_ids) if settings.grid else set()
    return [{"generation_id": generation.id, "model_id": each} for each in sorted(found)]


def generation_of(row: sa.RowMapping, pictures: tuple[sa.RowMapping, ...] = ()) -> domain.Generation:
    settings = settings_from_json(row["settings"])
    return domain.Generation(
        id=row["id"],
        request_id=row["request_id"],
        status=domain.Status(row["status"]),
        settings=settings,
        model_name=row["model_name"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        failure=domain.Failure(**json.loads(row["failure"])) if row["failure"] else None,
        warnings=tuple(json.loads(row["warnings"])),
        pictures=tuple(picture_of(each, settings) for each in pictures),
        principal=row["principal"],
        is_kept=row["is_kept"],
        keeps_drawing=row["keeps_drawing"],
    )


def failure_text(failure: domain.Failure | None) -> str | None:
    return json.dumps(asdict(failure)) if failure else None


def picture_row(generation_id: str, picture: domain.Picture) -> dict[str, Any]:
    row = asdict(picture)
    verdict = picture.verdict
    row["verdict"] = json.dumps(verdict.concepts) if verdict is not None else None
    return {"generation_id": generation_id, "position": row.pop("index"), **row}


def picture_of(row: sa.RowMapping, settings: domain.Settings) -> domain.Picture:
    is_old = row["model_id"] is None
    return domain.Picture(
        index=row["position"],
        seed=row["seed"],
        sha256=row["sha256"],
        width=row["width"],
        height=row["height"],
        size_bytes=row["size_bytes"],
        content_type=row["content_type"],
        prompt=settings.prompt if is_old else row["prompt"],
        negative_prompt=settings.negative_prompt if is_old else row["negative_prompt"],
        model_id=settings.model_id if is_old else row["model_id"],
        lora_weight=settings.lora_weight if is_old else row["lora_weight"],
        verdict=domain.Verdict(tuple(json.loads(row["verdict"]))) if row["verdict"] is not None else None,
        is_sheet=row["is_sheet"],
        num_frames=row["num_frames"],
    )
