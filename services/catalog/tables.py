"""The Catalog's tables, and their rows as domain values."""

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from services.catalog import domain
from services.common.rows import UtcTime

metadata = sa.MetaData()

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(36), unique=True),
    sa.Column("name", sa.String(100), unique=True, nullable=False),
    sa.Column("type", sa.String(50), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    # Kept with every upload and delete, in the same transaction; RefreshDataset recounts.
    sa.Column("num_items", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)

images = sa.Table(
    "images",
    metadata,
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
    sa.Column("created_at", UtcTime, nullable=False),
    # Of a clip; 0 for a picture.
    sa.Column("num_frames", sa.Integer, nullable=False, server_default="0"),
    sa.Column("frames_per_second", sa.Double, nullable=False, server_default="0"),
    sa.Column("mask_sha256", sa.String(64), nullable=False, server_default=""),
    sa.UniqueConstraint("dataset_id", "sha256", name="uq_images_dataset_sha256"),
    sqlite_autoincrement=True,
)
sa.Index("ix_images_dataset_id_id", images.c.dataset_id, images.c.id)

thumbnails = sa.Table(
    "thumbnails",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),  # of the original
    sa.Column("thumbnail_sha256", sa.String(64), nullable=False),
)

measures = sa.Table(
    "image_measures",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),  # of the image
    sa.Column("likeness", sa.String(16), nullable=False),  # 64 bits in hex: no database has them unsigned
    sa.Column("pixels", sa.String(64), nullable=False),
    sa.Column("sharpness", sa.Double, nullable=False),
    sa.Column("clipped", sa.Double, nullable=False),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("dataset_id", sa.Integer, nullable=False),  # no foreign key: a snapshot outlives its dataset
    sa.Column("num_items", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

snapshot_items = sa.Table(
    "snapshot_items",
    metadata,
    sa.Column("digest", sa.String(64), sa.ForeignKey("snapshots.digest"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("caption", sa.Text, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    # Of a clip; 0 for a picture.
    sa.Column("num_frames", sa.Integer, nullable=False, server_default="0"),
    sa.Column("frames_per_second", sa.Double, nullable=False, server_default="0"),
    sa.Column("mask_sha256", sa.String(64), nullable=False, server_default=""),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(36), unique=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("type", sa.String(50), nullable=False),
    sa.Column("category", sa.String(50), nullable=False),
    sa.Column("family", sa.String(50), nullable=False),
    sa.Column("layout", sa.String(50), nullable=False),
    # The guide's column: `stored:<digest>` or `hub:<repo id>@<revision>`.
    sa.Column("path", sa.String(500), nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("base_model_id", sa.Integer, sa.ForeignKey("models.id")),
    # A job has one outcome, and any number of checkpoints that were promoted.
    sa.Column("job_id", sa.String(36), unique=True),
    sa.Column("promoted_job_id", sa.String(36)),
    sa.Column("dataset_id", sa.Integer),
    sa.Column("snapshot_digest", sa.String(64), nullable=False),
    sa.Column("checkpoint_step", sa.Integer),
    sa.Column("trigger_words", sa.JSON, nullable=False),
    sa.Column("license", sa.String(100), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("native_resolution", sa.Integer, nullable=False),
    sa.Column("samples", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_models_base_model_id", models.c.base_model_id)

model_files = sa.Table(
    "model_files",
    metadata,
    sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

cover_image_id = (
    sa.select(sa.func.min(images.c.id))
    .where(images.c.dataset_id == datasets.c.id)
    .correlate(datasets)
    .scalar_subquery()
    .label("cover_image_id")
)


def dataset_from_row(row: Any) -> domain.Dataset:
    return domain.Dataset(
        id=row.id,
        name=row.name,
        type=domain.DatasetType(row.type),
        description=row.description,
        num_items=row.num_items,
        size_bytes=row.size_bytes,
        cover_image_id=row.cover_image_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def image_from_row(row: Any) -> domain.Image:
    return domain.Image(
        id=row.id,
        dataset_id=row.dataset_id,
        filename=row.filename,
        caption=row.caption,
        sha256=row.sha256,
        format=domain.ImageFormat(row.format),
        width=row.width,
        height=row.height,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        num_frames=row.num_frames,
        frames_per_second=row.frames_per_second,
        mask_sha256=row.mask_sha256,
    )


def image_to_row(image: domain.NewImage) -> dict[str, Any]:
    return {
        "filename": image.filename,
        "caption": image.caption,
        "sha256": image.sha256,
        "format": image.format.value,
        "width": image.width,
        "height": image.height,
        "size_bytes": image.size_bytes,
        "num_frames": image.num_frames,
        "frames_per_second": image.frames_per_second,
    }


def snapshot_from_row(row: Any) -> domain.Snapshot:
    return domain.Snapshot(row.digest, row.dataset_id, row.num_items, row.size_bytes, row.created_at)


def item_from_row(row: Any) -> domain.SnapshotItem:
    return domain.SnapshotItem(
        row.sha256,
        row.filename,
        row.caption,
        row.width,
        row.height,
        row.size_bytes,
        row.num_frames,
        row.frames_per_second,
        row.mask_sha256,
    )


def weights_to_path(weights: domain.StoredWeights | domain.HubWeights) -> str:
    if isinstance(weights, domain.HubWeights):
        return f"hub:{weights.repo_id}@{weights.revision}"
    return f"stored:{weights.digest}"


def model_from_row(row: Any, files: tuple[domain.ModelFile, ...]) -> domain.Model:
    weights: domain.StoredWeights | domain.HubWeights = domain.StoredWeights(files)
    if row.path.startswith("hub:"):
        repo_id, _, revision = row.path.removeprefix("hub:").partition("@")
        weights = domain.HubWeights(repo_id, revision)
    return domain.Model(
        id=row.id,
        name=row.name,
        type=domain.ModelType(row.type),
        category=domain.ModelCategory(row.category),
        family=domain.ModelFamily(row.family),
        layout=domain.WeightsLayout(row.layout),
        weights=weights,
        is_active=row.is_active,
        base_model_id=row.base_model_id,
        job_id=row.job_id or row.promoted_job_id or "",
        promoted=row.promoted_job_id is not None,
        dataset_id=row.dataset_id,
        snapshot_digest=row.snapshot_digest,
        checkpoint_step=row.checkpoint_step,
        trigger_words=tuple(row.trigger_words),
        license=row.license,
        description=row.description,
        native_resolution=row.native_resolution,
        samples=tuple(domain.Sample(**sample) for sample in row.samples),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def model_to_row(model: domain.NewModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "type": model.type.value,
        "category": model.category.value,
        "family": model.family.value,
        "layout": model.layout.value,
        "path": weights_to_path(model.weights),
        "base_model_id": model.base_model_id,
        "job_id": model.outcome_of or None,
        "promoted_job_id": model.job_id if model.promoted else None,
        "dataset_id": model.dataset_id,
        "snapshot_digest": model.snapshot_digest,
        "checkpoint_step": model.checkpoint_step,
        "trigger_words": list(model.trigger_words),
        "license": model.license,
        "description": model.description,
        "native_resolution": model.native_resolution,
        "samples": [asdict(sample) for sample in model.samples],
    }
