"""Clips and masks through the SDK and the command, against a real Catalog."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from atelier_client import Atelier
from atelier_client.cli import app
from atelier_client.errors import FailedPrecondition, NotFound
from PIL import Image
from typer.testing import CliRunner, Result

from services.common.blobs import BlobStore
from tests.catalog.house import Catalog, catalog_at
from tests.clips_made import animation, film


@pytest.fixture
async def catalog(tmp_path: Path, blobs: BlobStore) -> AsyncIterator[Catalog]:
    async with catalog_at(tmp_path / "catalog", blobs) as running:
        yield running


@pytest.fixture
def client(catalog: Catalog) -> Atelier:
    return Atelier(catalog=catalog.address, trainer="127.0.0.1:1", generator="127.0.0.1:1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, of which two have masks, one of these a bad one."""
    folder = tmp_path / "pictures"
    (folder / "masks").mkdir(parents=True)
    for place, name in enumerate(("cat", "dog", "owl")):
        Image.new("RGB", (40, 30), (80 * place, 200, 90)).save(folder / f"{name}.png")
    Image.new("L", (20, 15), 255).save(folder / "cat-masklabel.png")
    (folder / "masks" / "dog.png").write_bytes(b"not a picture")
    return folder


async def command(catalog: Catalog, *words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["--catalog", catalog.address, *words])


async def test_masks_beside_pictures_go_up_with_them(client: Atelier, folder: Path) -> None:
    def work() -> None:
        made = client.datasets.create("pets")
        summary = client.datasets.upload(made, folder)
        assert [image.filename for image in summary.accepted] == ["cat.png", "dog.png", "owl.png"]
        assert summary.masks == 1
        assert [(file.filename, "not a JPEG" in file.message) for file in summary.refused] == [("dog.png", True)]
        cat, dog, _ = client.datasets.images(made)
        assert Image.open(io.BytesIO(client.datasets.mask_bytes(cat))).size == (40, 30)
        with pytest.raises(NotFound, match="no mask"):
            client.datasets.mask_bytes(dog)

    await asyncio.to_thread(work)


async def test_masks_that_come_later_are_given_to_pictures_that_are_there(client: Atelier, folder: Path) -> None:
    def work() -> None:
        made = client.datasets.create("pets")
        client.datasets.upload(made, folder)
        Image.new("L", (40, 30), 0).save(folder / "masks" / "dog.png")
        again = client.datasets.upload(made, folder)
        assert (len(again.already_there), again.masks, again.refused) == (3, 2, [])
        assert [bool(image.mask_sha256) for image in client.datasets.images(made)] == [True, True, False]

    await asyncio.to_thread(work)


async def test_a_mask_is_set_and_cleared_by_hand(client: Atelier, folder: Path, tmp_path: Path) -> None:
    def work() -> None:
        made = client.datasets.create("pets")
        client.datasets.upload(made, folder / "owl.png")
        (owl,) = client.datasets.images(made)
        assert client.datasets.set_mask(owl, folder / "cat-masklabel.png").mask_sha256
        assert client.datasets.clear_mask(owl.id).mask_sha256 == ""
        films = client.datasets.create("films", type="video")
        (tmp_path / "a.mp4").write_bytes(film())
        (clip,) = client.datasets.upload(films, tmp_path / "a.mp4").accepted
        with pytest.raises(FailedPrecondition, match="is a clip"):
            client.datasets.set_mask(clip, folder / "owl.png")

    await asyncio.to_thread(work)


async def test_the_command_sends_clips_and_masks_and_shows_them(catalog: Catalog, folder: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "fade.mp4").write_bytes(film(12, 12))
    (clips / "fade.txt").write_text("a fade")
    (clips / "blink.gif").write_bytes(animation("GIF"))
    await command(catalog, "datasets", "create", "films", "--type", "video")
    assert (await command(catalog, "datasets", "upload", "films", str(clips))).exit_code == 0
    shown = (await command(catalog, "datasets", "show", "films")).output
    assert "64x48, 12 frames at 12/s" in shown
    assert "a fade" in shown

    await command(catalog, "datasets", "create", "pets")
    uploaded = await command(catalog, "datasets", "upload", "pets", str(folder))
    assert uploaded.exit_code == 1  # a mask was refused
    assert "3 uploaded, 1 masked, 1 refused" in uploaded.output
    owl = str((await catalog.images(2))[-1].id)
    assert (await command(catalog, "datasets", "mask", owl, str(folder / "cat-masklabel.png"))).exit_code == 0
    assert (await command(catalog, "datasets", "show", "pets")).output.count("masked") == 2
    assert (await command(catalog, "datasets", "mask", owl, "--clear")).exit_code == 0
    assert (await command(catalog, "datasets", "show", "pets")).output.count("masked") == 1
    assert (await command(catalog, "datasets", "mask", owl)).exit_code == 1
