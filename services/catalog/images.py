"""Images into datasets and out again."""

import asyncio
import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from services.catalog import domain
from services.catalog.domain import Image, ImageFormat, NewImage
from services.catalog.store import Store
from services.common import pictures
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


def prepare(blobs: BlobStore, filename: str, caption: str, data: bytes, *, sha256: str = "") -> NewImage | Refused:
    """Inspects a file and stores its bytes. Blocks: it decodes the image and waits for the disk.

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
        info = pictures.inspect(data)
    except PictureRefused as error:
        return Refused(filename, error.reason, error.rule)
    blobs.put(data, digest=digest)
    return NewImage(filename, caption, digest, ImageFormat(info.format), info.width, info.height, len(data))


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
) -> Image:
    """One image into a dataset. Raises NotFound, AlreadyExists (these bytes) and InvalidArgument (the file)."""
    if request_id is not None and (first := await store.image_by_request(request_id)) is not None:
        return first
    await store.get_dataset(dataset_id)
    prepared = await asyncio.get_running_loop().run_in_executor(threads, prepare, blobs, filename, caption, data)
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
        return f"image/{image.format.value}", await asyncio.to_thread(blobs.get, image.sha256)
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
        small = await loop.run_in_executor(threads, lambda: pictures.thumbnail(blobs.get(image.sha256), THUMBNAIL_SIDE))
    except (BlobMissing, PictureRefused) as error:
        raise _gone(image) from error
    await store.remember_thumbnail(image.sha256, await asyncio.to_thread(blobs.put, small))
    return "image/webp", small


def _gone(image: Image) -> DataLoss:
    return DataLoss(f"the bytes of image {image.id} ({image.filename!r}) are gone or damaged", reason="IMAGE_LOST")
