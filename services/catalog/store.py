"""What the Catalog remembers of datasets, images and snapshots. `model_store` has the models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog import domain
from services.catalog.domain import Dataset, DatasetType, Image, Measures, NewImage, Snapshot, SnapshotItem
from services.catalog.tables import (
    cover_image_id,
    dataset_from_row,
    datasets,
    image_from_row,
    image_to_row,
    images,
    item_from_row,
    measures,
    snapshot_from_row,
    snapshot_items,
    snapshots,
    thumbnails,
)
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.rows import Transactions, insert_or_ignore, now

INSERT_ROWS = 1000


class Store:
    """Datasets, images and snapshots in one database, SQLite or Postgres."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # --- datasets ---

    async def create_dataset(
        self, *, name: str, type: DatasetType, description: str, request_id: str | None = None
    ) -> Dataset:
        """A new, empty dataset; or the one that `request_id` made before. Raises AlreadyExists for a taken name."""
        row = {"request_id": request_id, "name": name, "type": type.value, "description": description}
        moment = now()
        async with self._db.begin() as connection:
            insert = insert_or_ignore(datasets, connection.dialect).values(
                **row, num_items=0, size_bytes=0, created_at=moment, updated_at=moment
            )
            id = (await connection.execute(insert.returning(datasets.c.id))).scalar_one_or_none()
            if id is None and request_id is not None:
                found = sa.select(datasets.c.id).where(datasets.c.request_id == request_id)
                id = (await connection.execute(found)).scalar_one_or_none()
            if id is None:
                raise AlreadyExists("dataset", name, f"there is a dataset named {name!r} already")
            return await self._dataset(connection, id)

    async def get_dataset(self, dataset_id: int) -> Dataset:
        """Raises NotFound."""
        async with self._db.read() as connection:
            return await self._dataset(connection, dataset_id)

    async def list_datasets(
        self, *, after: int, limit: int, type: DatasetType | None = None, name: str = ""
    ) -> tuple[list[Dataset], int]:
        """Up to `limit` datasets with ids above `after`, by id; and how many match in all."""
        matches = []
        if type is not None:
            matches.append(datasets.c.type == type.value)
        if name:
            matches.append(datasets.c.name == name)
        query = sa.select(datasets, cover_image_id).where(datasets.c.id > after, *matches)
        async with self._db.snapshot() as connection:
            rows = await connection.execute(query.order_by(datasets.c.id).limit(limit))
            total = await connection.execute(sa.select(sa.func.count()).select_from(datasets).where(*matches))
            return [dataset_from_row(row) for row in rows], int(total.scalar_one())

    async def update_dataset(self, dataset_id: int, changes: dict[str, str]) -> Dataset:
        """Sets `name` or `description`. Raises NotFound, and AlreadyExists for a taken name."""
        async with self._db.begin() as connection:
            update = sa.update(datasets).where(datasets.c.id == dataset_id).values(**changes, updated_at=now())
            try:
                await connection.execute(update)
            except sa.exc.IntegrityError as error:
                name = changes.get("name", "")
                raise AlreadyExists("dataset", name, f"there is a dataset named {name!r} already") from error
            return await self._dataset(connection, dataset_id)

    async def delete_dataset(self, dataset_id: int) -> None:
        """Removes the dataset and its images' rows. Raises NotFound."""
        async with self._db.begin() as connection:
            deleted = await connection.execute(sa.delete(datasets).where(datasets.c.id == dataset_id))
            if not deleted.rowcount:
                raise NotFound("dataset", dataset_id)

    async def recount(self, dataset_id: int) -> Dataset:
        """Counts the dataset's images and bytes again. Raises NotFound."""
        of_it = images.c.dataset_id == dataset_id
        count = sa.select(sa.func.count()).select_from(images).where(of_it).scalar_subquery()
        size = sa.select(sa.func.coalesce(sa.func.sum(images.c.size_bytes), 0)).where(of_it).scalar_subquery()
        async with self._db.begin() as connection:
            # Locked first, counted in a second statement: Postgres would count what it saw before it waited.
            await self._lock(connection, dataset_id)
            await connection.execute(
                sa.update(datasets).where(datasets.c.id == dataset_id).values(num_items=count, size_bytes=size)
            )
            return await self._dataset(connection, dataset_id)

    async def _lock(self, connection: AsyncConnection, dataset_id: int) -> None:
        """Takes the dataset's row before its images', so that all who change them take turns and none deadlocks.

        Raises NotFound.
        """
        touch = sa.update(datasets).where(datasets.c.id == dataset_id).values(updated_at=datasets.c.updated_at)
        if not (await connection.execute(touch)).rowcount:
            raise NotFound("dataset", dataset_id)

    async def _dataset(self, connection: AsyncConnection, dataset_id: int) -> Dataset:
        query = sa.select(datasets, cover_image_id).where(datasets.c.id == dataset_id)
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound("dataset", dataset_id)
        return dataset_from_row(row)

    # --- images ---

    async def add_images(self, dataset_id: int, new: Sequence[NewImage]) -> list[tuple[Image, bool]]:
        """Adds images in one transaction. Raises NotFound.

        Returns for each of `new` the image that has its bytes in the dataset, and whether this call added it: what
        stands in `new` twice is added once.
        """
        first: dict[str, NewImage] = {}
        for image in new:
            first.setdefault(image.sha256, image)
        async with self._db.begin() as connection:
            await self._lock(connection, dataset_id)
            added = await self._insert(connection, dataset_id, list(first.values()))
            there = dict(added)
            if missing := first.keys() - added.keys():
                query = sa.select(images).where(images.c.dataset_id == dataset_id, images.c.sha256.in_(missing))
                there |= {row.sha256: image_from_row(row) for row in await connection.execute(query)}
        return [(there[image.sha256], image.sha256 in added and image is first[image.sha256]) for image in new]

    async def add_image(self, dataset_id: int, new: NewImage, *, request_id: str | None = None) -> tuple[Image, bool]:
        """Adds one image, once for each `request_id`. Raises NotFound.

        Returns the image, and whether this request added it: False means that the dataset has its bytes already.
        """
        its_bytes = sa.and_(images.c.dataset_id == dataset_id, images.c.sha256 == new.sha256)
        async with self._db.begin() as connection:
            await self._lock(connection, dataset_id)
            added = await self._insert(connection, dataset_id, [new], request_id=request_id)
            if added:
                return added[new.sha256], True
            if request_id is not None:
                query = sa.select(images).where(images.c.request_id == request_id)
                if (row := (await connection.execute(query)).one_or_none()) is not None:
                    return image_from_row(row), True
            return image_from_row((await connection.execute(sa.select(images).where(its_bytes))).one()), False

    async def _insert(
        self, connection: AsyncConnection, dataset_id: int, new: Sequence[NewImage], *, request_id: str | None = None
    ) -> dict[str, Image]:
        """Adds what breaks no unique constraint, and counts it. Returns what was added, by digest."""
        if not new:
            return {}
        moment = now()
        shared = {"dataset_id": dataset_id, "request_id": request_id, "created_at": moment}
        values = [{**image_to_row(image), **shared} for image in new]
        # Only what the database chooses comes back: reading whole rows would take longer than writing them.
        insert = insert_or_ignore(images, connection.dialect).returning(images.c.id, images.c.sha256)
        ids = {sha256: id for id, sha256 in await connection.execute(insert, values)}
        added = {
            image.sha256: domain.image_from_new(image, id=ids[image.sha256], dataset_id=dataset_id, created_at=moment)
            for image in new
            if image.sha256 in ids
        }
        if added:
            await connection.execute(_grow(dataset_id, added.values()))
        return added

    async def image_by_request(self, request_id: str) -> Image | None:
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(images).where(images.c.request_id == request_id))).one_or_none()
        return image_from_row(row) if row is not None else None

    async def find_images(self, dataset_id: int, digests: Iterable[str]) -> list[str]:
        """Which of `digests` the dataset has, sorted. Raises NotFound."""
        wanted = sorted(set(digests))
        found: list[str] = []
        async with self._db.snapshot() as connection:
            await self._dataset(connection, dataset_id)
            for start in range(0, len(wanted), INSERT_ROWS):
                query = sa.select(images.c.sha256).where(
                    images.c.dataset_id == dataset_id, images.c.sha256.in_(wanted[start : start + INSERT_ROWS])
                )
                found += (await connection.execute(query)).scalars()
        return sorted(found)

    async def list_images(self, dataset_id: int, *, after: int = 0, limit: int) -> tuple[list[Image], int]:
        """Up to `limit` images with ids above `after`, by id; and how many there are in all. Raises NotFound."""
        query = sa.select(images).where(images.c.dataset_id == dataset_id, images.c.id > after)
        async with self._db.snapshot() as connection:
            total = (await self._dataset(connection, dataset_id)).num_items
            rows = await connection.execute(query.order_by(images.c.id).limit(limit))
            return [image_from_row(row) for row in rows], total

    async def get_image(self, image_id: int) -> Image:
        """Raises NotFound."""
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(images).where(images.c.id == image_id))).one_or_none()
        if row is None:
            raise NotFound("image", image_id)
        return image_from_row(row)

    async def update_caption(self, image_id: int, caption: str) -> Image:
        """Raises NotFound."""
        return await self._update_image(image_id, caption=caption)

    async def set_mask(self, image_id: int, mask_sha256: str) -> Image:
        """Of no mask where it is empty. Raises NotFound."""
        return await self._update_image(image_id, mask_sha256=mask_sha256)

    async def _update_image(self, image_id: int, **values: str) -> Image:
        update = sa.update(images).where(images.c.id == image_id).values(**values).returning(images)
        async with self._db.begin() as connection:
            row = (await connection.execute(update)).one_or_none()
        if row is None:
            raise NotFound("image", image_id)
        return image_from_row(row)

    async def delete_image(self, image_id: int) -> None:
        """Removes the image's row and takes it off its dataset's count. Raises NotFound."""
        its_dataset = sa.select(images.c.dataset_id).where(images.c.id == image_id).scalar_subquery()
        async with self._db.begin() as connection:
            # The dataset's row first, as uploads take it: the other way round they would deadlock.
            await connection.execute(sa.update(datasets).where(datasets.c.id == its_dataset).values(updated_at=now()))
            row = (
                await connection.execute(sa.delete(images).where(images.c.id == image_id).returning(images))
            ).one_or_none()
            if row is None:
                raise NotFound("image", image_id)
            await connection.execute(_grow(row.dataset_id, [image_from_row(row)], sign=-1))

    async def thumbnail(self, sha256: str) -> str | None:
        """The digest of the thumbnail of the image with this digest, if it was made."""
        query = sa.select(thumbnails.c.thumbnail_sha256).where(thumbnails.c.sha256 == sha256)
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def remember_thumbnail(self, sha256: str, thumbnail_sha256: str) -> None:
        """Of the image with this digest; one that was lost and made again may have another digest than before."""
        async with self._db.begin() as connection:
            of_it = thumbnails.c.sha256 == sha256
            await connection.execute(sa.update(thumbnails).where(of_it).values(thumbnail_sha256=thumbnail_sha256))
            insert = insert_or_ignore(thumbnails, connection.dialect)
            await connection.execute(insert.values(sha256=sha256, thumbnail_sha256=thumbnail_sha256))

    async def measures(self, digests: Iterable[str]) -> dict[str, Measures]:
        """What is known of the images with these digests."""
        wanted = sorted(set(digests))
        found: dict[str, Measures] = {}
        async with self._db.read() as connection:
            for start in range(0, len(wanted), INSERT_ROWS):
                query = sa.select(measures).where(measures.c.sha256.in_(wanted[start : start + INSERT_ROWS]))
                for row in await connection.execute(query):
                    found[row.sha256] = Measures(int(row.likeness, 16), row.pixels, row.sharpness, row.clipped)
        return found

    async def remember_measures(self, found: Mapping[str, Measures]) -> None:
        """Of images by their digests; what is known already stays."""
        rows = [
            {"sha256": digest, **asdict(each), "likeness": f"{each.likeness:016x}"} for digest, each in found.items()
        ]
        if rows:
            async with self._db.begin() as connection:
                await connection.execute(insert_or_ignore(measures, connection.dialect), rows)

    # --- snapshots ---

    async def create_snapshot(self, dataset_id: int) -> Snapshot:
        """Freezes the dataset as it is now; equal contents give the snapshot that is there.

        Raises NotFound, and FailedPrecondition when the dataset is empty.
        """
        query = sa.select(images).where(images.c.dataset_id == dataset_id)
        async with self._db.begin() as connection:
            await self._lock(connection, dataset_id)
            dataset = await self._dataset(connection, dataset_id)
            items = sorted((item_from_row(row) for row in await connection.execute(query)), key=domain.manifest_order)
            if not items:
                raise FailedPrecondition(f"dataset {dataset.name!r} has no images", reason="EMPTY_DATASET")
            digest = domain.manifest_digest(items)
            insert = insert_or_ignore(snapshots, connection.dialect).values(
                digest=digest,
                dataset_id=dataset_id,
                num_items=len(items),
                size_bytes=sum(item.size_bytes for item in items),
                created_at=now(),
            )
            if (await connection.execute(insert.returning(snapshots.c.digest))).scalar_one_or_none() is not None:
                rows = [{"digest": digest, "position": place, **asdict(item)} for place, item in enumerate(items)]
                await connection.execute(sa.insert(snapshot_items), rows)
            return await self._snapshot(connection, digest)

    async def get_snapshot(self, digest: str) -> Snapshot:
        """Raises NotFound."""
        async with self._db.read() as connection:
            return await self._snapshot(connection, digest)

    async def snapshot_items(self, digest: str, *, start: int, limit: int) -> list[SnapshotItem]:
        """Items `start` to `start + limit` of the manifest, in its order. Raises NotFound."""
        query = sa.select(snapshot_items).where(
            snapshot_items.c.digest == digest,
            snapshot_items.c.position >= start,
            snapshot_items.c.position < start + limit,
        )
        async with self._db.snapshot() as connection:
            await self._snapshot(connection, digest)
            rows = await connection.execute(query.order_by(snapshot_items.c.position))
            return [item_from_row(row) for row in rows]

    async def _snapshot(self, connection: AsyncConnection, digest: str) -> Snapshot:
        row = (await connection.execute(sa.select(snapshots).where(snapshots.c.digest == digest))).one_or_none()
        if row is None:
            raise NotFound("snapshot", digest)
        return snapshot_from_row(row)


def _grow(dataset_id: int, changed: Iterable[Image], sign: int = 1) -> Any:
    """The UPDATE that adds images to (or with sign -1 takes them off) a dataset's count and bytes."""
    sizes = [image.size_bytes for image in changed]
    return (
        sa.update(datasets)
        .where(datasets.c.id == dataset_id)
        .values(
            num_items=datasets.c.num_items + sign * len(sizes),
            size_bytes=datasets.c.size_bytes + sign * sum(sizes),
            updated_at=now(),
        )
    )
