"""The gallery: found, kept, held once, removed with the last that has it, and held within bounds."""

import json
import os
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc

from services.common.blobs import BlobStore
from services.common.database import create_engine, open_database
from services.generator.__main__ import MIGRATIONS
from services.generator.domain import Syntax
from services.generator.keeping import FOLDER, YOUNG_SECONDS, Keeper
from services.generator.store import Store
from tests.generator.conftest import Studio
from tests.generator.house import settled
from tests.generator.test_beginning import begun_with, picture, png
from tests.generator.test_generate import draw, settings


async def drawn(generator: Any, model_id: int, **fields: Any) -> pb.Generation:
    return (await draw(generator, settings(model_id, **{"steps": 1, **fields}))).generation


async def found(generator: Any, **filters: Any) -> list[str]:
    answer = await generator.ListGenerations(rpc.ListGenerationsRequest(**filters))
    assert answer.total_size == len(answer.generations)
    return [each.id for each in answer.generations]


async def keep(generator: Any, generation: pb.Generation, is_kept: bool = True) -> pb.Generation:
    request = rpc.UpdateGenerationRequest(generation_id=generation.id, is_kept=is_kept)
    return (await generator.UpdateGeneration(request)).generation


async def delete(generator: Any, generation: pb.Generation) -> None:
    await generator.DeleteGeneration(rpc.DeleteGenerationRequest(generation_id=generation.id))


def own(studio: Studio) -> BlobStore:
    """Where the Generator keeps its bytes."""
    return BlobStore(studio.blobs.root / FOLDER)


async def test_generations_are_found_by_model_words_and_whether_they_are_kept(studio: Studio, generator: Any) -> None:
    base, lora = studio.base_id, studio.lora_id
    plain = await drawn(generator, base, prompt="A Red Äpfel")
    mixed = await drawn(generator, base, prompt="100% blue", loras=[pb.LoraWeight(model_id=lora)])
    grid = await drawn(generator, base, grid=pb.Grid(prompts=["a star", "a heart"], model_ids=[lora]))
    assert await found(generator, model_id=base) == [grid.id, mixed.id, plain.id]
    assert await found(generator, model_id=lora) == [grid.id, mixed.id]
    assert await found(generator, model_id=4242) == []
    assert await found(generator, prompt_contains="red äPFEL") == [plain.id]
    assert await found(generator, prompt_contains="0% b") == [mixed.id]
    assert await found(generator, prompt_contains="%") == [mixed.id]
    assert await found(generator, prompt_contains="HEART") == [grid.id]
    assert (await keep(generator, mixed)).is_kept
    assert await found(generator, is_kept=True) == [mixed.id]
    assert await found(generator, is_kept=False) == [grid.id, plain.id]
    assert await found(generator, is_kept=False, model_id=lora) == [grid.id]
    unchanged = rpc.UpdateGenerationRequest(generation_id=mixed.id)
    assert (await generator.UpdateGeneration(unchanged)).generation.is_kept
    assert not (await keep(generator, mixed, is_kept=False)).is_kept
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keep(generator, pb.Generation(id=str(uuid.uuid4())))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_equal_pictures_are_kept_once_and_leave_with_the_last(studio: Studio, generator: Any) -> None:
    one, two = [await drawn(generator, studio.base_id, deterministic=True) for _ in range(2)]
    digest = one.images[0].sha256
    assert two.images[0].sha256 == digest
    files = [path for path in own(studio).root.rglob("*") if path.is_file()]
    assert files == [own(studio).location(digest)]
    assert not studio.blobs.exists(digest)
    await delete(generator, one)
    assert own(studio).exists(digest)
    await delete(generator, two)
    assert not own(studio).exists(digest)


async def test_what_a_generation_began_with_stays_as_long_as_one_began_with_it(studio: Studio, generator: Any) -> None:
    first = await drawn(generator, studio.base_id)
    digest = first.images[0].sha256
    parent = pb.GeneratedImageRef(generation_id=first.id, index=0)
    begun = pb.ImageToImage(image=pb.InputImage(generated=parent))
    second = await drawn(generator, studio.base_id, image_to_image=begun)
    await delete(generator, first)
    assert own(studio).exists(digest)
    again = pb.ImageToImage(image=pb.InputImage(sha256=digest))
    assert await drawn(generator, studio.base_id, image_to_image=again)
    for generation in (await generator.ListGenerations(rpc.ListGenerationsRequest())).generations:
        assert generation.id != first.id
        await delete(generator, generation)
    assert not own(studio).exists(digest)
    assert list(second.parents) == [parent]


async def test_bytes_of_other_services_stay(studio: Studio, generator: Any) -> None:
    data = png(picture())
    digest = studio.blobs.put(data)  # as a dataset has it
    generation = await drawn(generator, studio.base_id, image_to_image=begun_with(data))
    await delete(generator, generation)
    assert not own(studio).exists(digest)
    assert studio.blobs.exists(digest)


async def test_the_oldest_leave_when_the_gallery_is_too_large(studio: Studio) -> None:
    async with studio.generator() as generator:
        several = [await drawn(generator, studio.base_id, seed=seed) for seed in range(5)]
        await keep(generator, several[0])
        sizes = [each.images[0].size_bytes for each in several]
    most = sizes[0] + sizes[3] + sizes[4] + 10
    async with studio.generator(max_gallery_bytes=most, tidy_seconds=0.05) as generator:

        async def is_small() -> bool:
            return len(await found(generator)) <= 3

        assert await settled(is_small)
        assert await found(generator) == [several[index].id for index in (4, 3, 0)]
        assert not own(studio).exists(several[1].images[0].sha256)
        capabilities = await generator.GetGeneratorCapabilities(rpc.GetGeneratorCapabilitiesRequest())
        assert capabilities.max_gallery_bytes == most


async def test_the_old_leave_and_the_kept_stay(studio: Studio) -> None:
    async with studio.generator() as generator:
        kept, old, new = [await drawn(generator, studio.base_id, seed=seed) for seed in range(3)]
        await keep(generator, kept)
    with sqlite3.connect(studio.data / "generator.sqlite") as database:
        date = "2020-01-01 00:00:00.000000"
        database.execute("UPDATE generations SET finished_at = ? WHERE id IN (?, ?)", (date, kept.id, old.id))
    async with studio.generator(max_age_days=30, tidy_seconds=0.05) as generator:

        async def is_tidy() -> bool:
            return len(await found(generator)) <= 2

        assert await settled(is_tidy)
        assert await found(generator) == [new.id, kept.id]


async def test_what_a_crash_has_left_is_swept(tmp_path: Path) -> None:
    engine = await open_database(
        f"sqlite+aiosqlite:///{tmp_path / 'it.sqlite'}", schema="generator", migrations=MIGRATIONS
    )
    blobs = BlobStore(tmp_path / "blobs")
    keeper, folder = Keeper(Store(engine), blobs), BlobStore(blobs.root / FOLDER)
    old, young = folder.put(b"old"), folder.put(b"young")
    long_ago = time.time() - YOUNG_SECONDS - 10
    os.utime(folder.location(old), (long_ago, long_ago))
    async with keeper.keep([b"old"]):  # somebody has it just now
        await keeper.sweep(old[:2])
        assert folder.exists(old)
    await keeper.sweep(young[:2])
    await keeper.sweep(old[:2])
    assert not folder.exists(old)
    assert folder.exists(young)
    await engine.dispose()


async def test_generations_of_an_earlier_version_are_there(database_url: str) -> None:
    """Its rows know neither prompts to search nor formats."""
    settings = {
        "model_id": 3,
        "prompt": "A (Red) Apple",
        "negative_prompt": "blue",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "scheduler": None,
        "seed": 7,
        "count": 1,
        "lora_weight": 0.5,
        "loras": [{"model_id": 5, "weight": 1.0}],
    }
    old = create_engine(database_url, schema="generator")

    def upgrade(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text('CREATE SCHEMA IF NOT EXISTS "generator"'))
        command.upgrade(config, "0001")
        values = {"id": "x" * 36, "settings": json.dumps(settings), "at": "2026-01-01 00:00:00+00:00"}
        connection.execute(
            sa.text(
                "INSERT INTO generations (id, status, model_id, model_name, settings, created_at, warnings)"
                " VALUES (:id, 'completed', 3, 'm', :settings, :at, '[]')"
            ),
            values,
        )
        connection.execute(
            sa.text(
                "INSERT INTO generated_images (generation_id, position, seed, sha256, width, height, size_bytes)"
                " VALUES (:id, 0, 7, 'ab', 64, 64, 100)"
            ),
            values,
        )

    async with old.connect() as connection:
        await connection.run_sync(upgrade)
        await connection.commit()
    await old.dispose()
    engine = await open_database(database_url, schema="generator", migrations=MIGRATIONS)
    store = Store(engine)
    for filters in ({"model_id": 5}, {"prompt_contains": "(red)"}, {"is_kept": False}):
        ([generation], _, total) = await store.page(10, **filters)
        assert total == 1
    [picture] = generation.pictures
    assert (picture.prompt, picture.negative_prompt, picture.model_id, picture.lora_weight) == (
        "A (Red) Apple",
        "blue",
        3,
        0.5,
    )
    assert picture.content_type == "image/png"
    assert generation.settings.prompt_syntax is Syntax.PLAIN
    assert await store.gallery_bytes() == 100
    assert await store.delete(generation.id) == {"ab": 100}
    assert await store.gallery_bytes() == 0
    await engine.dispose()
