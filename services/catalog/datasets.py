"""What may be done with datasets: named, deleted when nothing needs them, recounted against the blob store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.catalog import domain
from services.catalog.domain import Dataset, DatasetType, Image
from services.catalog.store import Store
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable

PAGE = 500

JobsOfDataset = Callable[[int], Awaitable[list[str]]]
"""The ids of the unfinished training jobs of a dataset. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Recount:
    dataset: Dataset
    previous_num_items: int
    missing: tuple[Image, ...]
    corrupt: tuple[Image, ...]


async def create_dataset(
    store: Store, *, name: str, type: DatasetType | None, description: str, request_id: str | None
) -> Dataset:
    """Raises InvalidArgument and AlreadyExists."""
    _check(name=domain.name_rule(name), description=domain.text_rule(description, domain.MAX_DESCRIPTION))
    return await store.create_dataset(
        name=name, type=type or DatasetType.IMAGE, description=description, request_id=request_id
    )


async def update_dataset(store: Store, dataset_id: int, changes: dict[str, str]) -> Dataset:
    """Sets `name` or `description`. Raises InvalidArgument naming `dataset.<field>`, NotFound and AlreadyExists."""
    rules = {
        "name": domain.name_rule(changes["name"]) if "name" in changes else None,
        "description": domain.text_rule(changes.get("description", ""), domain.MAX_DESCRIPTION),
    }
    _check(**{f"dataset.{field}": rule for field, rule in rules.items()})
    return await store.update_dataset(dataset_id, changes)


async def delete_dataset(store: Store, jobs_of: JobsOfDataset | None, dataset_id: int, *, force: bool) -> None:
    """Raises NotFound, FailedPrecondition (an unfinished job was made from it) and Unavailable (nobody can tell)."""
    await store.get_dataset(dataset_id)
    if jobs_of is not None and not force:
        try:
            jobs = await jobs_of(dataset_id)
        except Unavailable as error:
            message = (
                f"whether a training job needs dataset {dataset_id} cannot be told now; force deletes it all the same"
            )
            raise Unavailable(message, reason="TRAINER_UNAVAILABLE") from error
        if jobs:
            message = f"dataset {dataset_id} has unfinished training jobs: {', '.join(jobs)}"
            raise FailedPrecondition(message, reason="DATASET_IN_USE")
    await store.delete_dataset(dataset_id)


async def refresh_dataset(store: Store, blobs: BlobStore, dataset_id: int) -> Recount:
    """Counts again and reads every image's bytes: which are gone, which lost their digest. Raises NotFound."""
    before = await store.get_dataset(dataset_id)
    missing: list[Image] = []
    corrupt: list[Image] = []
    after = 0
    while True:
        page, _ = await store.list_images(dataset_id, after=after, limit=PAGE)
        if not page:
            break
        states = await asyncio.to_thread(_check_bytes, blobs, page)
        missing += [image for image, whole in zip(page, states, strict=True) if whole is None]
        corrupt += [image for image, whole in zip(page, states, strict=True) if whole is False]
        after = page[-1].id
    dataset = await store.recount(dataset_id)
    return Recount(dataset, before.num_items, tuple(missing), tuple(corrupt))


def _check_bytes(blobs: BlobStore, images: list[Image]) -> list[bool | None]:
    return [_whole(blobs, image) for image in images]


def _whole(blobs: BlobStore, image: Image) -> bool | None:
    """None when the bytes are gone, False when they changed."""
    try:
        return blobs.verify(image.sha256)
    except BlobMissing:
        return None


def _check(**rules: str | None) -> None:
    if broken := {field: rule for field, rule in rules.items() if rule is not None}:
        raise InvalidArgument.of(broken)
