"""What may be done with models."""

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from services.catalog import domain
from services.catalog.control_files import FAMILIES as CONTROL_FAMILIES
from services.catalog.control_files import check_control
from services.catalog.domain import (
    CHECKPOINT_FILE,
    CONTROL_CONFIG,
    CONTROL_FILE,
    HubWeights,
    Lineage,
    Model,
    ModelCategory,
    ModelType,
    NewModel,
    StoredWeights,
    WeightsLayout,
)
from services.catalog.model_store import ModelStore
from services.catalog.store import Store
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound

MAX_TRIGGER_WORDS = 50
MAX_TRIGGER_WORD = 100
MAX_LICENSE = 100


async def register_model(
    models: ModelStore, blobs: BlobStore, new: NewModel, *, request_id: str | None = None
) -> Model:
    """Raises InvalidArgument, NotFound (its base) and FailedPrecondition (another family, a base that is a ControlNet,
    files that are not there)."""
    if (first := await models.registered(job_id=new.outcome_of, request_id=request_id)) is not None:
        return first  # whatever has changed since
    rules = {
        "name": domain.name_rule(new.name),
        "description": domain.text_rule(new.description, domain.MAX_DESCRIPTION),
        "license": domain.text_rule(new.license, MAX_LICENSE),
        "trigger_words": _words_rule(new.trigger_words),
        "stored.files": _paths_rule(new.weights),
    }
    whole = new.type is ModelType.BASE_MODEL and new.layout is not WeightsLayout.SINGLE_FILE
    is_control = new.layout is WeightsLayout.CONTROLNET
    if not whole and not is_control and new.base_model_id is None:
        what = "checkpoint as one file" if new.layout is WeightsLayout.SINGLE_FILE else new.type.value
        rules["base_model_id"] = f"must be set for a {what}"
    rules |= _control_rules(new)
    if whole and new.base_model_id is not None:
        rules["base_model_id"] = "must not be set for a base_model"
    if new.layout is WeightsLayout.SINGLE_FILE and not _is_one_file(new.weights):
        rules["stored.files"] = f"must be {CHECKPOINT_FILE} alone, for a checkpoint as one file"
    if broken := {field: rule for field, rule in rules.items() if rule is not None}:
        raise InvalidArgument.of(broken)
    if new.base_model_id is not None:
        await _check_base(models, new, new.base_model_id)
    if isinstance(new.weights, StoredWeights):
        await asyncio.to_thread(_check_stored, blobs, new.weights)
        if is_control:
            await asyncio.to_thread(check_control, blobs, new.weights, new.family)
    return await models.register(new, request_id=request_id)


def _control_rules(new: NewModel) -> dict[str, str]:
    """The rules that a ControlNet breaks, or a model that has the type or the layout of one."""
    is_one = new.layout is WeightsLayout.CONTROLNET
    if is_one is not (new.type is ModelType.CONTROLNET):
        return {"layout": "must be controlnet for a controlnet, and for nothing else"}
    if not is_one:
        return {}
    rules = {}
    if new.family not in CONTROL_FAMILIES:
        rules["family"] = f"must be {' or '.join(family.value for family in CONTROL_FAMILIES)} for a controlnet"
    if new.category is not ModelCategory.IMAGE:
        rules["category"] = "must be image for a controlnet"
    if isinstance(new.weights, StoredWeights):
        paths = sorted(file.path for file in new.weights.files)
        if paths != [CONTROL_CONFIG, CONTROL_FILE]:
            rules["stored.files"] = f"must be {CONTROL_CONFIG} and {CONTROL_FILE}, for a controlnet"
    return rules


async def _check_base(models: ModelStore, new: NewModel, base_model_id: int) -> None:
    base = await models.get(base_model_id)
    if base.layout is WeightsLayout.CONTROLNET:
        message = f"model {base.id} ({base.name!r}) is a ControlNet, and no model is made of one"
        raise FailedPrecondition(message, reason="UNSUPPORTED_BASE_MODEL")
    if base.family is not new.family:
        message = f"a {new.family.value} model cannot have the {base.family.value} model {base.name!r} as its base"
        raise FailedPrecondition(message, reason="FAMILY_MISMATCH")


def _paths_rule(weights: StoredWeights | HubWeights) -> str | None:
    """The rule that the files' paths break together: each is one file, in folders that are no files."""
    if isinstance(weights, HubWeights):
        return None
    seen: set[str] = set()
    for file in weights.files:
        if file.path in seen:
            return f"names {file.path!r} twice"
        seen.add(file.path)
    for path in sorted(seen):
        for parent in PurePosixPath(path).parents:
            if parent.as_posix() in seen:
                return f"has {parent.as_posix()!r} both as a file and as a folder"
    return None


def _is_one_file(weights: StoredWeights | HubWeights) -> bool:
    return isinstance(weights, StoredWeights) and [file.path for file in weights.files] == [CHECKPOINT_FILE]


def _check_stored(blobs: BlobStore, weights: StoredWeights) -> None:
    for file in weights.files:
        if not blobs.exists(file.sha256):
            message = f"{file.path} ({file.sha256}) is not in the blob store"
            raise FailedPrecondition(message, reason="WEIGHTS_UNAVAILABLE")
        if (size := blobs.size(file.sha256)) != file.size_bytes:
            raise InvalidArgument(f"{file.path} has {size} bytes, not {file.size_bytes}", field="stored.files")


async def update_model(models: ModelStore, model_id: int, changes: dict[str, Any]) -> Model:
    """Sets name, description, is_active or trigger_words. Raises NotFound, InvalidArgument naming `model.<field>`."""
    words = changes.get("trigger_words", [])
    rules = {
        "model.name": domain.name_rule(changes["name"]) if "name" in changes else None,
        "model.description": domain.text_rule(changes.get("description", ""), domain.MAX_DESCRIPTION),
        "model.trigger_words": _words_rule(words),
    }
    if broken := {field: rule for field, rule in rules.items() if rule is not None}:
        raise InvalidArgument.of(broken)
    return await models.update(model_id, changes)


def _words_rule(words: Sequence[str]) -> str | None:
    if len(words) > MAX_TRIGGER_WORDS:
        return f"has {len(words)} words; {MAX_TRIGGER_WORDS} is the limit"
    if any(not word or domain.text_rule(word, MAX_TRIGGER_WORD) for word in words):
        return f"must have 1 to {MAX_TRIGGER_WORD} characters each, and no NUL"
    return None


async def lineage(models: ModelStore, store: Store, model_id: int) -> Lineage:
    """What a model came from and what came from it. Raises NotFound."""
    model = await models.get(model_id)
    children, _ = await models.find(after=0, limit=1000, base_model_id=model_id)
    dataset = snapshot = None
    try:
        if model.dataset_id is not None:
            dataset = await store.get_dataset(model.dataset_id)
    except NotFound:
        pass  # deleted since; the snapshot stays
    try:
        if model.snapshot_digest:
            snapshot = await store.get_snapshot(model.snapshot_digest)
    except NotFound:
        pass  # registered by hand with a digest of elsewhere
    return Lineage(model, await models.ancestors(model), tuple(children), dataset, snapshot)
