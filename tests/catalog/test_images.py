"""One image at a time over gRPC: in, out, captioned, small, gone."""

import asyncio
import io
import uuid

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from google.api.httpbody_pb2 import HttpBody
from PIL import Image

from services.common import pictures
from services.common.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from tests.catalog.house import Catalog, parts, png, refused, sha256
from tests.catalog.test_uploads import BAD, GOOD
from tests.pictures_made import encoded, solid


async def download(
    catalog: Catalog, image_id: int, variant: "pb.ImageVariant.ValueType" = pb.IMAGE_VARIANT_UNSPECIFIED
) -> HttpBody:
    return (await catalog.stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id, variant=variant))).content


async def test_an_image_comes_back_as_it_was_uploaded(either: Catalog) -> None:
    id, data = await either.dataset(), encoded(solid("RGB", "teal"), "JPEG")
    made = await either.upload(id, data, "a.jpg", caption="teal")
    assert (made.filename, made.caption, made.sha256, made.width, made.height) == (
        "a.jpg",
        "teal",
        sha256(data),
        32,
        24,
    )
    assert (await either.stub.GetImage(pb.GetImageRequest(image_id=made.id))).image == made
    for variant in (pb.IMAGE_VARIANT_UNSPECIFIED, pb.IMAGE_VARIANT_ORIGINAL):
        body = await download(either, made.id, variant)
        assert (body.content_type, body.data) == ("image/jpeg", data)
    assert (await either.get(id)).cover_image_id == made.id


async def test_each_bad_file_is_refused_with_the_field_and_the_reason(catalog: Catalog) -> None:
    id = await catalog.dataset()
    for name, (data, reason, words) in BAD.items():
        field = "filename" if reason == "BAD_FILENAME" else "content"
        with refused(InvalidArgument, field=field, reason=reason, words=words):
            await catalog.upload(id, data, name)
    assert await catalog.count_is_right(id) == 0


async def test_each_odd_but_good_file_is_taken(catalog: Catalog) -> None:
    id = await catalog.dataset()
    for name, (data, size, _) in GOOD.items():
        made = await catalog.upload(id, data, name)
        assert (made.filename, (made.width, made.height)) == (name, size)


async def test_these_bytes_are_there_already(either: Catalog) -> None:
    id = await either.dataset()
    first = await either.upload(id, png(1), "first.png")
    with refused(AlreadyExists, words="first.png"):
        await either.upload(id, png(1), "second.png")
    assert (await either.upload(await either.dataset("other"), png(1))).id != first.id


async def test_a_retry_with_its_request_id_gives_the_first_image(either: Catalog) -> None:
    id, request_id = await either.dataset(), str(uuid.uuid4())
    made = await asyncio.gather(*(either.upload(id, png(1), request_id=request_id) for _ in range(5)))
    assert len({image.id for image in made}) == 1
    assert await either.upload(id, png(2), request_id=request_id) == made[0]
    assert await either.count_is_right(id) == 1


async def test_an_upload_to_no_dataset_is_not_found(catalog: Catalog) -> None:
    with refused(NotFound, words="dataset 99"):
        await catalog.upload(99, png(1))


async def test_captions_are_edited_within_their_limits(either: Catalog) -> None:
    image = await either.upload(await either.dataset(), png(1))
    for caption in ("a red apple 🍎", "", "x" * 10_000):
        changed = (await either.stub.UpdateImage(pb.UpdateImageRequest(image_id=image.id, caption=caption))).image
        assert changed.caption == caption
    with refused(InvalidArgument, field="caption", words="10000 is the limit"):
        await either.stub.UpdateImage(pb.UpdateImageRequest(image_id=image.id, caption="x" * 10_001))
    with refused(NotFound):
        await either.stub.UpdateImage(pb.UpdateImageRequest(image_id=99, caption="x"))


async def test_a_deleted_image_is_gone_and_uncounted(either: Catalog) -> None:
    id = await either.dataset()
    image = await either.upload(id, png(1))
    await either.stub.DeleteImage(pb.DeleteImageRequest(image_id=image.id))
    assert await either.count_is_right(id) == 0
    assert not (await either.get(id)).HasField("cover_image_id")
    for call in (
        either.stub.DeleteImage(pb.DeleteImageRequest(image_id=image.id)),
        either.stub.GetImage(pb.GetImageRequest(image_id=image.id)),
        either.stub.DownloadImage(pb.DownloadImageRequest(image_id=image.id)),
    ):
        with refused(NotFound):
            await call


async def test_pages_of_images_stay_right_while_images_come_and_go(either: Catalog) -> None:
    id = await either.dataset()
    other = await either.dataset("other")
    await either.stream(parts(id, [(f"{number}.png", png(number)) for number in range(5)]))
    ids = [image.id for image in await either.images(id)]

    async def page(token: str) -> pb.ListImagesResponse:
        return await either.stub.ListImages(pb.ListImagesRequest(dataset_id=id, page_size=2, page_token=token))

    first = await page("")
    await either.stub.DeleteImage(pb.DeleteImageRequest(image_id=ids[0]))
    await either.upload(other, png(70))
    ids.append((await either.upload(id, png(71))).id)
    second = await page(first.next_page_token)
    third = await page(second.next_page_token)
    assert [image.id for each in (first, second, third) for image in each.images] == ids
    assert third.next_page_token == ""
    with refused(InvalidArgument, field="page_token"):
        await page("rubbish")
    with refused(InvalidArgument, field="page_size"):
        await either.stub.ListImages(pb.ListImagesRequest(dataset_id=id, page_size=1001))
    with refused(NotFound):
        await either.stub.ListImages(pb.ListImagesRequest(dataset_id=99))


async def test_a_thumbnail_is_small_upright_and_made_once(either: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(solid("RGB", "teal", (800, 400)), "JPEG", exif=exif)
    image = await either.upload(await either.dataset(), data, "a.jpg")
    body = await download(either, image.id, pb.IMAGE_VARIANT_THUMBNAIL)
    small = Image.open(io.BytesIO(body.data))
    assert (body.content_type, small.format, small.size) == ("image/webp", "WEBP", (128, 256))
    with monkeypatch.context() as without:
        without.delattr(pictures, "thumbnail")
        assert await download(either, image.id, pb.IMAGE_VARIANT_THUMBNAIL) == body
    either.blobs.delete(sha256(body.data))  # lost: it is made again
    assert await download(either, image.id, pb.IMAGE_VARIANT_THUMBNAIL) == body


async def test_many_ask_for_one_thumbnail_at_once(either: Catalog) -> None:
    image = await either.upload(await either.dataset(), png(1, (300, 200)))
    made = await asyncio.gather(*(download(either, image.id, pb.IMAGE_VARIANT_THUMBNAIL) for _ in range(8)))
    assert len({body.data for body in made}) == 1


async def test_bytes_that_are_gone_are_data_loss(catalog: Catalog) -> None:
    id = await catalog.dataset()
    image, rotten = await catalog.upload(id, png(1)), await catalog.upload(id, png(2), "rotten.png")
    catalog.blobs.delete(image.sha256)
    catalog.blobs.location(rotten.sha256).write_bytes(b"rotten")
    for variant in (pb.IMAGE_VARIANT_ORIGINAL, pb.IMAGE_VARIANT_THUMBNAIL):
        with refused(DataLoss, reason="IMAGE_LOST", words=f"image {image.id}"):
            await download(catalog, image.id, variant)
    with refused(DataLoss, reason="IMAGE_LOST", words="rotten.png"):
        await download(catalog, rotten.id, pb.IMAGE_VARIANT_THUMBNAIL)
    with refused(AlreadyExists):  # the same bytes again repair what was lost
        await catalog.upload(id, png(1))
    assert (await download(catalog, image.id)).data == png(1)
