"""Datasets captioned by a real process with a narrow model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import dataset_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.trainer.v1 import trainer_service_pb2 as pb

from services.common.blobs import BlobStore
from services.common.clients import open_channel
from services.common.errors import InvalidArgument, NotFound
from services.trainer.__main__ import serving
from services.trainer.config import TrainerSettings
from tests.tiny import WORDS, make_tiny_captioner
from tests.trainer.conftest import RunningCatalog
from tests.trainer.house import Client, client_of
from tests.trainer.test_training import refusal

if TYPE_CHECKING:  # in the stubs of the generated code alone
    from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_captioner(tmp_path_factory.mktemp("models") / "tiny-blip")


@pytest.fixture
async def house(given: TrainerSettings, catalog: RunningCatalog, folder: Path) -> AsyncIterator[Client]:
    own = given.model_copy(update={"caption_model": str(folder), "heartbeat_seconds": 0.3})
    async with serving(own) as server, client_of(server.address, catalog.known) as client:
        yield client


@asynccontextmanager
async def pictures_of(catalog: RunningCatalog) -> AsyncIterator["CatalogServiceAsyncStub"]:
    async with open_channel(catalog.address) as channel:
        yield CatalogServiceStub(channel)


async def images(catalog: RunningCatalog) -> list[dataset_pb2.Image]:
    async with pictures_of(catalog) as stub:
        listed = await stub.ListImages(catalog_pb2.ListImagesRequest(dataset_id=catalog.known.dataset_id))
        return list(listed.images)


async def caption(client: Client, **more: object) -> list[pb.CaptionDatasetResponse]:
    request = pb.CaptionDatasetRequest(dataset_id=client.known.dataset_id, **more)  # type: ignore[arg-type]  # a test's choice
    return [answer async for answer in client.stub.CaptionDataset(request)]


def captioners() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if any("captioner" in part for part in each.cmdline())]


async def test_pictures_without_a_caption_get_one_and_those_with_one_keep_it(
    house: Client, catalog: RunningCatalog, blobs: BlobStore, given: TrainerSettings
) -> None:
    mine, damaged, free = await images(catalog)
    async with pictures_of(catalog) as stub:
        await stub.UpdateImage(catalog_pb2.UpdateImageRequest(image_id=mine.id, caption="mine"))
    blobs.path(damaged.sha256).write_bytes(b"no picture")
    answers = await caption(house, prefix="sks, ", max_tokens=5)
    told = [answer.progress for answer in answers if answer.HasField("progress")]
    (written,) = [each for each in told if each.image_id]
    assert (written.image_id, written.done, written.total) == (free.id, 2, 2)
    assert any(each.total == 2 and each.done == 0 for each in told), (
        "how many there are is said before the model is read"
    )
    words = written.caption.removeprefix("sks, ").split()
    assert 0 < len(words) <= 5
    assert set(words) <= set(WORDS)
    summary = answers[-1].summary
    assert (summary.num_captioned, summary.num_kept, list(summary.damaged_image_ids)) == (1, 1, [damaged.id])
    assert [image.caption for image in await images(catalog)] == ["mine", "", written.caption]
    again = (await caption(house, overwrite=True))[-1].summary
    assert (again.num_captioned, again.num_kept) == (2, 0)
    assert all(
        image.caption not in ("mine", written.caption) for image in await images(catalog) if image.id != damaged.id
    )
    assert not list((given.data_dir / "jobs").glob("caption-*")), "nothing is left behind"


async def test_a_client_who_leaves_ends_the_process_and_the_next_has_its_turn(house: Client) -> None:
    request = pb.CaptionDatasetRequest(dataset_id=house.known.dataset_id)
    first = house.stub.CaptionDataset(request)
    async with asyncio.timeout(60):
        while not captioners():  # noqa: ASYNC110  # a process has no event
            await asyncio.sleep(0.05)
    waiting = house.stub.CaptionDataset(request)
    answers = aiter(waiting)
    assert (await anext(answers)).progress.total == 0, "it is told that it is waited for"
    assert len(captioners()) == 1
    first.cancel()
    *_, last = [answer async for answer in answers]
    assert last.summary.num_captioned == 3
    assert not captioners()


async def test_what_cannot_be_captioned_says_why(house: Client, catalog: RunningCatalog) -> None:
    async def refused(**asked: object) -> object:
        request = pb.CaptionDatasetRequest(**asked)  # type: ignore[arg-type]  # a test's choice
        return await refusal(house.stub.CaptionDataset(request).read())

    assert isinstance(await refused(dataset_id=999), NotFound)
    assert (await refused(dataset_id=catalog.known.empty_dataset_id)).reason == "EMPTY_DATASET"  # type: ignore[attr-defined]  # an error
    async with pictures_of(catalog) as stub:
        clips = catalog_pb2.CreateDatasetRequest(name="clips", type=dataset_pb2.DATASET_TYPE_VIDEO)
        made = await stub.CreateDataset(clips)
    assert (await refused(dataset_id=made.dataset.id)).reason == "UNSUPPORTED_DATASET_TYPE"  # type: ignore[attr-defined]  # an error
    error = await refusal(caption(house, prefix="a\x00b"))
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == ["prefix"]


@pytest.mark.parametrize(
    ("model", "reason", "words"),
    [
        ("", "CAPTIONING_UNAVAILABLE", "ATELIER_TRAINER_CAPTION_MODEL"),
        ("/no/such/folder", "WEIGHTS_UNAVAILABLE", "neither a folder nor"),
    ],
)
async def test_without_a_model_captioning_is_refused_with_what_to_do(
    given: TrainerSettings, catalog: RunningCatalog, model: str, reason: str, words: str
) -> None:
    own = given.model_copy(update={"caption_model": model})
    async with serving(own) as server, client_of(server.address, catalog.known) as client:
        error = await refusal(caption(client))
        assert (error.reason, words in error.message) == (reason, True)
        assert not captioners()


async def test_capabilities_name_the_model(house: Client) -> None:
    assert (await house.stub.GetTrainerCapabilities(pb.GetTrainerCapabilitiesRequest())).caption_model == "tiny-blip"
