"""Datasets of clips, and masks of pictures."""

import io
from pathlib import Path

import numpy
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import dataset_pb2
from google.api.httpbody_pb2 import HttpBody
from PIL import Image

from services.catalog import domain
from services.common.blobs import BlobStore
from services.common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from tests.catalog.house import Catalog, catalog_at, parts, png, refused, sha256
from tests.clips_made import animation, film
from tests.pictures_made import encoded, solid

FORMATS = {
    "a.mp4": (film(12, 12), dataset_pb2.IMAGE_FORMAT_MP4, "video/mp4"),
    "b.webm": (film(12, 12, codec="libvpx-vp9", format="webm"), dataset_pb2.IMAGE_FORMAT_WEBM, "video/webm"),
    "c.gif": (animation("GIF", 12, 12.5), dataset_pb2.IMAGE_FORMAT_GIF, "image/gif"),
    "d.webp": (animation("WEBP", 12, 12.5), dataset_pb2.IMAGE_FORMAT_WEBP, "image/webp"),
}


async def videos(catalog: Catalog) -> int:
    return await catalog.dataset("films", type=dataset_pb2.DATASET_TYPE_VIDEO)


async def content(catalog: Catalog, image_id: int, variant: pb.ImageVariant.ValueType) -> HttpBody:
    return (await catalog.stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id, variant=variant))).content


async def set_mask(catalog: Catalog, image_id: int, data: bytes) -> dataset_pb2.Image:
    request = pb.SetImageMaskRequest(image_id=image_id, content=HttpBody(content_type="image/png", data=data))
    return (await catalog.stub.SetImageMask(request)).image


async def test_a_video_dataset_takes_clips_and_gives_them_back(either: Catalog) -> None:
    id = await videos(either)
    answer = await either.stream(parts(id, [(name, data) for name, (data, _, _) in FORMATS.items()]))
    assert not answer.refused
    assert await either.count_is_right(id) == 4
    for image in answer.accepted:
        data, format, content_type = FORMATS[image.filename]
        assert (image.format, image.num_frames, image.width, image.height) == (format, 12, 64, 48)
        assert image.frames_per_second == pytest.approx(12, rel=0.05)
        original = await content(either, image.id, pb.IMAGE_VARIANT_ORIGINAL)
        assert (original.content_type, original.data) == (content_type, data)
        thumbnail = await content(either, image.id, pb.IMAGE_VARIANT_THUMBNAIL)
        assert (thumbnail.content_type, Image.open(io.BytesIO(thumbnail.data)).size) == ("image/webp", (64, 48))
    found = await either.stub.FindImages(pb.FindImagesRequest(dataset_id=id, sha256=[sha256(FORMATS["a.mp4"][0])]))
    assert list(found.present) == [sha256(FORMATS["a.mp4"][0])]


async def test_one_clip_goes_up_alone(catalog: Catalog) -> None:
    image = await catalog.upload(await videos(catalog), film(9), "a.mp4", caption="a fade")
    assert (image.num_frames, image.caption) == (9, "a fade")


async def test_each_kind_of_dataset_refuses_the_other_kind_and_says_why(catalog: Catalog) -> None:
    films, stills = await videos(catalog), await catalog.dataset("stills")
    gif = encoded(solid("RGB", "red"), "GIF")
    bad = {
        "still.png": (png(1), "UNSUPPORTED_FORMAT", "not a clip"),
        "still.gif": (gif, "UNSUPPORTED_FORMAT", "still GIF"),
        "torn.mp4": (film()[:-99], "CORRUPT", "damaged"),
        "empty.mp4": (b"", "EMPTY", "empty"),
    }
    answer = await catalog.stream(parts(films, [(name, data) for name, (data, _, _) in bad.items()]))
    for file in answer.refused:
        _, reason, words = bad[file.filename]
        assert pb.UploadRefusal.Name(file.reason) == f"UPLOAD_REFUSAL_{reason}"
        assert words in file.message
    assert len(answer.refused) == len(bad)
    for data, words in ((film(), "MP4"), (FORMATS["b.webm"][0], "WEBM"), (FORMATS["d.webp"][0], "animated")):
        with refused(InvalidArgument, field="content", reason="UNSUPPORTED_FORMAT", words=words):
            await catalog.upload(stills, data)


async def test_the_limits_on_clips_are_settings(tmp_path: Path, blobs: BlobStore, starter: Path) -> None:
    long, short = film(12), film(8)
    settings = {"max_clip_bytes": len(long), "max_clip_frames": 11, "starter_model_dir": starter}
    async with catalog_at(tmp_path / "catalog", blobs, **settings) as catalog:
        able = await catalog.stub.GetCatalogCapabilities(pb.GetCatalogCapabilitiesRequest())
        assert (able.max_clip_bytes, able.max_clip_frames) == (len(long), 11)
        assert len(able.clip_formats) == 4
        assert len(able.formats) == 3
        id = await videos(catalog)
        with refused(InvalidArgument, reason="TOO_MANY_PIXELS", words="12 frames exceed the limit of 11"):
            await catalog.upload(id, long)
        answer = await catalog.stream(parts(id, [("big.mp4", bytes(len(long) + 1)), ("short.mp4", short)]))
        assert [pb.UploadRefusal.Name(each.reason) for each in answer.refused] == ["UPLOAD_REFUSAL_TOO_MANY_BYTES"]
        assert [image.filename for image in answer.accepted] == ["short.mp4"]


async def test_a_snapshot_of_clips_says_how_long_they_are(either: Catalog) -> None:
    id = await videos(either)
    await either.upload(id, film(12, 12), "a.mp4")
    digest = (await either.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))).snapshot.digest
    (answer,) = [part async for part in either.stub.StreamSnapshot(pb.StreamSnapshotRequest(digest=digest))]
    (item,) = answer.items
    assert (item.num_frames, item.frames_per_second, item.mask_sha256) == (12, 12, "")


async def test_an_inspection_of_clips_measures_their_first_frames(catalog: Catalog) -> None:
    id = await videos(catalog)
    for name, (data, _, _) in FORMATS.items():
        await catalog.upload(id, data, name)
    await catalog.stub.RefreshDataset(pb.RefreshDatasetRequest(dataset_id=id))
    answers = [answer async for answer in catalog.stub.InspectDataset(pb.InspectDatasetRequest(dataset_id=id))]
    found = {finding.kind: finding for finding in answers[-1].inspection.findings}
    assert pb.FINDING_KIND_DAMAGED not in found
    assert pb.FINDING_KIND_EXACT_DUPLICATES not in found  # they begin alike, and are other films
    assert found[pb.FINDING_KIND_NEAR_DUPLICATES].num_images == 4
    assert found[pb.FINDING_KIND_TOO_SMALL].num_images == 4


async def test_a_mask_is_scaled_kept_shown_and_cleared(either: Catalog) -> None:
    id = await either.dataset()
    image = await either.upload(id, png(1, (40, 20)))
    half = solid("RGB", "black", (80, 40))
    half.paste("white", (40, 0, 80, 40))
    assert image.mask_sha256 == ""
    with refused(NotFound, words="has no mask"):
        await content(either, image.id, pb.IMAGE_VARIANT_MASK)
    masked = await set_mask(either, image.id, encoded(half, "WEBP", lossless=True))
    shown = await content(either, image.id, pb.IMAGE_VARIANT_MASK)
    assert (shown.content_type, sha256(shown.data)) == ("image/png", masked.mask_sha256)
    mask = Image.open(io.BytesIO(shown.data))
    assert (mask.mode, mask.size) == ("L", (40, 20))
    assert numpy.asarray(mask).mean() == pytest.approx(127.5, abs=1)
    cleared = await either.stub.ClearImageMask(pb.ClearImageMaskRequest(image_id=image.id))
    assert cleared.image.mask_sha256 == ""
    assert await either.count_is_right(id) == 1


async def test_a_mask_belongs_to_the_picture_as_people_see_it(catalog: Catalog) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image = await catalog.upload(await catalog.dataset(), encoded(solid("RGB", "red", (40, 20)), "JPEG", exif=rotated))
    await set_mask(catalog, image.id, png(5, (20, 40)))
    mask = await content(catalog, image.id, pb.IMAGE_VARIANT_MASK)
    assert Image.open(io.BytesIO(mask.data)).size == (20, 40)


async def test_a_mask_that_cannot_be_is_refused(catalog: Catalog) -> None:
    image = await catalog.upload(await catalog.dataset(), png(1))
    clip = await catalog.upload(await videos(catalog), film(), "a.mp4")
    with refused(NotFound, words="image 999"):
        await set_mask(catalog, 999, png(1))
    with refused(InvalidArgument, field="content", reason="UNSUPPORTED_FORMAT"):
        await set_mask(catalog, image.id, b"text")
    with refused(FailedPrecondition, reason="NOT_A_PICTURE", words="is a clip"):
        await set_mask(catalog, clip.id, png(1))
    masked = await set_mask(catalog, image.id, png(2))
    catalog.blobs.location(masked.mask_sha256).unlink()
    with refused(DataLoss, words="mask of image"):
        await content(catalog, image.id, pb.IMAGE_VARIANT_MASK)


async def test_a_mask_makes_another_snapshot_and_its_loss_the_first_again(either: Catalog) -> None:
    id = await either.dataset()
    image = await either.upload(id, png(1))

    async def digest() -> str:
        return (await either.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset_id=id))).snapshot.digest

    plain = await digest()
    masked = await set_mask(either, image.id, png(2))
    other = await digest()
    assert other != plain
    (answer,) = [part async for part in either.stub.StreamSnapshot(pb.StreamSnapshotRequest(digest=other))]
    assert answer.items[0].mask_sha256 == masked.mask_sha256
    await either.stub.ClearImageMask(pb.ClearImageMaskRequest(image_id=image.id))
    assert await digest() == plain


def test_a_manifest_without_masks_has_the_digest_that_it_always_had() -> None:
    items = [domain.SnapshotItem("a" * 64, "a.png", "un élève", 24, 16, 99)]
    assert domain.manifest_digest(items) == sha256(f'["{"a" * 64}","a.png","un élève"]\n'.encode())
