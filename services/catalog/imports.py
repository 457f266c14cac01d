"""LoRAs that were made elsewhere, taken in piece by piece."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from services.catalog.domain import Model, ModelFile, ModelType, NewModel, StoredWeights, WeightsLayout
from services.catalog.exports import LORA_FILE
from services.catalog.lora_files import LoraFile, read_lora
from services.catalog.model_store import ModelStore
from services.catalog.models import register_model
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument

MAX_BYTES = 4 << 30
"""A LoRA of rank 512 over all layers of SDXL has three."""


@dataclass(frozen=True, slots=True)
class Chunk:
    offset: int
    data: bytes


async def import_lora(
    models: ModelStore, blobs: BlobStore, new: NewModel, chunks: AsyncIterator[Chunk], *, request_id: str | None
) -> tuple[Model, LoraFile]:
    """Stores the file once all of it has come and is sound, and registers it as a LoRA of `new.base_model_id`.

    Raises InvalidArgument for a file that is refused, NotFound for the base, FailedPrecondition where it is for another
    family. Nothing is left of a file that is refused or cut off.
    """
    assert new.base_model_id is not None, "the contract asks for it"
    base = await models.get(new.base_model_id)
    if base.layout is not WeightsLayout.PIPELINE:
        message = f"model {base.id} ({base.name!r}) is a LoRA itself: name the model under it"
        raise FailedPrecondition(message, reason="UNSUPPORTED_BASE_MODEL")
    writer = blobs.writer()
    try:
        size = 0
        async for chunk in chunks:
            if chunk.offset != size:
                raise InvalidArgument(f"begins at {chunk.offset} where {size} was due", field="chunk.offset")
            size += len(chunk.data)
            if size > MAX_BYTES:
                raise InvalidArgument(f"the file exceeds {MAX_BYTES} bytes", field="chunk", reason="TOO_MANY_BYTES")
            await asyncio.to_thread(writer.write, chunk.data)
        found = await asyncio.to_thread(read_lora, writer.path)
        if found.family is not None and found.family is not base.family:
            message = f"it is a LoRA for {found.family.value}, and model {base.id} is of {base.family.value}"
            raise FailedPrecondition(message, reason="FAMILY_MISMATCH")
        digest, size = await asyncio.to_thread(writer.commit)
    finally:
        await asyncio.to_thread(writer.abort)
    stored = StoredWeights((ModelFile(LORA_FILE, digest, size),))
    ready = replace(
        new,
        type=ModelType.LORA,
        category=base.category,
        family=base.family,
        layout=WeightsLayout.LORA,
        weights=stored,
        native_resolution=base.native_resolution,
        trigger_words=new.trigger_words or _trigger_words(found),
    )
    return await register_model(models, blobs, ready, request_id=request_id), found


def _trigger_words(found: LoraFile) -> tuple[str, ...]:
    """What the file itself says, as sai_model_spec has it."""
    word = found.metadata.get("modelspec.trigger_phrase", "").strip()
    return (word,) if 0 < len(word) <= 100 else ()
