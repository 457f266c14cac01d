"""What of a picture counts in training: masks, given, looked at."""

import asyncio
from concurrent.futures import Executor

from services.catalog.domain import Image
from services.catalog.store import Store
from services.common import pictures
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import DataLoss, FailedPrecondition, NotFound


async def set_mask(store: Store, blobs: BlobStore, threads: Executor, image_id: int, data: bytes) -> Image:
    """Has the picture's mask be `data`, a picture of any size and format, scaled to the picture's own size.

    Raises NotFound, FailedPrecondition (the image is a clip) and PictureRefused (it does not decode).
    """
    image = await store.get_image(image_id)
    if image.is_clip:
        message = f"image {image_id} ({image.filename!r}) is a clip: masks are of pictures"
        raise FailedPrecondition(message, reason="NOT_A_PICTURE")

    def kept() -> str:
        return blobs.put(pictures.mask_of(data, (image.width, image.height)))

    return await store.set_mask(image_id, await asyncio.get_running_loop().run_in_executor(threads, kept))


async def mask(store: Store, blobs: BlobStore, image_id: int) -> tuple[str, bytes]:
    """The content type and the bytes of a picture's mask. Raises NotFound (it has none, too) and DataLoss."""
    image = await store.get_image(image_id)
    if not image.mask_sha256:
        raise NotFound("mask", image_id, message=f"image {image_id} ({image.filename!r}) has no mask")
    try:
        return "image/png", await asyncio.to_thread(blobs.get, image.mask_sha256)
    except BlobMissing as error:
        message = f"the mask of image {image_id} ({image.filename!r}) is gone"
        raise DataLoss(message, reason="IMAGE_LOST") from error
