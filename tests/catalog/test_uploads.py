"""Many files on one stream, good and bad."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import dataset_pb2
from PIL import Image

from services.catalog import domain, uploads
from services.catalog.store import Store
from services.common.blobs import BlobStore
from services.common.errors import InvalidArgument, NotFound
from tests.catalog.house import Catalog, chunk, opened, parts, png, refused, sha256, start
from tests.pictures_made import animated, encoded, png_bomb, solid

NOISE = Image.effect_noise((64, 64), 90)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6

BAD = {
    "torn.jpg": (encoded(NOISE, "JPEG")[:-200], "CORRUPT", "decode to its end"),
    "text.png": (b"just some text", "UNSUPPORTED_FORMAT", "not a JPEG, PNG or WebP"),
    "bomb.png": (png_bomb(), "TOO_MANY_PIXELS", "30000 x 30000"),
    "nothing.png": (b"", "EMPTY", "empty"),
    "dance.gif": (animated("GIF"), "UNSUPPORTED_FORMAT", "GIF"),
    "dance.webp": (animated("WEBP"), "UNSUPPORTED_FORMAT", "animated"),
    "dot.png": (png(0, (4, 4)), "TOO_SMALL", "too small"),
    "../escape.png": (png(1), "BAD_FILENAME", "plain file name"),
    "..": (png(1), "BAD_FILENAME", "plain file name"),
    "": (png(1), "BAD_FILENAME", "empty"),
    "C:\\x.png": (png(1), "BAD_FILENAME", "plain file name"),
    "x" * 296 + ".png": (png(1), "BAD_FILENAME", "300 bytes"),
    "🎨" * 64 + ".png": (png(1), "BAD_FILENAME", "260 bytes"),
}
GOOD = {
    "rotated.jpg": (encoded(solid("RGB", "red", (40, 20)), "JPEG", exif=ROTATED), (20, 40), "JPEG"),
    "print.jpg": (encoded(solid("CMYK", (9, 99, 199, 0), (32, 24)), "JPEG"), (32, 24), "JPEG"),
    "scan.png": (encoded(solid("I;16", 0x8080, (33, 24))), (33, 24), "PNG"),
    "palette.png": (encoded(solid("RGB", (200, 30, 90)).convert("P")), (32, 24), "PNG"),
    "grey.webp": (encoded(solid("L", 90), "WEBP"), (32, 24), "WEBP"),
    "🎨 élève 家.png": (png(2), (24, 16), "PNG"),
    "really a png.jpg": (png(3), (24, 16), "PNG"),
    "x" * 251 + ".png": (png(4), (24, 16), "PNG"),
}


def reasons(answer: pb.UploadImagesResponse) -> dict[str, str]:
    prefix = "UPLOAD_REFUSAL_"
    return {each.filename: pb.UploadRefusal.Name(each.reason).removeprefix(prefix) for each in answer.refused}


async def test_each_kind_of_bad_file_is_refused_with_its_reason_and_sinks_no_other(either: Catalog) -> None:
    id = await either.dataset()
    files = [(name, data) for name, (data, _, _) in BAD.items()] + [(name, data) for name, (data, _, _) in GOOD.items()]
    random.Random(1).shuffle(files)
    answer = await either.stream(parts(id, files))
    assert reasons(answer) == {name: reason for name, (_, reason, _) in BAD.items()}
    for each in answer.refused:
        assert BAD[each.filename][2] in each.message
    assert {image.filename for image in answer.accepted} == set(GOOD)
    assert answer.dataset.num_items == await either.count_is_right(id) == len(GOOD)


async def test_odd_but_good_files_are_taken_with_the_size_that_people_see(catalog: Catalog) -> None:
    id = await catalog.dataset()
    answer = await catalog.stream(parts(id, [(name, data) for name, (data, _, _) in GOOD.items()]))
    for image in answer.accepted:
        data, size, format = GOOD[image.filename]
        assert (image.width, image.height) == size, image.filename
        assert dataset_pb2.ImageFormat.Name(image.format) == f"IMAGE_FORMAT_{format}"
        assert (image.sha256, image.size_bytes) == (sha256(data), len(data))
        assert catalog.blobs.get(image.sha256) == data
    assert [image.filename for image in answer.accepted] == list(GOOD)  # in the order they came


async def test_one_bad_file_among_a_thousand_keeps_the_others_and_says_why(catalog: Catalog) -> None:
    id = await catalog.dataset()
    files = [(f"{number:04}.png", png(number)) for number in range(1000)]
    files[613] = ("0613.png", encoded(NOISE)[:-200])
    answer = await catalog.stream(parts(id, files))
    assert len(answer.accepted) == 999
    assert reasons(answer) == {"0613.png": "CORRUPT"}
    assert "decode to its end" in answer.refused[0].message
    assert await catalog.count_is_right(id) == 999
    assert [image.filename for image in answer.accepted] == [name for name, _ in files if name != "0613.png"]


async def test_what_is_there_already_is_named_with_its_image(either: Catalog) -> None:
    id = await either.dataset()
    there = await either.upload(id, png(1), "there.png")
    answer = await either.stream(parts(id, [("a.png", png(1)), ("b.png", png(2)), ("c.png", png(2))]))
    (b,) = answer.accepted
    assert [(each.filename, each.image_id) for each in answer.duplicates] == [("a.png", there.id), ("c.png", b.id)]
    assert await either.count_is_right(id) == 2


async def test_captions_come_with_their_files(catalog: Catalog) -> None:
    id = await catalog.dataset()
    long = "é" * 10_001
    stream = [start(id), opened("a.png", caption="🍎 red\napple"), chunk(0, png(1)), opened("b.png", caption=long)]
    answer = await catalog.stream([*stream, chunk(0, png(2))])
    assert [image.caption for image in answer.accepted] == ["🍎 red\napple"]
    assert reasons(answer) == {"b.png": "BAD_CAPTION"}


async def test_announced_sizes_and_digests_are_held_against_the_bytes(catalog: Catalog) -> None:
    id, data = await catalog.dataset(), png(1)
    stream = [start(id)]
    announced: dict[str, dict[str, object]] = {
        "short": {"size_bytes": len(data) + 1},
        "long": {"size_bytes": len(data) - 1},
        "none": {"size_bytes": 0},
        "negative": {"size_bytes": -1},
        "other digest": {"sha256": sha256(b"other")},
        "no digest": {"sha256": "rubbish"},
        "right": {"size_bytes": len(data), "sha256": sha256(data).upper()},
    }
    for name, more in announced.items():
        stream += [opened(name, **more), chunk(0, data)]
    answer = await catalog.stream(stream)
    assert [image.filename for image in answer.accepted] == ["right"]
    assert set(reasons(answer).values()) == {"DIGEST_MISMATCH"}
    assert set(reasons(answer)) == set(announced) - {"right"}


async def test_a_chunk_at_another_place_refuses_its_file_alone(catalog: Catalog) -> None:
    id, data = await catalog.dataset(), png(1)
    stream = [start(id), opened("gap"), chunk(0, data[:40]), chunk(41, data[41:])]
    stream += [opened("late"), chunk(7, data), opened("again"), chunk(0, data[:40]), chunk(0, data)]
    stream += [opened("negative"), chunk(-1, data)]
    stream += [opened("whole"), chunk(0, data[:40]), chunk(40, b""), chunk(40, data[40:])]
    answer = await catalog.stream(stream)
    assert reasons(answer) == dict.fromkeys(("gap", "late", "again", "negative"), "BAD_OFFSET")
    assert [image.filename for image in answer.accepted] == ["whole"]


async def test_a_file_that_never_ends_is_cut_off_at_the_limit(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catalog.uploads.MAX_BYTES", 1000)
    id = await catalog.dataset()
    stream = [
        start(id),
        opened("endless"),
        *(chunk(600 * n, b"x" * 600) for n in range(5)),
        opened("a"),
        chunk(0, png(1)),
    ]
    answer = await catalog.stream(stream)
    assert reasons(answer) == {"endless": "TOO_MANY_BYTES"}
    assert len(answer.accepted) == 1


async def test_parts_in_a_wrong_order_end_the_stream_and_keep_what_came_before(either: Catalog) -> None:
    id = await either.dataset()
    for stream, field in (
        ([], "start"),
        ([opened("a")], "start"),
        ([chunk(0, b"x")], "start"),
        ([start(id), chunk(0, b"x")], "chunk"),
        ([start(id), opened("a.png"), chunk(0, png(1)), opened("b.png"), start(id)], "start"),
        ([start(id), opened("c.png"), chunk(0, png(2)), opened("d.png"), pb.UploadImagesRequest()], "part"),
        ([start(0)], "start.dataset_id"),
    ):
        with refused(InvalidArgument, field=field):
            await either.stream(stream)
    assert [image.filename for image in await either.images(id)] == ["a.png", "c.png"]
    await either.count_is_right(id)


async def test_a_stream_to_no_dataset_ends_at_once(either: Catalog) -> None:
    with refused(NotFound, words="dataset 99"):
        await either.stream(parts(99, [("a.png", png(1))]))


async def test_an_empty_stream_is_no_error(catalog: Catalog) -> None:
    answer = await catalog.stream([start(await catalog.dataset())])
    assert (len(answer.accepted), len(answer.refused), answer.dataset.num_items) == (0, 0, 0)


async def kept(catalog: Catalog, id: int, count: int) -> list[str]:
    """The names in a dataset, once there are `count`; nobody tells a client that was cut off."""
    async with asyncio.timeout(10):
        while len(images := await catalog.images(id)) < count:  # noqa: ASYNC110  # as said above
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # more would come now
    assert await catalog.count_is_right(id) == len(images)
    return [image.filename for image in images]


async def test_a_cut_stream_keeps_the_files_that_came_whole(either: Catalog) -> None:
    id, data = await either.dataset(), png(90)
    call = either.stub.UploadImages()
    for request in parts(id, [(f"{number:02}.png", png(number)) for number in range(80)]):
        await call.write(request)
    await call.write(opened("announced.png", size_bytes=len(data)))
    await call.write(chunk(0, data))
    await call.write(opened("half.png", size_bytes=len(png(91))))
    await call.write(chunk(0, png(91)[:50]))
    await asyncio.sleep(0.3)  # what was written lies with the server
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await kept(either, id, 81) == [f"{number:02}.png" for number in range(80)] + ["announced.png"]


async def test_a_cut_keeps_a_last_file_whose_announced_size_has_come(catalog: Catalog) -> None:
    id, data = await catalog.dataset(), png(1)
    call = catalog.stub.UploadImages()
    for request in (start(id), opened("whole.png", size_bytes=len(data)), chunk(0, data)):
        await call.write(request)
    await asyncio.sleep(0.2)
    call.cancel()
    assert await kept(catalog, id, 1) == ["whole.png"]


class Gated(Store):
    """A store that commits when it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._db)
        self.gate, self.waiting = asyncio.Event(), asyncio.Event()

    async def add_images(self, dataset_id: int, new: Sequence[domain.NewImage]) -> list[tuple[domain.Image, bool]]:
        self.waiting.set()
        await self.gate.wait()
        return await super().add_images(dataset_id, new)


async def test_a_cut_while_a_group_is_being_committed_loses_none_of_it(
    store: Store, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "GROUP_FILES", 2)
    id = (await store.create_dataset(name="a", type=domain.DatasetType.IMAGE, description="")).id
    gated = Gated(store)

    async def stream() -> AsyncIterator[uploads.FileStart | uploads.Chunk]:
        for number in range(5):
            yield uploads.FileStart(f"{number}.png")
            yield uploads.Chunk(0, png(number))

    with ThreadPoolExecutor(2) as threads:
        upload = asyncio.create_task(uploads.upload_images(gated, blobs, threads, id, stream()))
        await gated.waiting.wait()
        await asyncio.sleep(0.1)  # the first group waits for the gate, and the stream for the first group
        upload.cancel()
        await asyncio.sleep(0.1)
        gated.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
    images, _ = await store.list_images(id, limit=10)
    assert [image.filename for image in images] == ["0.png", "1.png", "2.png", "3.png"]


async def test_a_disk_that_fails_for_one_file_keeps_the_others(
    store: Store, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = (await store.create_dataset(name="a", type=domain.DatasetType.IMAGE, description="")).id
    full = sha256(png(1))
    put = BlobStore.put

    def failing(self: BlobStore, data: bytes, *, digest: str | None = None) -> str:
        if digest == full:
            raise OSError(28, "No space left on device")
        return put(self, data, digest=digest)

    monkeypatch.setattr(BlobStore, "put", failing)

    async def stream() -> AsyncIterator[uploads.FileStart | uploads.Chunk]:
        for number in range(3):
            yield uploads.FileStart(f"{number}.png")
            yield uploads.Chunk(0, png(number))

    with ThreadPoolExecutor(2) as threads, pytest.raises(OSError, match="No space"):
        await uploads.upload_images(store, blobs, threads, id, stream())
    images, _ = await store.list_images(id, limit=10)
    assert [image.filename for image in images] == ["0.png", "2.png"]


async def test_a_dataset_that_is_deleted_under_an_upload_ends_it(either: Catalog) -> None:
    id = await either.dataset()
    call = either.stub.UploadImages()
    for request in parts(id, [("a.png", png(1))]):
        await call.write(request)
    await asyncio.sleep(0.1)
    await either.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id))
    await call.done_writing()
    with refused(NotFound):
        await call


async def test_counts_are_right_after_streams_uploads_and_deletes_at_once(either: Catalog) -> None:
    id = await either.dataset()
    early = [(await either.upload(id, png(number))).id for number in range(10)]

    async def lone(number: int) -> None:
        await either.upload(id, png(number))

    async def stream(first: int) -> None:
        await either.stream(parts(id, [(f"{number}.png", png(number)) for number in range(first, first + 30)]))

    async def delete(image_id: int) -> None:
        await either.stub.DeleteImage(pb.DeleteImageRequest(image_id=image_id))

    await asyncio.gather(
        *(lone(number) for number in range(500, 520)),
        *(stream(first) for first in (100, 115, 130)),
        *(delete(image_id) for image_id in early),
    )
    assert await either.count_is_right(id) == 20 + 60


async def test_memory_holds_two_groups_and_no_more(
    store: Store, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is not read on while two groups wait."""
    monkeypatch.setattr(uploads, "GROUP_FILES", 3)
    id = (await store.create_dataset(name="a", type=domain.DatasetType.IMAGE, description="")).id
    gated, read = Gated(store), 0

    async def stream() -> AsyncIterator[uploads.FileStart | uploads.Chunk]:
        nonlocal read
        for number in range(50):
            read += 1
            yield uploads.FileStart(f"{number}.png")
            yield uploads.Chunk(0, png(number))

    with ThreadPoolExecutor(2) as threads:
        upload = asyncio.create_task(uploads.upload_images(gated, blobs, threads, id, stream()))
        await gated.waiting.wait()
        await asyncio.sleep(0.2)
        assert read == 7  # two groups, and the file that opens after them
        gated.gate.set()
        assert len((await upload).accepted) == 50


async def test_a_message_beyond_the_limit_is_refused_by_the_connection(catalog: Catalog) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog.upload(await catalog.dataset(), bytes(65 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
