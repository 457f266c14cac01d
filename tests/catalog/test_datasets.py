"""Datasets over gRPC."""

import asyncio
import uuid
from typing import Any

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import dataset_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tests.catalog.house import Catalog, chunk, opened, parts, png, refused, start


async def test_capabilities_say_what_is_taken(catalog: Catalog) -> None:
    can = await catalog.stub.GetCatalogCapabilities(pb.GetCatalogCapabilitiesRequest())
    assert list(can.formats) == [
        dataset_pb2.IMAGE_FORMAT_JPEG,
        dataset_pb2.IMAGE_FORMAT_PNG,
        dataset_pb2.IMAGE_FORMAT_WEBP,
    ]
    assert min(can.max_image_bytes, can.max_image_pixels, can.min_image_side, can.thumbnail_side) > 0
    assert can.version


async def test_a_dataset_is_made_found_and_deleted(either: Catalog) -> None:
    id = await either.dataset("portraits-anime", description="a guide's")
    found = await either.get(id)
    assert (found.name, found.type, found.description) == (
        "portraits-anime",
        dataset_pb2.DATASET_TYPE_IMAGE,
        "a guide's",
    )
    assert (found.num_items, found.size_bytes) == (0, 0)
    await either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id))
    for call in (either.get(id), either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id))):
        with refused(NotFound):
            await call


async def test_a_taken_name_is_refused(catalog: Catalog) -> None:
    await catalog.dataset("icons")
    with refused(AlreadyExists, words="icons"):
        await catalog.dataset("icons")


async def test_a_name_that_nobody_could_use_is_refused(catalog: Catalog) -> None:
    for name in ("", " ", "a/b", "..\\x", "tab\t", "nul\0", "x" * 101, "\u200b"):
        with refused(InvalidArgument, field="name"):
            await catalog.dataset(name)


async def test_a_name_in_any_script_is_taken(either: Catalog) -> None:
    for name in ("..", "Łódź", "🎨", "家族の写真", "a" * 100, "🎨" * 100):
        assert (await either.get(await either.dataset(name))).name == name


async def test_a_description_has_its_limits(catalog: Catalog) -> None:
    for description in ("x" * 2001, "nul\0"):
        with refused(InvalidArgument, field="description"):
            await catalog.dataset(description=description)


async def test_a_retry_with_its_request_id_gives_the_first_answer(either: Catalog) -> None:
    request_id = str(uuid.uuid4())
    ids = await asyncio.gather(*(either.dataset(request_id=request_id) for _ in range(5)))
    assert len(set(ids)) == 1
    assert await either.dataset("another name", request_id=request_id) == ids[0]
    with refused(InvalidArgument, field="request_id"):
        await either.dataset("x", request_id="not a uuid")


async def test_an_update_changes_what_its_mask_names(either: Catalog) -> None:
    id = await either.dataset("old", description="old")

    async def update(*paths: str, **values: Any) -> dataset_pb2.Dataset:
        given = pb.UpdateDatasetRequest(
            dataset_id=id, dataset=dataset_pb2.Dataset(**values), update_mask=FieldMask(paths=paths)
        )
        return (await either.stub.UpdateDataset(given)).dataset

    assert (await update("name", name="new", description="ignored")).description == "old"
    assert (await update("description", description="")).name == "new"
    both = await update("name", "description", name="a", description="b")
    assert (both.name, both.description) == ("a", "b")
    broken: list[tuple[list[str], dict[str, str], str]] = [
        ([], {}, "update_mask"),
        (["num_items"], {}, "update_mask"),
        (["name"], {"name": "a/b"}, "dataset.name"),
        (["name"], {}, "dataset.name"),
        (["name"], {"name": "nul\0"}, "dataset.name"),
        (["description"], {"description": "nul\0"}, "dataset.description"),
    ]
    for paths, values, field in broken:
        with refused(InvalidArgument, field=field):
            await update(*paths, **values)
    await either.dataset("taken")
    with refused(AlreadyExists):
        await update("name", name="taken")
    id = 99
    with refused(NotFound):
        await update("name", name="any")


async def test_pages_stay_right_while_datasets_come_and_go(either: Catalog) -> None:
    ids = [await either.dataset(f"d{number}") for number in range(5)]
    first = await either.stub.ListDatasets(pb.ListDatasetsRequest(page_size=2))
    await either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=ids[0]))
    ids.append(await either.dataset("late"))
    second = await either.stub.ListDatasets(pb.ListDatasetsRequest(page_size=2, page_token=first.next_page_token))
    third = await either.stub.ListDatasets(pb.ListDatasetsRequest(page_size=2, page_token=second.next_page_token))
    assert [each.id for page in (first, second, third) for each in page.datasets] == ids
    assert third.next_page_token == ""
    assert (first.total_size, third.total_size) == (5, 5)


async def test_a_token_of_elsewhere_is_refused(either: Catalog) -> None:
    from services.common.paging import encode_token

    for number in range(2):
        await either.upload(await either.dataset(f"d{number}"), png(number))
    token = (await either.stub.ListDatasets(pb.ListDatasetsRequest(page_size=1))).next_page_token
    with refused(InvalidArgument, field="page_token"):
        await either.stub.ListModels(pb.ListModelsRequest(page_token=token))
    for forged in ("rubbish", "ÿ", encode_token(5), encode_token("datasets", 10**30), encode_token("datasets", -1)):
        with refused(InvalidArgument, field="page_token"):
            await either.stub.ListDatasets(pb.ListDatasetsRequest(page_token=forged))


async def test_datasets_are_found_by_type_and_name(either: Catalog) -> None:
    await either.dataset("a")
    film = await either.dataset("b", type=dataset_pb2.DATASET_TYPE_VIDEO)
    for wanted in (pb.ListDatasetsRequest(type=dataset_pb2.DATASET_TYPE_VIDEO), pb.ListDatasetsRequest(name="b")):
        found = await either.stub.ListDatasets(wanted)
        assert [each.id for each in found.datasets] == [film]
        assert found.total_size == 1
    assert not (await either.stub.ListDatasets(pb.ListDatasetsRequest(name="B"))).datasets


async def test_no_nul_character_reaches_the_database(either: Catalog) -> None:
    """Postgres takes none; each place where a string comes in says so instead of failing."""
    stub, id = either.stub, await either.dataset()
    image = await either.upload(id, png(1))
    base = await either.register()
    calls: list[tuple[Any, str]] = [
        (stub.ListDatasets(pb.ListDatasetsRequest(name="a\0")), "name"),
        (stub.ListModels(pb.ListModelsRequest(name="a\0")), "name"),
        (stub.UpdateImage(pb.UpdateImageRequest(image_id=image.id, caption="a\0")), "caption"),
        (either.upload(id, png(2), caption="a\0"), "caption"),
        (either.upload(id, png(2), filename="a\0.png"), "filename"),
        (either.register(name="a\0"), "name"),
        (either.register(license="a\0"), "license"),
        (either.register(description="a\0"), "description"),
        (either.register(trigger_words=["a\0"]), "trigger_words"),
        (either.register(snapshot_digest="a\0"), "snapshot_digest"),
        (either.register(job_id="a\0"), "job_id"),
        (either.register(hub={"repo_id": "a/b\0", "revision": "a" * 40}), "hub.repo_id"),
        (stub.GetSnapshot(pb.GetSnapshotRequest(digest="\0" * 64)), "digest"),
        (stub.FindImages(pb.FindImagesRequest(dataset_id=id, sha256=["\0" * 64])), "sha256[0]"),
        (stub.ListImages(pb.ListImagesRequest(dataset_id=id, page_token="\0")), "page_token"),
    ]
    for field in ("name", "description", "trigger_words"):
        value: Any = ["a\0"] if field == "trigger_words" else "a\0"
        request = pb.UpdateModelRequest(model_id=base.id, update_mask=FieldMask(paths=[field]))
        request.model.MergeFrom(type(request.model)(**{field: value}))
        calls.append((stub.UpdateModel(request), f"model.{field}"))
    for call, field in calls:
        with refused(InvalidArgument, field=field):
            await call
    answer = await either.stream(
        [
            start(id),
            opened("a\0.png", caption="b"),
            chunk(0, png(3)),
            opened("b.png", caption="\0"),
            chunk(0, png(4)),
            opened("c.png", sha256="\0"),
            chunk(0, png(5)),
        ]
    )
    assert [pb.UploadRefusal.Name(each.reason) for each in answer.refused] == [
        "UPLOAD_REFUSAL_BAD_FILENAME",
        "UPLOAD_REFUSAL_BAD_CAPTION",
        "UPLOAD_REFUSAL_DIGEST_MISMATCH",
    ]


async def test_a_snapshot_stays_what_it_was(either: Catalog) -> None:
    id = await either.dataset()
    images = [await either.upload(id, png(number), f"{number}.png", caption=f"c{number}") for number in range(3)]
    snapshot = (await either.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))).snapshot
    again = (await either.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))).snapshot
    assert again == snapshot
    await either.stub.UpdateImage(pb.UpdateImageRequest(image_id=images[0].id, caption="other"))
    await either.stub.DeleteImage(pb.DeleteImageRequest(image_id=images[1].id))
    await either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id))
    assert (await either.stub.GetSnapshot(pb.GetSnapshotRequest(digest=snapshot.digest))).snapshot == snapshot
    manifest = either.stub.StreamSnapshot(pb.StreamSnapshotRequest(digest=snapshot.digest))
    items = [item async for piece in manifest for item in piece.items]
    assert [(item.filename, item.caption, item.sha256) for item in items] == [
        (image.filename, f"c{number}", image.sha256) for number, image in enumerate(images)
    ]
    assert (snapshot.num_items, snapshot.size_bytes) == (3, sum(image.size_bytes for image in images))


async def test_what_cannot_be_frozen_says_why(catalog: Catalog) -> None:
    id = await catalog.dataset()
    with refused(FailedPrecondition, reason="EMPTY_DATASET"):
        await catalog.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))
    with refused(NotFound):
        await catalog.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id + 1))
    with refused(NotFound):
        await catalog.stub.GetSnapshot(pb.GetSnapshotRequest(digest="a" * 64))
    with refused(NotFound):
        [piece async for piece in catalog.stub.StreamSnapshot(pb.StreamSnapshotRequest(digest="a" * 64))]


async def test_refresh_names_what_is_missing_and_what_is_corrupt(either: Catalog) -> None:
    id = await either.dataset()
    await either.stream(parts(id, [(f"{number}.png", png(number)) for number in range(4)]))
    images = await either.images(id)
    either.blobs.delete(images[1].sha256)
    either.blobs.location(images[2].sha256).write_bytes(b"rotten")
    answer = await either.stub.RefreshDataset(pb.RefreshDatasetRequest(dataset_id=id))
    assert [each.id for each in answer.missing] == [images[1].id]
    assert [each.id for each in answer.corrupt] == [images[2].id]
    assert (answer.previous_num_items, answer.dataset.num_items) == (4, 4)
    # A client that asks what to send is told to send what is gone; and sending the bytes again repairs both.
    wanted = pb.FindImagesRequest(dataset_id=id, sha256=[image.sha256 for image in images])
    assert images[1].sha256 not in (await either.stub.FindImages(wanted)).present
    again = await either.stream(parts(id, [(f"{number}.png", png(number)) for number in (1, 2)]))
    assert [each.image_id for each in again.duplicates] == [images[1].id, images[2].id]
    answer = await either.stub.RefreshDataset(pb.RefreshDatasetRequest(dataset_id=id))
    assert not answer.missing
    assert not answer.corrupt
    with refused(NotFound):
        await either.stub.RefreshDataset(pb.RefreshDatasetRequest(dataset_id=id + 1))


async def test_refresh_reads_more_images_than_fit_a_page(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.catalog.datasets.PAGE", 2)
    id = await catalog.dataset()
    await catalog.stream(parts(id, [(f"{number}.png", png(number)) for number in range(5)]))
    last = (await catalog.images(id))[-1]
    catalog.blobs.delete(last.sha256)
    answer = await catalog.stub.RefreshDataset(pb.RefreshDatasetRequest(dataset_id=id))
    assert [each.id for each in answer.missing] == [last.id]
