"""Models as files that other programs read."""

import asyncio
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.catalog.cards import is_lora, model_card
from services.catalog.domain import LORA_FILE, HubWeights, Model, StoredWeights
from services.catalog.kohya import to_kohya
from services.catalog.model_store import ModelStore
from services.catalog.records import training_record
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition

CHUNK_BYTES = 1 << 20
DIFFUSERS, LORA_DIFFUSERS, LORA_KOHYA = "diffusers", "lora_diffusers", "lora_kohya"
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
    weights = stored_weights(model)
    name = _slug(model.name)
    if format == DIFFUSERS:
        return Export(f"{name}.zip", "application/zip", _zipped(await contents(models, blobs, model)))
    if not is_lora(model):
        message = f"model {model_id} ({model.name!r}) is no LoRA: export it as diffusers has it"
        raise FailedPrecondition(message, reason="NOT_A_LORA")
    path = _path(blobs, weights, LORA_FILE)
    content = "application/octet-stream"
    if format == LORA_DIFFUSERS:
        return Export(f"{name}.safetensors", content, _read(path))
    return Export(f"{name}-kohya.safetensors", content, _kohya(path, model))


def stored_weights(model: Model) -> StoredWeights:
    """Raises FailedPrecondition for a model whose weights are on a hub."""
    if isinstance(model.weights, HubWeights):
        where = f"{model.weights.repo_id} at {model.weights.revision}"
        message = f"the weights of model {model.id} are on the hub: {where}"
        raise FailedPrecondition(message, reason="WEIGHTS_ON_HUB")
    return model.weights


async def contents(models: ModelStore, blobs: BlobStore, model: Model) -> dict[str, bytes | Path]:
    """What belongs to a stored model, by its path in a folder that diffusers loads: the card, the weights, and the
    pictures that are still there. Raises DataLoss when a file of the weights is gone."""
    assert isinstance(model.weights, StoredWeights), "the caller has looked"
    base = await models.get(model.base_model_id) if model.base_model_id is not None else None
    pictures = {
        f"images/sample-{place}.{_suffix(blobs.path(sample.sha256))}": sample
        for place, sample in enumerate(model.samples)
        if blobs.exists(sample.sha256)
    }
    weights = {file.path: _path(blobs, model.weights, file.path) for file in model.weights.files}
    card = model_card(model, base, pictures).encode()
    record = await asyncio.to_thread(training_record, model.weights, blobs)
    about = {"README.md": card, **({"training.json": record.encode()} if record else {})}
    return {**about, **weights, **{path: blobs.path(each.sha256) for path, each in pictures.items()}}


def _suffix(picture: Path) -> str:
    with picture.open("rb") as file:
        return "webp" if file.read(4) == b"RIFF" else "png"


def _zipped(files: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    """Stored and not deflated: weights do not shrink. One chunk is in memory at a time."""
    out = _Outgoing()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, file in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            if isinstance(file, bytes):
                archive.writestr(entry, file)
                continue
            with archive.open(entry, "w", force_zip64=file.stat().st_size >= 2**31) as target:
                for piece in _read(file):
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
