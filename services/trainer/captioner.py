"""`python -m services.trainer.captioner MODEL ORDER`: captions a dataset's pictures and says so on stdout.

A line is JSON: `["progress", {...}]`, `["summary", {...}]`, the last, or `["failure", {...}]` with a reason of
`worker.failures`. Each caption is stored before it is said.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.catalog.v1.dataset_pb2 import Image

from services.common.blobs import BlobMissing, BlobStore, open_blobs
from services.common.clients import CHANNEL_OPTIONS
from services.common.errors import NotFound
from services.common.pictures import PictureRefused, decode_rgb
from services.common.status import error_from_rpc
from services.diffusion.captions import Captioner, find_captioner
from services.diffusion.device import best_device
from services.trainer.codec import dump, load
from services.trainer.domain import CaptionOrder, CaptionProgress, CaptionSummary, Failure
from services.trainer.worker.config import WorkerSettings
from services.trainer.worker.failures import failure_of

if TYPE_CHECKING:
    import PIL.Image

CAPTIONED_AT_ONCE = 4
PAGE_SIZE = 500
TIMEOUT_SECONDS = 60.0


class _Catalog:
    """What is asked of the Catalog. All raise its errors as domain errors."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = CatalogServiceStub(channel)

    def images(self, dataset_id: int) -> list[Image]:
        """All of a dataset."""
        found: list[Image] = []
        request = catalog_pb2.ListImagesRequest(dataset_id=dataset_id, page_size=PAGE_SIZE)
        while True:
            with _domain_errors():
                page = self._stub.ListImages(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
            found += page.images
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    def store(self, image_id: int, caption: str, *, overwrite: bool) -> bool:
        """False where somebody has captioned the picture in the meantime, or deleted it."""
        try:
            with _domain_errors():
                asked = catalog_pb2.GetImageRequest(image_id=image_id)
                if not overwrite and self._stub.GetImage(asked, timeout=TIMEOUT_SECONDS).image.caption:
                    return False
                request = catalog_pb2.UpdateImageRequest(image_id=image_id, caption=caption)
                self._stub.UpdateImage(request, timeout=TIMEOUT_SECONDS)
        except NotFound:
            return False
        return True


@contextmanager
def _domain_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer="the Catalog") from error


def caption_dataset(
    order: CaptionOrder, model: str, settings: WorkerSettings
) -> Iterator[CaptionProgress | CaptionSummary]:
    """Captions the pictures a few at a time. Raises the Catalog's errors, and WeightsUnavailable for the model."""
    blobs = open_blobs(settings.blob_url)
    options = [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(settings.catalog_address, options=options) as channel:
        catalog = _Catalog(channel)
        images = catalog.images(order.dataset_id)
        wanted = [image for image in images if order.overwrite or not image.caption]
        progress = CaptionProgress(0, len(wanted))
        yield progress
        cache = (settings.cache_dir or settings.dir / "cache") / "hub"
        captioner = Captioner(find_captioner(model, cache, weights_dir=settings.weights_dir), best_device())
        captioned, kept, damaged = 0, len(images) - len(wanted), []
        for start in range(0, len(wanted), CAPTIONED_AT_ONCE):
            some = [(image, _picture(image, blobs)) for image in wanted[start : start + CAPTIONED_AT_ONCE]]
            pictures = [picture for _, picture in some if picture is not None]
            captions = iter(captioner.caption(pictures, max_tokens=order.max_tokens) if pictures else ())
            for image, picture in some:
                progress = replace(progress, done=progress.done + 1)
                if picture is None:
                    damaged.append(image.id)
                else:
                    caption = f"{order.prefix}{next(captions)}"
                    if catalog.store(image.id, caption, overwrite=order.overwrite):
                        captioned += 1
                        progress = replace(progress, image_id=image.id, caption=caption)
                    else:
                        kept += 1
                yield progress
        yield CaptionSummary(captioned, kept, tuple(damaged))


def _picture(image: Image, blobs: BlobStore) -> "PIL.Image.Image | None":
    """None where its bytes are gone or do not decode."""
    try:
        return decode_rgb(blobs.get(image.sha256))
    except (BlobMissing, PictureRefused):
        return None


def main(arguments: Sequence[str]) -> int:
    model, order = arguments[0], load(CaptionOrder, arguments[1])
    said: CaptionProgress | CaptionSummary | Failure
    try:
        for said in caption_dataset(order, model, WorkerSettings()):
            _say("summary" if isinstance(said, CaptionSummary) else "progress", said)
    except Exception as error:
        failure = failure_of(error)
        if failure.reason == "INTERNAL":
            raise  # a fault of ours: the Trainer logs the last line of it
        _say("failure", failure)
        return 1
    return 0


def _say(kind: str, value: CaptionProgress | CaptionSummary | Failure) -> None:
    sys.stdout.write(json.dumps([kind, json.loads(dump(value))]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
