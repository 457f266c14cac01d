"""Models and seeds over gRPC."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.catalog.house import Catalog, png, refused

SEEDED = {
    1: (
        "Stable Diffusion 1.5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    ),
    2: ("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
    3: (
        "Stable Video Diffusion",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "9e43909513c6714f1bc78bcb44d96e733cd242aa",
    ),
}


def files(*named: tuple[str, str, int]) -> model_pb2.StoredWeights:
    return model_pb2.StoredWeights(files=[model_pb2.ModelFile(path=p, sha256=d, size_bytes=s) for p, d, s in named])


async def seed(catalog: Catalog) -> pb.SeedModelsResponse:
    return await catalog.stub.SeedModels(pb.SeedModelsRequest())


async def test_a_model_says_all_that_was_registered(either: Catalog) -> None:
    base = await either.register()
    job, dataset = str(uuid.uuid4()), await either.dataset()
    made = await either.register(
        **either.adapter(base.id, job_id=job, dataset_id=dataset, snapshot_digest="a" * 64, checkpoint_step=0),
        trigger_words=["sks", "🎨"], license="MIT", description="d", native_resolution=64,
    )  # fmt: skip
    assert (await either.stub.GetModel(pb.GetModelRequest(model_id=made.id))).model == made
    assert (made.base_model_id, made.job_id, made.dataset_id, made.snapshot_digest) == (base.id, job, dataset, "a" * 64)
    assert made.HasField("checkpoint_step")
    assert (list(made.trigger_words), made.license, made.description, made.native_resolution) == (
        ["sks", "🎨"],
        "MIT",
        "d",
        64,
    )
    assert (made.is_active, made.size_bytes, len(made.digest)) == (True, len(b"some weights"), 64)
    with refused(NotFound):
        await either.stub.GetModel(pb.GetModelRequest(model_id=9999))


async def test_registered_ids_start_behind_the_seeded_ones(either: Catalog) -> None:
    assert (await either.register()).id == 101


async def test_what_is_not_in_the_blob_store_is_refused(catalog: Catalog) -> None:
    there = catalog.blobs.put(b"there")
    gone = files(("a.json", there, 5), ("unet/b.safetensors", "f" * 64, 5))
    with refused(FailedPrecondition, reason="WEIGHTS_UNAVAILABLE", words="unet/b.safetensors"):
        await catalog.register(stored=gone)
    with refused(InvalidArgument, field="stored.files", words="has 5 bytes, not 6"):
        await catalog.register(stored=files(("a.json", there, 6)))


PATHS = ["../x", "a/../b", "/etc/passwd", "a//b", "a/", "", ".hidden", "a\\b", "a\n", "x" * 256]


async def test_a_path_stays_inside_its_folder(catalog: Catalog) -> None:
    digest = catalog.blobs.put(b"there")
    for path in PATHS:
        with refused(InvalidArgument, field="stored.files[0].path"):
            await catalog.register(stored=files((path, digest, 5)))


async def test_paths_do_not_stand_in_each_others_way(catalog: Catalog) -> None:
    digest = catalog.blobs.put(b"there")
    for paths, words in ((("a", "a"), "'a' twice"), (("unet/x/y", "unet"), "both as a file and as a folder")):
        with refused(InvalidArgument, field="stored.files", words=words):
            await catalog.register(stored=files(*((path, digest, 5) for path in paths)))


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": "x" * 101}, "name"),
    ({"name": "\u200b"}, "name"),
    ({"type": 0}, "type"),
    ({"category": 0}, "category"),
    ({"family": 99}, "family"),
    ({"layout": 0}, "layout"),
    ({"stored": model_pb2.StoredWeights()}, "stored.files"),
    ({"hub": {"repo_id": "no slash", "revision": "a" * 40}}, "hub.repo_id"),
    ({"hub": {"repo_id": "a/b", "revision": "main"}}, "hub.revision"),
    ({"job_id": "seven"}, "job_id"),
    ({"snapshot_digest": "abc"}, "snapshot_digest"),
    ({"trigger_words": ["x"] * 51}, "trigger_words"),
    ({"trigger_words": [""]}, "trigger_words[0]"),
    ({"license": "x" * 101}, "license"),
    ({"description": "x" * 2001}, "description"),
    ({"native_resolution": -1}, "native_resolution"),
    ({"base_model_id": 101}, "base_model_id"),
    ({"type": model_pb2.MODEL_TYPE_LORA}, "base_model_id"),
]


async def test_each_broken_rule_is_named(catalog: Catalog) -> None:
    await catalog.register()
    for broken, field in BROKEN:
        with refused(InvalidArgument, field=field):
            await catalog.register(**broken)


async def test_a_base_has_to_be_there_and_of_the_same_family(catalog: Catalog) -> None:
    base = await catalog.register()
    with refused(NotFound):
        await catalog.register(**catalog.adapter(base.id + 1))
    with refused(FailedPrecondition, reason="FAMILY_MISMATCH", words="stable_diffusion_xl"):
        await catalog.register(**catalog.adapter(base.id, family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL))


async def test_a_job_registers_its_model_once_whatever_changes_in_between(either: Catalog) -> None:
    base = await either.register()
    given = either.adapter(base.id, job_id=str(uuid.uuid4()))
    made = await asyncio.gather(*(either.register(**given) for _ in range(5)))
    assert len({model.id for model in made}) == 1
    either.blobs.delete(made[0].stored.files[0].sha256)
    stored = made[0].stored  # `register` puts its file again; these are the first call's
    assert await either.register(**given, stored=stored) == made[0]
    given["request_id"] = str(uuid.uuid4())
    given["job_id"] = ""
    again = await asyncio.gather(*(either.register(**given) for _ in range(5)))
    assert {model.id for model in again} == {again[0].id}
    assert again[0].id != made[0].id


async def test_an_update_changes_what_its_mask_names(either: Catalog) -> None:
    model = await either.register(trigger_words=["old"])

    async def update(*paths: str, **values: Any) -> model_pb2.Model:
        request = pb.UpdateModelRequest(
            model_id=model.id, model=model_pb2.Model(**values), update_mask=FieldMask(paths=paths)
        )
        return (await either.stub.UpdateModel(request)).model

    changed = await update("is_active", name="ignored")
    assert (changed.is_active, changed.name) == (False, "base")
    changed = await update("name", "trigger_words", name="new", trigger_words=["a", "b"])
    assert (changed.name, list(changed.trigger_words), changed.is_active) == ("new", ["a", "b"], False)
    assert not (await update("trigger_words")).trigger_words
    broken: list[tuple[list[str], dict[str, Any], str]] = [
        ([], {}, "update_mask"),
        (["id"], {}, "update_mask"),
        (["name"], {"name": " "}, "model.name"),
        (["description"], {"description": "x" * 2001}, "model.description"),
        (["trigger_words"], {"trigger_words": ["x"] * 51}, "model.trigger_words"),
        (["trigger_words"], {"trigger_words": ["x" * 101]}, "model.trigger_words"),
    ]
    for paths, values, field in broken:
        with refused(InvalidArgument, field=field):
            await update(*paths, **values)
    await either.stub.DeleteModel(pb.DeleteModelRequest(model_id=model.id))
    with refused(NotFound):
        await update("name", name="x")


async def test_models_are_listed_by_page_and_by_filter(either: Catalog) -> None:
    await seed(either)
    lora = await either.register(**either.adapter(4))

    async def ids(**wanted: Any) -> list[int]:
        return [model.id for model in (await either.stub.ListModels(pb.ListModelsRequest(**wanted))).models]

    assert await ids() == [1, 2, 3, 4, lora.id]
    assert await ids(category=model_pb2.MODEL_CATEGORY_IMAGE) == [1, 2, 4, lora.id]
    assert await ids(type=model_pb2.MODEL_TYPE_LORA) == [lora.id]
    assert await ids(base_model_id=4) == [lora.id]
    assert await ids(name="Stable Diffusion XL") == [2]
    assert await ids(is_active=False) == []
    first = await either.stub.ListModels(pb.ListModelsRequest(page_size=3))
    assert first.total_size == 5
    assert await ids(page_token=first.next_page_token) == [4, lora.id]


async def test_a_model_with_others_built_on_it_stays(either: Catalog) -> None:
    base = await either.register()
    lora = await either.register(**either.adapter(base.id))
    with refused(FailedPrecondition, reason="MODEL_IN_USE"):
        await either.stub.DeleteModel(pb.DeleteModelRequest(model_id=base.id))
    for id in (lora.id, base.id):
        await either.stub.DeleteModel(pb.DeleteModelRequest(model_id=id))
    with refused(NotFound):
        await either.stub.DeleteModel(pb.DeleteModelRequest(model_id=base.id))


async def test_lineage_names_ancestors_children_dataset_and_snapshot(either: Catalog) -> None:
    id = await either.dataset()
    await either.upload(id, png(1))
    snapshot = (await either.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))).snapshot
    base = await either.register()
    full = await either.register(
        name="full",
        type=model_pb2.MODEL_TYPE_FULL,
        base_model_id=base.id,
        dataset_id=id,
        snapshot_digest=snapshot.digest,
    )
    lora = await either.register(**either.adapter(full.id))

    async def lineage(model_id: int) -> pb.GetModelLineageResponse:
        return await either.stub.GetModelLineage(pb.GetModelLineageRequest(model_id=model_id))

    assert [model.id for model in (await lineage(lora.id)).ancestors] == [full.id, base.id]
    middle = await lineage(full.id)
    assert (middle.model, list(middle.children), middle.snapshot) == (full, [lora], snapshot)
    assert middle.dataset.id == id
    await either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id))
    middle = await lineage(full.id)
    assert not middle.HasField("dataset")
    assert middle.snapshot == snapshot
    with refused(NotFound):
        await lineage(9999)


async def test_seeding_gives_the_guides_ids_however_often_and_whenever(either: Catalog) -> None:
    early = await either.register()
    answers = await asyncio.gather(*(seed(either) for _ in range(4)))
    assert sorted(id for answer in answers for id in answer.added_ids) == [1, 2, 3, 4]
    again = await seed(either)
    assert not again.added_ids
    assert [model.id for model in again.models] == [1, 2, 3, 4]
    for model in again.models[:3]:
        assert (model.name, model.hub.repo_id, model.hub.revision) == SEEDED[model.id]
        assert model.type == model_pb2.MODEL_TYPE_BASE_MODEL
    assert [model.native_resolution for model in again.models[:3]] == [512, 1024, 1024]
    assert again.models[2].category == model_pb2.MODEL_CATEGORY_VIDEO
    assert early.id == 101
    assert (await either.register()).id == 102


async def test_the_starter_model_follows_the_files_in_its_folder(catalog: Catalog, starter: Path) -> None:
    first = (await seed(catalog)).models[3]
    assert [file.path for file in first.stored.files] == [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert all(catalog.blobs.size(file.sha256) == file.size_bytes for file in first.stored.files)
    assert (await seed(catalog)).models[3] == first
    (starter / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"better weights")
    second = (await seed(catalog)).models[3]
    assert second.digest != first.digest
    assert second.size_bytes == first.size_bytes + len(b"better ")


async def test_seeding_leaves_what_people_changed(catalog: Catalog) -> None:
    await seed(catalog)
    rename = pb.UpdateModelRequest(model_id=1, update_mask=FieldMask(paths=["name", "is_active"]))
    rename.model.name = "Mine"
    await catalog.stub.UpdateModel(rename)
    found = (await seed(catalog)).models[0]
    assert (found.name, found.is_active) == ("Mine", False)


async def test_seeding_without_a_starter_model_says_where_it_should_be(catalog: Catalog, starter: Path) -> None:
    (starter / "model_index.json").unlink()
    with refused(FailedPrecondition, reason="STARTER_MODEL_MISSING", words=str(starter)):
        await seed(catalog)
