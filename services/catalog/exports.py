"""Models as files that other programs read."""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.catalog.domain import LORA_FILE, HubWeights, Model, StoredWeights, WeightsLayout
from services.catalog.kohya import to_kohya
from services.catalog.model_store import ModelStore
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition

CHUNK_BYTES = 1 << 20
DIFFUSERS, LORA_DIFFUSERS, LORA_KOHYA = "diffusers", "lora_diffusers", "lora_kohya"
# The hub knows licences by these names; others are written as they are, under `other`.
LICENSES = {
    "apache-2.0",
    "mit",
    "openrail",
    "creativeml-openrail-m",
    "openrail++",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
}
EPOCH = (1980, 1, 1, 0, 0, 0)
"""A zip's first date: equal models give equal zips."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file in the making. Iterating blocks: it reads the disk."""

    filename: str
    content_type: str
    pieces: Iterator[bytes]


async def export_model(models: ModelStore, blobs: BlobStore, model_id: int, format: str) -> Export:
    """Raises NotFound, and FailedPrecondition: the weights are on a hub, or are no LoRA. The pieces raise DataLoss when
    a file is gone, and FailedPrecondition where the format cannot hold the model."""
    model = await models.get(model_id)
    weights = model.weights
    if isinstance(weights, HubWeights):
        message = f"the weights of model {model_id} are on the hub: {weights.repo_id} at {weights.revision}"
        raise FailedPrecondition(message, reason="WEIGHTS_ON_HUB")
    name = _slug(model.name)
    if format == DIFFUSERS:
        base = await models.get(model.base_model_id) if model.base_model_id is not None else None
        return Export(f"{name}.zip", "application/zip", _zipped(weights, blobs, model_card(model, base)))
    if model.layout is not WeightsLayout.LORA:
        message = f"model {model_id} ({model.name!r}) is no LoRA: export it as diffusers has it"
        raise FailedPrecondition(message, reason="NOT_A_LORA")
    path = _path(blobs, weights, LORA_FILE)
    content = "application/octet-stream"
    if format == LORA_DIFFUSERS:
        return Export(f"{name}.safetensors", content, _read(path))
    return Export(f"{name}-kohya.safetensors", content, _kohya(path, model))


def model_card(model: Model, base: Model | None) -> str:
    """README.md as the hub's tools read it: YAML about the model, then what people read."""
    from huggingface_hub import ModelCard, ModelCardData

    tags = ["text-to-image", "diffusers", "atelier", *(["lora", "template:sd-lora"] if _is_lora(model) else [])]
    known = model.license.lower() in LICENSES
    about: dict[str, Any] = {"license": model.license.lower() if known else "other"} if model.license else {}
    if model.license and not known:
        about["license_name"] = model.license
    if base is not None:
        about["base_model"] = base.weights.repo_id if isinstance(base.weights, HubWeights) else base.name
    if model.trigger_words:
        about["instance_prompt"] = model.trigger_words[0]
    data = ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags, **about)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_card_text(model, base)}"))


def _card_text(model: Model, base: Model | None) -> str:
    lines = [f"# {model.name}", ""]
    lines += [model.description, ""] if model.description else []
    what = {True: "A LoRA", False: "Weights"}[_is_lora(model)]
    lines += [f"{what} trained with Atelier{f' on {base.name}' if base else ''}.", ""]
    facts = {
        "Trigger words": ", ".join(f"`{word}`" for word in model.trigger_words),
        "Resolution": f"{model.native_resolution} pixels" if model.native_resolution else "",
        "Step": str(model.checkpoint_step or ""),
        "Training job": model.job_id,
        "Dataset snapshot": model.snapshot_digest,
    }
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    if _is_lora(model):
        lines += [
            "",
            "```python",
            "pipeline.load_lora_weights(FOLDER)  # of a diffusers pipeline of the base model",
            "```",
        ]
    return "\n".join(lines) + "\n"


def _is_lora(model: Model) -> bool:
    return model.layout is WeightsLayout.LORA


def _zipped(weights: StoredWeights, blobs: BlobStore, card: str) -> Iterator[bytes]:
    """Stored and not deflated: weights do not shrink. One chunk is in memory at a time."""
    out = _Outgoing()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("README.md", EPOCH), card)
        for file in weights.files:
            entry = zipfile.ZipInfo(file.path, EPOCH)
            with archive.open(entry, "w", force_zip64=file.size_bytes >= 2**31) as target:
                for piece in _read(_path(blobs, weights, file.path)):
                    target.write(piece)
                    yield out.taken()
    yield out.taken()


class _Outgoing(io.RawIOBase):
    """What a zip writes, until it is taken."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        waiting, self._waiting = self._waiting, []
        return b"".join(waiting)


def _kohya(path: Path, model: Model) -> Iterator[bytes]:
    data = to_kohya(path, model)
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _path(blobs: BlobStore, weights: StoredWeights, name: str) -> Path:
    digest = next((file.sha256 for file in weights.files if file.path == name), "")
    try:
        return blobs.path(digest)
    except (BlobMissing, ValueError) as error:
        raise DataLoss(f"the weights file {name} is gone", reason="WEIGHTS_UNAVAILABLE") from error


def _slug(name: str) -> str:
    """A file name of what is plain in a model's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"
