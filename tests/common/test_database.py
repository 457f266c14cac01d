import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common.database import create_engine, open_database
from services.common.errors import Unavailable
from services.common.rows import Transactions

MIGRATIONS = Path("services/catalog/migrations").resolve()


async def test_replicas_that_start_together_migrate_once(database_url: str) -> None:
    opened = [open_database(database_url, schema="catalog", migrations=MIGRATIONS) for _ in range(4)]
    engines = await asyncio.gather(*opened)
    async with engines[0].connect() as connection:
        versions = (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).all()
    for engine in engines:
        await engine.dispose()
    assert len(versions) == 1


async def test_two_services_share_a_postgres_in_schemas_of_their_own(postgres_url: str) -> None:
    engines = [await open_database(postgres_url, schema=name, migrations=MIGRATIONS) for name in ("one", "two")]
    async with engines[0].begin() as connection:
        await connection.execute(sa.text("INSERT INTO thumbnails VALUES ('a', 'b')"))
    async with engines[1].connect() as connection:
        seen = (await connection.execute(sa.text("SELECT count(*) FROM thumbnails"))).scalar_one()
    for engine in engines:
        await engine.dispose()
    assert seen == 0


async def test_sqlite_runs_with_wal_and_foreign_keys(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.sqlite'}", schema="any")
    async with engine.connect() as connection:
        mode = (await connection.execute(sa.text("PRAGMA journal_mode"))).scalar_one()
        keys = (await connection.execute(sa.text("PRAGMA foreign_keys"))).scalar_one()
    await engine.dispose()
    assert (mode, keys) == ("wal", 1)


async def test_a_database_out_of_reach_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable) as caught:
        await open_database("postgresql://me:secret@127.0.0.1:1/x", schema="s", migrations=MIGRATIONS, attempts=1)
    assert "127.0.0.1" in caught.value.message
    assert "secret" not in caught.value.message


def test_other_databases_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mysql"):
        create_engine("mysql://host/db", schema="s")


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_cancelled_transaction_leaves_no_lock_and_no_row_wherever_it_was(
    database_url: str, cancellations: int
) -> None:
    """Its task is cancelled after each number of turns of the loop, so at every place where it waits."""
    rows = sa.Table(
        "rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.Integer)
    )
    engine = create_engine(database_url, schema="public")
    async with engine.begin() as connection:
        await connection.run_sync(rows.metadata.create_all)
        await connection.execute(sa.insert(rows).values(value=0))
    db = Transactions(engine, "the test")
    committed = 0

    async def write() -> None:
        nonlocal committed
        async with db.begin() as connection:
            update = sa.update(rows).where(rows.c.id == 1).values(value=rows.c.value + 1).returning(rows.c.value)
            (await connection.execute(update)).one()
            await connection.execute(sa.insert(rows), [{"value": 1}, {"value": 2}])
        committed += 1

    cut = 0
    for turns in range(60):
        task = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        cut += task.cancelled()
        async with asyncio.timeout(10):  # a lock that stayed would be waited for for 30 seconds
            await write()
    async with db.read() as connection:
        value = (await connection.execute(sa.select(rows.c.value).where(rows.c.id == 1))).scalar_one()
        others = (await connection.execute(sa.select(sa.func.count()).where(rows.c.id != 1))).scalar_one()
    await engine.dispose()
    assert cut > 0
    assert others == 2 * value
    assert committed <= value <= committed + cut


async def test_a_snapshot_sees_one_moment_and_the_next_one_what_came_since(database_url: str) -> None:
    rows = sa.Table("rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    engine = create_engine(database_url, schema="public")
    async with engine.begin() as connection:
        await connection.run_sync(rows.metadata.create_all)
        await connection.execute(sa.insert(rows), [{"id": 1}, {"id": 2}])
    db = Transactions(engine, "the test")
    count = sa.select(sa.func.count()).select_from(rows)
    seen = []
    for id in (1, 2):
        async with db.snapshot() as connection:
            seen.append(await connection.scalar(count))
            async with db.begin() as other:
                await other.execute(sa.delete(rows).where(rows.c.id == id))
            seen.append(await connection.scalar(count))
    async with db.read() as connection:
        seen.append(await connection.scalar(count))
    await engine.dispose()
    assert seen == [2, 2, 1, 1, 0]
