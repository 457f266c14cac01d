"""Images into datasets and out again."""

import asyncio
import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from services.catalog import domain
from services.catalog.domain import Dataset, DatasetType, Image, ImageFormat, NewImage
from services.catalog.store import Store
from services.common import clips, pictures
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import AlreadyExists, DataLoss, InvalidArgument
from services.common.pictures import PictureRefused

THUMBNAIL_SIDE = 256


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not taken: `reason` is an UploadRefusal without its prefix, `rule` says it in words."""

    filename: str
    reason: str
    rule: str


def content_type(format: ImageFormat) -> str:
    kind = "video" if format in (ImageFormat.MP4, ImageFormat.WEBM) else "image"
    return f"{kind}/{format.value}"


def clip_limits(dataset: Dataset, limits: clips.Limits) -> clips.Limits | None:
    """Those of the clips that a dataset takes; None where it takes pictures."""
    return limits if dataset.type is DatasetType.VIDEO else None


def prepare(
    blobs: BlobStore, filename: str, caption: str, data: bytes, *, limits: clips.Limits | None = None, sha256: str = ""
) -> NewImage | Refused:
    """Inspects a file, a clip where there are `limits`, and stores its bytes. Blocks: it decodes all of it and waits
    for the disk.

    `sha256` is the digest that was announced, or empty.
    """
    if rule := domain.filename_rule(filename):
        return Refused(filename, "BAD_FILENAME", rule)
    if rule := domain.text_rule(caption, domain.MAX_CAPTION):
        return Refused(filename, "BAD_CAPTION", rule)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and sha256.lower() != digest:
        return Refused(filename, "DIGEST_MISMATCH", f"the bytes have the SHA-256 {digest}, not the announced one")
    try:
        info = pictures.inspect(data) if limits is None else clips.probe(data, limits)
    except PictureRefused as error:
        return Refused(filename, error.reason, error.rule)
    blobs.put(data, digest=digest)
    new = NewImage(filename, caption, digest, ImageFormat(info.format), info.width, info.height, len(data))
    if isinstance(info, clips.ClipInfo):
        new = replace(new, num_frames=info.num_frames, frames_per_second=info.frames_per_second)
    return new


async def upload_image(
    store: Store,
    blobs: BlobStore,
    threads: Executor,
    dataset_id: int,
    *,
    filename: str,
    caption: str,
    data: bytes,
    request_id: str | None,
    limits: clips.Limits = clips.LIMITS,
) -> Image:
    """One image, or one clip where they are taken, into a dataset. Raises NotFound, AlreadyExists (these bytes) and
    InvalidArgument (the file).
    """
    if request_id is not None and (first := await store.image_by_request(request_id)) is not None:
        return first
    limits_of_it = clip_limits(await store.get_dataset(dataset_id), limits)
    prepared = await asyncio.get_running_loop().run_in_executor(
        threads, lambda: prepare(blobs, filename, caption, data, limits=limits_of_it)
    )
    if isinstance(prepared, Refused):
        fields = {"BAD_FILENAME": "filename", "BAD_CAPTION": "caption"}
        field = fields.get(prepared.reason, "content")
        raise InvalidArgument(prepared.rule, field=field, reason=prepared.reason)
    image, ours = await store.add_image(dataset_id, prepared, request_id=request_id)
    if not ours:
        message = f"dataset {dataset_id} has these bytes already, as {image.filename!r}"
        raise AlreadyExists("image", image.id, message)
    return image


async def find_images(store: Store, blobs: BlobStore, dataset_id: int, digests: Iterable[str]) -> list[str]:
    """Which of `digests` need not be sent: the dataset has them and their bytes are there. Raises NotFound."""
    found = await store.find_images(dataset_id, digests)
    return await asyncio.to_thread(lambda: [digest for digest in found if blobs.exists(digest)])


async def update_caption(store: Store, image_id: int, caption: str) -> Image:
    """Raises NotFound and InvalidArgument."""
    if rule := domain.text_rule(caption, domain.MAX_CAPTION):
        raise InvalidArgument(rule, field="caption")
    return await store.update_caption(image_id, caption)


async def original(store: Store, blobs: BlobStore, image_id: int) -> tuple[str, bytes]:
    """The content type and the bytes as uploaded. Raises NotFound and DataLoss."""
    image = await store.get_image(image_id)
    try:
        return content_type(image.format), await asyncio.to_thread(blobs.get, image.sha256)
    except BlobMissing as error:
        raise _gone(image) from error


async def thumbnail(store: Store, blobs: BlobStore, threads: Executor, image_id: int) -> tuple[str, bytes]:
    """The content type and the bytes of a WebP, made at the first call and kept. Raises NotFound and DataLoss."""
    image = await store.get_image(image_id)
    made = await store.thumbnail(image.sha256)
    if made is not None and await asyncio.to_thread(blobs.exists, made):
        return "image/webp", await asyncio.to_thread(blobs.get, made)
    try:
        loop = asyncio.get_running_loop()
        small = await loop.run_in_executor(threads, lambda: _small(image, blobs.get(image.sha256)))
    except (BlobMissing, PictureRefused) as error:
        raise _gone(image) from error
    await store.remember_thumbnail(image.sha256, await asyncio.to_thread(blobs.put, small))
    return "image/webp", small


def _small(image: Image, data: bytes) -> bytes:
    """Of a clip, its first frame."""
    if image.is_clip:
        return pictures.shrunk(clips.first_frame(data), THUMBNAIL_SIDE)
    return pictures.thumbnail(data, THUMBNAIL_SIDE)


def _gone(image: Image) -> DataLoss:
    return DataLoss(f"the bytes of image {image.id} ({image.filename!r}) are gone or damaged", reason="IMAGE_LOST")
