"""What the stores promise, on SQLite and on Postgres."""

import asyncio
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.catalog.domain import (
    FIRST_REGISTERED_MODEL_ID,
    DatasetType,
    HubWeights,
    Image,
    ImageFormat,
    ModelCategory,
    ModelFamily,
    ModelFile,
    ModelType,
    NewImage,
    NewModel,
    StoredWeights,
    WeightsLayout,
    manifest_digest,
)
from services.catalog.model_store import ModelStore
from services.catalog.store import Store, Transactions
from services.catalog.tables import datasets, metadata
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound


def image(number: int, *, caption: str = "", size: int = 10, filename: str | None = None) -> NewImage:
    name = filename or f"{number:04}.png"
    return NewImage(name, caption, f"{number:064x}", ImageFormat.PNG, 32, 24, size)


def model(name: str = "base", **more: object) -> NewModel:
    values: dict[str, object] = {
        "type": ModelType.BASE_MODEL,
        "category": ModelCategory.IMAGE,
        "family": ModelFamily.STABLE_DIFFUSION,
        "layout": WeightsLayout.PIPELINE,
        "weights": StoredWeights(
            (ModelFile("unet/config.json", "c" * 64, 3), ModelFile("model_index.json", "d" * 64, 4))
        ),
        **more,
    }
    return NewModel(name=name, **values)  # type: ignore[arg-type]  # the values are named above


async def make(store: Store, name: str = "icons") -> int:
    return (await store.create_dataset(name=name, type=DatasetType.IMAGE, description="")).id


async def all_images(store: Store, dataset_id: int) -> list[Image]:
    return (await store.list_images(dataset_id, limit=10_000))[0]


async def test_the_migrations_make_the_tables_that_the_code_names(engine: AsyncEngine) -> None:
    def compare(connection: sa.Connection) -> list[object]:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []


async def test_a_dataset_comes_back_as_it_was_made(store: Store) -> None:
    made = await store.create_dataset(name="Łódź 🎨", type=DatasetType.VIDEO, description="line\nline")
    assert await store.get_dataset(made.id) == made
    assert (made.name, made.type, made.num_items, made.cover_image_id) == ("Łódź 🎨", DatasetType.VIDEO, 0, None)
    assert made.created_at.utcoffset() is not None


async def test_a_taken_name_is_refused_on_creating_and_renaming(store: Store) -> None:
    await make(store, "icons")
    other = await make(store, "others")
    with pytest.raises(AlreadyExists):
        await make(store, "icons")
    with pytest.raises(AlreadyExists):
        await store.update_dataset(other, {"name": "icons"})
    assert (await store.update_dataset(other, {"name": "others"})).name == "others"


async def test_one_request_id_makes_one_dataset_however_often_it_comes_at_once(store: Store) -> None:
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(
        *(
            store.create_dataset(name="icons", type=DatasetType.IMAGE, description="", request_id=request_id)
            for _ in range(6)
        )
    )
    assert len({dataset.id for dataset in made}) == 1
    assert (await store.list_datasets(after=0, limit=10))[1] == 1


async def test_images_are_told_apart_by_bytes_and_keep_their_order(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(2)])
    outcome = await store.add_images(dataset, [image(1), image(2), image(3), image(1, filename="again.png")])
    assert [added for _, added in outcome] == [True, False, True, False]
    assert [each.filename for each, _ in outcome] == ["0001.png", "0002.png", "0003.png", "0001.png"]
    assert [each.filename for each in await all_images(store, dataset)] == ["0002.png", "0001.png", "0003.png"]
    assert (await store.get_dataset(dataset)).num_items == 3
    assert await store.add_images(dataset, []) == []


async def test_two_datasets_may_have_the_same_bytes(store: Store) -> None:
    first, second = await make(store, "a"), await make(store, "b")
    (one, _), (two, added) = await store.add_image(first, image(1)), await store.add_image(second, image(1))
    assert added
    assert one.id != two.id


async def test_images_of_no_dataset_are_refused(store: Store) -> None:
    for new in ([image(1)], []):
        with pytest.raises(NotFound):
            await store.add_images(99, new)
    with pytest.raises(NotFound):
        await store.add_image(99, image(1))


async def test_one_request_id_adds_one_image_even_to_different_datasets_at_once(store: Store) -> None:
    first, second = await make(store, "a"), await make(store, "b")
    request_id = str(uuid.uuid4())
    outcomes = await asyncio.gather(
        *(store.add_image(dataset, image(1), request_id=request_id) for dataset in (first, second) * 4)
    )
    assert len({each.id for each, _ in outcomes}) == 1
    assert all(ours for _, ours in outcomes)
    assert sum([(await store.get_dataset(dataset)).num_items for dataset in (first, second)]) == 1


async def test_counts_stay_right_under_concurrent_uploads_and_deletes(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(number, size=number) for number in range(1, 41)])
    ids = [each.id for each in await all_images(store, dataset)]

    async def delete(id: int) -> int:
        try:
            await store.delete_image(id)
        except NotFound:
            return 0
        return 1

    deletions = [delete(id) for id in ids[:20] for _ in range(2)]  # each twice: one of the two is late
    uploads = [store.add_images(dataset, [image(n, size=n), image(n + 1, size=n + 1)]) for n in range(100, 130)]
    recounts = [store.recount(dataset) for _ in range(10)]
    results = await asyncio.gather(*deletions, *uploads, *recounts)
    assert sum(each for each in results if isinstance(each, int)) == 20
    found, left = await store.get_dataset(dataset), await all_images(store, dataset)
    assert found.num_items == len(left) == 20 + 31
    assert found.size_bytes == sum(each.size_bytes for each in left)


async def test_a_recount_repairs_a_count_that_drifted(store: Store, engine: AsyncEngine) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(1, size=5), image(2, size=6)])
    async with engine.begin() as connection:
        await connection.execute(sa.update(datasets).values(num_items=77, size_bytes=0))
    repaired = await store.recount(dataset)
    assert (repaired.num_items, repaired.size_bytes) == (2, 11)
    with pytest.raises(NotFound):
        await store.recount(99)


async def test_a_recount_waits_for_an_upload_and_counts_what_it_added(store: Store, transactions: Transactions) -> None:
    dataset = await make(store)
    async with asyncio.TaskGroup() as group, transactions.begin() as connection:
        await store._lock(connection, dataset)
        recount = group.create_task(store.recount(dataset))
        await asyncio.sleep(0.2)  # long enough for the recount to have begun and to wait for the row
        assert not recount.done()
        await store._insert(connection, dataset, [image(1)])
    assert recount.result().num_items == 1


async def test_the_cover_is_the_first_image_that_is_left(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(1), image(2)])
    first, second = await all_images(store, dataset)
    assert (await store.get_dataset(dataset)).cover_image_id == first.id
    await store.delete_image(first.id)
    assert (await store.get_dataset(dataset)).cover_image_id == second.id


async def test_a_deleted_dataset_takes_its_images_and_leaves_its_snapshots(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(1)])
    (only,) = await all_images(store, dataset)
    snapshot = await store.create_snapshot(dataset)
    await store.delete_dataset(dataset)
    with pytest.raises(NotFound):
        await store.get_image(only.id)
    with pytest.raises(NotFound):
        await store.delete_dataset(dataset)
    assert await store.get_snapshot(snapshot.digest) == snapshot
    assert len(await store.snapshot_items(snapshot.digest, start=0, limit=10)) == 1


async def test_a_snapshot_does_not_change_with_its_dataset(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(2, caption="b"), image(1, caption="a")])
    before = await store.create_snapshot(dataset)
    items = await store.snapshot_items(before.digest, start=0, limit=10)
    assert [item.caption for item in items] == ["a", "b"]  # by file name
    assert manifest_digest(items) == before.digest
    first, second = await all_images(store, dataset)
    await store.update_caption(first.id, "other")
    changed = await store.create_snapshot(dataset)
    await store.delete_image(second.id)
    smaller = await store.create_snapshot(dataset)
    assert len({before.digest, changed.digest, smaller.digest}) == 3
    assert await store.snapshot_items(before.digest, start=0, limit=10) == items
    assert await store.get_snapshot(before.digest) == before


async def test_equal_contents_have_one_snapshot_in_whatever_order_they_came(store: Store) -> None:
    first, second = await make(store, "a"), await make(store, "b")
    await store.add_images(first, [image(1), image(2)])
    await store.add_images(second, [image(2), image(1)])
    made = await asyncio.gather(*(store.create_snapshot(dataset) for dataset in (first, second) * 3))
    assert len({snapshot.digest for snapshot in made}) == 1


async def test_an_empty_dataset_has_no_snapshot(store: Store) -> None:
    with pytest.raises(FailedPrecondition):
        await store.create_snapshot(await make(store))
    with pytest.raises(NotFound):
        await store.create_snapshot(99)


async def test_a_snapshot_is_read_in_pieces(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(number) for number in range(1200)])
    digest = (await store.create_snapshot(dataset)).digest
    pieces = [await store.snapshot_items(digest, start=start, limit=500) for start in (0, 500, 1000, 1500)]
    assert [len(piece) for piece in pieces] == [500, 500, 200, 0]
    assert [item.filename for piece in pieces for item in piece] == [f"{number:04}.png" for number in range(1200)]


async def test_which_digests_are_there_is_answered_for_thousands(store: Store) -> None:
    dataset = await make(store)
    await store.add_images(dataset, [image(number) for number in range(0, 3000, 3)])
    found = await store.find_images(dataset, [image(number).sha256 for number in range(3000)])
    assert len(found) == 1000
    with pytest.raises(NotFound):
        await store.find_images(99, [])


async def test_a_thumbnail_that_is_made_again_is_found_at_its_new_place(store: Store) -> None:
    assert await store.thumbnail("a" * 64) is None
    for made in ("b" * 64, "b" * 64, "c" * 64):
        await store.remember_thumbnail("a" * 64, made)
        assert await store.thumbnail("a" * 64) == made


async def test_a_model_comes_back_as_it_was_registered(models: ModelStore) -> None:
    new = model(license="MIT", description="d", native_resolution=64, trigger_words=("sks", "«é»"))
    made = await models.register(new)
    assert made == await models.get(made.id)
    assert made.id == FIRST_REGISTERED_MODEL_ID
    assert isinstance(made.weights, StoredWeights)
    assert isinstance(new.weights, StoredWeights)
    assert (made.weights.digest, made.weights.size_bytes) == (new.weights.digest, 7)
    assert (made.trigger_words, made.license, made.is_active) == (("sks", "«é»"), "MIT", True)
    hub = HubWeights("a/b", "e" * 40)
    assert (await models.register(model(weights=hub))).weights == hub


async def test_a_job_registers_one_model_however_often_it_tries_at_once(models: ModelStore) -> None:
    base = (await models.register(model())).id
    new = model("lora", type=ModelType.LORA, layout=WeightsLayout.LORA, base_model_id=base, job_id=str(uuid.uuid4()))
    made = await asyncio.gather(*(models.register(new) for _ in range(6)))
    assert len({each.id for each in made}) == 1
    assert await models.registered(job_id=new.job_id, request_id=None) == made[0]
    request_id = str(uuid.uuid4())
    again = await asyncio.gather(*(models.register(model(), request_id=request_id) for _ in range(6)))
    assert len({each.id for each in again}) == 1
    assert (await models.find(after=0, limit=10))[1] == 3


async def test_a_model_that_nobody_registered_is_not_taken_for_one_without_a_job(models: ModelStore) -> None:
    await models.register(model())
    assert await models.registered(job_id="", request_id=None) is None
    assert await models.registered(job_id=str(uuid.uuid4()), request_id=str(uuid.uuid4())) is None


async def test_a_model_on_a_missing_base_is_refused(models: ModelStore) -> None:
    with pytest.raises(NotFound):
        await models.register(model(base_model_id=77))


async def test_seeded_ids_stay_fixed_whatever_was_registered_before(models: ModelStore) -> None:
    registered = await models.register(model())
    outcome = await asyncio.gather(*(models.seed(2, model("seeded")) for _ in range(5)))
    assert sorted(outcome) == [False, False, False, False, True]
    assert (await models.get(2)).name == "seeded"
    assert (await models.register(model())).id > registered.id >= FIRST_REGISTERED_MODEL_ID


async def test_models_are_filtered_by_each_of_their_columns(models: ModelStore) -> None:
    base = await models.register(model("base"))
    lora = await models.register(model("lora", type=ModelType.LORA, layout=WeightsLayout.LORA, base_model_id=base.id))
    video = await models.register(
        model("video", category=ModelCategory.VIDEO, family=ModelFamily.STABLE_VIDEO_DIFFUSION)
    )
    await models.update(base.id, {"is_active": False})

    async def ids(**wanted: object) -> list[int]:
        found, total = await models.find(after=0, limit=10, **wanted)  # type: ignore[arg-type]  # named below
        assert total == len(found)
        return [each.id for each in found]

    assert await ids() == [base.id, lora.id, video.id]
    assert await ids(category=ModelCategory.VIDEO) == [video.id]
    assert await ids(type=ModelType.LORA) == [lora.id]
    assert await ids(family=ModelFamily.STABLE_DIFFUSION) == [base.id, lora.id]
    assert await ids(is_active=False) == [base.id]
    assert await ids(is_active=True) == [lora.id, video.id]
    assert await ids(name="lora") == [lora.id]
    assert await ids(base_model_id=base.id) == [lora.id]
    assert await ids(base_model_id=base.id, is_active=False) == []


async def test_a_model_goes_only_when_nothing_is_built_on_it(models: ModelStore) -> None:
    base = await models.register(model())
    middle = await models.register(model("full", type=ModelType.FULL, base_model_id=base.id))
    top = await models.register(model("lora", type=ModelType.LORA, base_model_id=middle.id))
    assert [each.id for each in await models.ancestors(top)] == [middle.id, base.id]
    with pytest.raises(FailedPrecondition):
        await models.delete(base.id)
    for each in (top, middle, base):
        await models.delete(each.id)
        with pytest.raises(NotFound):
            await models.delete(each.id)


async def test_a_base_is_not_deleted_under_a_model_that_is_just_being_registered(models: ModelStore) -> None:
    for _ in range(5):
        base = (await models.register(model())).id
        new = model("lora", type=ModelType.LORA, base_model_id=base)
        made, deleted = await asyncio.gather(models.register(new), models.delete(base), return_exceptions=True)
        if isinstance(made, NotFound):
            assert deleted is None
        else:
            assert isinstance(deleted, FailedPrecondition)


async def test_weights_are_replaced_only_when_they_differ(models: ModelStore) -> None:
    made = await models.register(model())
    assert isinstance(made.weights, StoredWeights)
    await models.replace_weights(made.id, made.weights)
    assert await models.get(made.id) == made
    other = StoredWeights((ModelFile("model_index.json", "f" * 64, 9),))
    await models.replace_weights(made.id, other)
    assert (await models.get(made.id)).weights == other
    with pytest.raises(NotFound):
        await models.replace_weights(99, other)
