"""Weights that were made elsewhere, taken in piece by piece: LoRAs, and whole checkpoints as one file."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from services.catalog.checkpoint_files import checkpoint_family, is_checkpoint
from services.catalog.domain import (
    CHECKPOINT_FILE,
    LORA_FILE,
    Model,
    ModelFamily,
    ModelFile,
    ModelType,
    NewModel,
    StoredWeights,
    WeightsLayout,
)
from services.catalog.kohya import SD3, sd3_to_diffusers
from services.catalog.lora_files import lora_in
from services.catalog.model_store import ModelStore
from services.catalog.models import register_model
from services.catalog.tensor_files import check_start, read_header
from services.common.blobs import BlobStore, BlobWriter
from services.common.errors import FailedPrecondition, InvalidArgument

MAX_BYTES = 40 << 30
"""Stable Diffusion 3.5 Large with its three text encoders has 27."""
MAX_LORA_BYTES = 4 << 30
"""A LoRA of rank 512 over all layers of SDXL has three."""


@dataclass(frozen=True, slots=True)
class Chunk:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What a file is. `layout` is diffusers, kohya or checkpoint; `rank` is 0 for a checkpoint."""

    layout: str
    rank: int = 0
    family: ModelFamily | None = None
    trigger_word: str = ""


async def import_weights(
    models: ModelStore, blobs: BlobStore, new: NewModel, chunks: AsyncIterator[Chunk], *, request_id: str | None
) -> tuple[Model, Found]:
    """Stores the file once all of it has come and is sound, and registers it: a LoRA of `new.base_model_id`, or a base
    model that has all but the weights from there.

    Raises InvalidArgument for a file that is refused, NotFound for the base, FailedPrecondition where it is for another
    family. Nothing is left of a file that is refused or cut off.
    """
    assert new.base_model_id is not None, "the contract asks for it"
    base = await models.get(new.base_model_id)
    if base.layout in (WeightsLayout.LORA, WeightsLayout.CONTROLNET):
        what = "LoRA itself: name the model under it" if base.layout is WeightsLayout.LORA else "ControlNet"
        message = f"model {base.id} ({base.name!r}) is a {what}"
        raise FailedPrecondition(message, reason="UNSUPPORTED_BASE_MODEL")
    writer = blobs.writer()
    try:
        await _take(writer, chunks)
        found = await asyncio.to_thread(look, writer.path)
        if found.family is not None and found.family is not base.family:
            what = "a checkpoint of" if found.layout == "checkpoint" else "a LoRA for"
            message = f"it is {what} {found.family.value}, and model {base.id} is of {base.family.value}"
            raise FailedPrecondition(message, reason="FAMILY_MISMATCH")
        is_lora = found.layout != "checkpoint"
        digest, size = await asyncio.to_thread(_store, writer, blobs, found, base.family)
    finally:
        await asyncio.to_thread(writer.abort)
    ready = replace(
        new,
        type=ModelType.LORA if is_lora else ModelType.BASE_MODEL,
        category=base.category,
        family=base.family,
        layout=WeightsLayout.LORA if is_lora else WeightsLayout.SINGLE_FILE,
        weights=StoredWeights((ModelFile(LORA_FILE if is_lora else CHECKPOINT_FILE, digest, size),)),
        native_resolution=base.native_resolution,
        trigger_words=new.trigger_words or ((found.trigger_word,) if found.trigger_word else ()),
    )
    return await register_model(models, blobs, ready, request_id=request_id), found


async def _take(writer: BlobWriter, chunks: AsyncIterator[Chunk]) -> None:
    size = 0
    async for chunk in chunks:
        if chunk.offset != size:
            raise InvalidArgument(f"begins at {chunk.offset} where {size} was due", field="chunk.offset")
        if not size and len(chunk.data) > 8:  # what is refused anyhow need not come whole
            check_start(chunk.data[:9], field="chunk")
        size += len(chunk.data)
        if size > MAX_BYTES:
            raise InvalidArgument(f"the file exceeds {MAX_BYTES} bytes", field="chunk", reason="TOO_MANY_BYTES")
        await asyncio.to_thread(writer.write, chunk.data)


def look(path: Path, *, field: str = "chunk") -> Found:
    """What a file is, by its header. Blocks. Raises InvalidArgument naming `field` for one that cannot be taken."""
    header, metadata = read_header(path, field=field)
    if is_checkpoint(header):
        return Found("checkpoint", family=checkpoint_family(header, field=field))
    lora = lora_in(header, metadata, field=field)
    if path.stat().st_size > MAX_LORA_BYTES:
        raise InvalidArgument(f"is a LoRA of more than {MAX_LORA_BYTES} bytes", field=field, reason="TOO_MANY_BYTES")
    word = metadata.get("modelspec.trigger_phrase", "").strip()  # as sai_model_spec has it
    return Found(lora.layout, lora.rank, lora.family, word if len(word) <= 100 else "")


def _store(writer: BlobWriter, blobs: BlobStore, found: Found, family: ModelFamily) -> tuple[str, int]:
    """The file's digest and size: as it came, but for what diffusers cannot read in kohya's layout."""
    if found.layout != "kohya" or family is not SD3:
        return writer.commit()
    data = sd3_to_diffusers(writer.path)
    return blobs.put(data), len(data)
