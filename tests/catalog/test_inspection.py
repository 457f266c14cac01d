"""What is found in a dataset before it is trained on."""

import io
import random
from collections.abc import Callable

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from google.api.httpbody_pb2 import HttpBody
from PIL import Image, ImageFilter

from services.catalog.domain import Measures
from services.catalog.inspection import measure
from services.catalog.store import Store
from services.common.blobs import BlobStore
from services.common.errors import NotFound
from tests.catalog.house import Catalog, refused, sha256

KINDS = {name.removeprefix("FINDING_KIND_").lower(): number for name, number in pb.FindingKind.items()}


def blots(seed: int, size: tuple[int, int] = (600, 600), cells: int = 40) -> Image.Image:
    """Coloured squares, that no other seed gives."""
    noise = Image.frombytes("RGB", (cells, cells), random.Random(seed).randbytes(cells * cells * 3))
    return noise.resize(size, Image.Resampling.NEAREST)


def encoded(picture: Image.Image, format: str = "PNG", **options: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, format, **options)
    return data.getvalue()


async def filled(catalog: Catalog, files: dict[str, tuple[bytes, str]]) -> tuple[int, dict[str, int]]:
    """A dataset of (bytes, caption) by names, and the images' ids."""
    dataset_id = await catalog.dataset("inspected")
    ids = {}
    for name, (data, caption) in files.items():
        request = pb.UploadImageRequest(dataset_id=dataset_id, filename=name, caption=caption)
        request.content.CopyFrom(HttpBody(content_type="image/png", data=data))
        ids[name] = (await catalog.stub.UploadImage(request)).image.id
    return dataset_id, ids


async def inspected(catalog: Catalog, dataset_id: int, resolution: int = 0) -> pb.DatasetInspection:
    request = pb.InspectDatasetRequest(dataset_id=dataset_id, resolution=resolution)
    answers = [answer async for answer in catalog.stub.InspectDataset(request)]
    progress = [(answer.progress.done, answer.progress.total) for answer in answers[:-1]]
    assert progress == sorted(progress)
    assert all(done <= total for done, total in progress)
    return answers[-1].inspection


def found(inspection: pb.DatasetInspection, kind: str) -> list[tuple[list[int], str]]:
    return [(list(each.image_ids), each.detail) for each in inspection.findings if each.kind == KINDS[kind]]


async def test_each_flaw_is_found_where_it_is_and_nowhere_else(either: Catalog, blobs: BlobStore) -> None:
    plain = blots(1)
    photo = Image.effect_noise((600, 600), 60).convert("RGB")
    photo.paste((255, 255, 255), (0, 0, 600, 60))
    files = {
        "sound.png": (encoded(blots(2)), "a red thing on a table"),
        "original.png": (encoded(plain), "blots"),
        "again.webp": (encoded(plain, "WEBP", lossless=True), "blots once more"),
        "smaller.jpg": (encoded(plain.resize((540, 540)), "JPEG", quality=80), "fewer blots"),
        "tiny.png": (encoded(blots(3, (100, 300))), "a tall thing"),
        "blurred.png": (encoded(blots(4).filter(ImageFilter.GaussianBlur(20))), "fog"),
        "burnt.png": (encoded(photo), "too much light"),
        "silent.png": (encoded(blots(5)), "  "),
        "IMG_2041.png": (encoded(blots(6)), "IMG_2041"),
        "holiday.png": (encoded(blots(7)), "DSC 00017"),
        "gone.png": (encoded(blots(8)), "it was here"),
    }
    dataset_id, ids = await filled(either, files)
    blobs.delete(sha256(files["gone.png"][0]))
    answer = await inspected(either, dataset_id)
    assert (answer.num_images, answer.resolution) == (11, 512)

    def named(*names: str) -> list[tuple[list[int], str]]:
        return [([ids[name] for name in names], "")]

    assert found(answer, "damaged") == named("gone.png")
    assert found(answer, "exact_duplicates") == named("original.png", "again.webp")
    assert found(answer, "near_duplicates") == named("original.png", "again.webp", "smaller.jpg")
    assert found(answer, "too_small") == named("tiny.png")
    assert found(answer, "blurred") == named("blurred.png")
    assert found(answer, "clipped") == named("burnt.png")
    assert found(answer, "missing_caption") == named("silent.png")
    assert found(answer, "boilerplate_caption") == named("IMG_2041.png", "holiday.png")
    order = [each.kind for each in answer.findings]
    assert order == sorted(order)
    assert {(each.width, each.height): each.num_images for each in answer.buckets} == {(512, 512): 10, (64, 192): 1}
    assert [each.num_images for each in answer.buckets] == [10, 1], "the most common first"

    small = await inspected(either, dataset_id, resolution=64)
    assert (small.resolution, found(small, "too_small")) == (64, [])


async def test_one_caption_on_many_pictures_says_nothing(catalog: Catalog) -> None:
    captions = ["a cat"] * 5 + [f"a cat on chair {number}" for number in range(5)]
    files = {f"{place}.png": (encoded(blots(place)), caption) for place, caption in enumerate(captions)}
    dataset_id, ids = await filled(catalog, files)
    answer = await inspected(catalog, dataset_id)
    assert found(answer, "boilerplate_caption") == [([ids[f"{place}.png"] for place in range(5)], "a cat")]


async def test_a_drawing_on_white_is_neither_clipped_nor_blurred(catalog: Catalog) -> None:
    drawing = Image.new("RGB", (600, 600), "white")
    drawing.paste((0, 0, 0), (200, 200, 400, 400))
    dataset_id, _ = await filled(catalog, {"square.png": (encoded(drawing), "a square")})
    assert list((await inspected(catalog, dataset_id)).findings) == []


async def test_an_empty_dataset_has_no_findings_and_a_missing_one_is_said(catalog: Catalog) -> None:
    dataset_id = await catalog.dataset("nothing yet")
    answer = await inspected(catalog, dataset_id)
    assert (answer.num_images, list(answer.findings), list(answer.buckets)) == (0, [], [])
    with refused(NotFound):
        await inspected(catalog, 4711)


async def test_more_pictures_than_are_named_are_counted(catalog: Catalog) -> None:
    files = {f"{place:03}.png": (encoded(blots(place, (32, 32), 8)), "") for place in range(120)}
    dataset_id, ids = await filled(catalog, files)
    (silent,) = [
        each for each in (await inspected(catalog, dataset_id)).findings if each.kind == KINDS["missing_caption"]
    ]
    assert silent.num_images == 120
    assert list(silent.image_ids) == sorted(ids.values())[:100]


async def test_a_picture_is_measured_once(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[bytes] = []

    def counting(original: Callable[..., Measures]) -> Callable[..., Measures]:
        def count(data: bytes, **more: bool) -> Measures:
            measured.append(data)
            return original(data, **more)

        return count

    monkeypatch.setattr("services.catalog.inspection.measure", counting(measure))
    dataset_id, _ = await filled(catalog, {f"{place}.png": (encoded(blots(place)), "a") for place in range(3)})
    first = await inspected(catalog, dataset_id)
    assert len(measured) == 3
    assert await inspected(catalog, dataset_id) == first
    assert len(measured) == 3


async def test_measures_come_back_as_they_were_on_both_databases(store: Store) -> None:
    known = {"ab" * 32: Measures(2**64 - 1, "cd" * 32, 123.25, 0.5), "ef" * 32: Measures(0, "01" * 32, 0.0, 0.0)}
    await store.remember_measures(known)
    await store.remember_measures(known)
    assert await store.measures([*known, "00" * 32]) == known
