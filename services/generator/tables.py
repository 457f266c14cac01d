"""The Generator's tables, and their rows as domain values."""

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from services.common.rows import UtcTime
from services.generator import domain

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
)


def generation_row(generation: domain.Generation) -> dict[str, Any]:
    return {
        "id": generation.id,
        "request_id": generation.request_id,
        "status": generation.status.value,
        "model_id": generation.settings.model_id,
        "model_name": generation.model_name,
        "settings": json.dumps(asdict(generation.settings)),
        "created_at": generation.created_at,
        "finished_at": generation.finished_at,
        "failure": failure_text(generation.failure),
        "warnings": json.dumps(generation.warnings),
    }


def generation_of(row: sa.RowMapping, pictures: tuple[domain.Picture, ...] = ()) -> domain.Generation:
    settings = json.loads(row["settings"])
    settings["loras"] = tuple(domain.LoraChoice(**lora) for lora in settings["loras"])
    if (begun_with := settings.get("image_to_image")) is not None:
        settings["image_to_image"] = _image_to_image_of(begun_with)
    for name, kind in (("format", domain.PictureFormat), ("prompt_syntax", domain.Syntax)):
        if name in settings:
            settings[name] = kind(settings[name])
    return domain.Generation(
        id=row["id"],
        request_id=row["request_id"],
        status=domain.Status(row["status"]),
        settings=domain.Settings(**settings),
        model_name=row["model_name"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        failure=domain.Failure(**json.loads(row["failure"])) if row["failure"] else None,
        warnings=tuple(json.loads(row["warnings"])),
        pictures=pictures,
    )


def _image_to_image_of(saved: dict[str, Any]) -> domain.ImageToImage:
    def picture(about: dict[str, Any]) -> domain.InputPicture:
        generated = about["generated"]
        return domain.InputPicture(about["sha256"], tuple(generated) if generated else None)

    mask = picture(saved["mask"]) if saved["mask"] else None
    return domain.ImageToImage(picture(saved["image"]), saved["strength"], mask, saved["mask_blur"])


def failure_text(failure: domain.Failure | None) -> str | None:
    return json.dumps(asdict(failure)) if failure else None


def picture_row(generation_id: str, picture: domain.Picture) -> dict[str, Any]:
    row = asdict(picture)
    return {"generation_id": generation_id, "position": row.pop("index"), **row}


def picture_of(row: sa.RowMapping) -> domain.Picture:
    return domain.Picture(row["position"], row["seed"], row["sha256"], row["width"], row["height"], row["size_bytes"])
