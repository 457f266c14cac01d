"""Datasets: create, look at, fill, recount."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import sleep
from typing import TypeAlias

from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.catalog.v1.dataset_pb2 import Dataset, DatasetType, Image, Snapshot
from google.api.httpbody_pb2 import HttpBody

from atelier_client import plain
from atelier_client.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from atelier_client.files import LocalImage, find_files, read_images
from atelier_client.naming import did_you_mean
from atelier_client.transport import CALL_ATTEMPTS, Transport, delay_after

CHUNK_BYTES = 1024 * 1024
DIGESTS_A_CALL = 10_000  # FindImages' limit

DatasetRef: TypeAlias = int | str | Dataset
"""A dataset, its id, or its name."""


@dataclass(frozen=True)
class UploadProgress:
    """How far an upload is. Bytes and files that the dataset already had do not count."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    filename: str


@dataclass(frozen=True)
class UploadSummary:
    """What became of each file of an upload."""

    accepted: list[Image]
    duplicates: list[pb.DuplicateFile]
    """Files whose bytes came in twice."""
    refused: list[pb.RefusedFile]
    already_there: list[Path]
    """Not sent: the dataset had them, or an earlier try of this upload got them through before it was cut."""
    dataset: Dataset = field(default_factory=Dataset)
    masks: int = 0
    """Pictures that got the mask beside them."""


class Datasets:
    """The Catalog's datasets. Wherever one is asked for, its id, its name or the message will do."""

    def __init__(self, catalog: Transport) -> None:
        self._catalog = catalog

    @cached_property
    def _stub(self) -> CatalogServiceStub:
        return CatalogServiceStub(self._catalog.channel)

    def create(self, name: str, *, description: str = "", type: str = "image") -> Dataset:
        """A new, empty dataset. Raises AlreadyExists, InvalidArgument."""
        number = plain.number_of(DatasetType.DESCRIPTOR, type, field="type")
        request = pb.CreateDatasetRequest(
            request_id=str(uuid.uuid4()), name=name, description=description, type=DatasetType.ValueType(number)
        )
        return self._catalog.call(self._stub.CreateDataset, request).dataset

    def list(self) -> list[Dataset]:
        """Every dataset."""
        datasets: list[Dataset] = []
        token = ""
        while True:
            page = self._catalog.call(self._stub.ListDatasets, pb.ListDatasetsRequest(page_size=1000, page_token=token))
            datasets.extend(page.datasets)
            token = page.next_page_token
            if not token:
                return datasets

    def get(self, dataset: DatasetRef) -> Dataset:
        """The dataset as it is now. Raises NotFound."""
        if isinstance(dataset, str) and not dataset.isdecimal():
            found = self._catalog.call(self._stub.ListDatasets, pb.ListDatasetsRequest(name=dataset)).datasets
            if not found:
                hint = did_you_mean(dataset, [each.name for each in self.list()])
                raise NotFound(f"there is no dataset called {dataset!r}{hint}", kind="dataset", id=dataset)
            return found[0]
        return self._catalog.call(self._stub.GetDataset, pb.GetDatasetRequest(dataset_id=self.id_of(dataset))).dataset

    def refresh(self, dataset: DatasetRef) -> pb.RefreshDatasetResponse:
        """Counts again and reads every image's bytes; names what is missing or corrupt. Raises NotFound."""
        request = pb.RefreshDatasetRequest(dataset_id=self.id_of(dataset))
        return self._catalog.call(self._stub.RefreshDataset, request, timeout=None)

    def inspect(
        self,
        dataset: DatasetRef,
        *,
        resolution: int = 0,
        on_progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> pb.DatasetInspection:
        """What a trainer should know first: duplicates, small, blurred and clipped pictures, captions that say nothing,
        and the sizes that the pictures would be trained at.

        `resolution` is what training is meant for, 0 for 512; `on_progress` hears (done, total). Raises NotFound.
        """
        request = pb.InspectDatasetRequest(dataset_id=self.id_of(dataset), resolution=resolution)
        for answer in self._catalog.stream(self._stub.InspectDataset, request):
            if answer.HasField("inspection"):
                return answer.inspection
            on_progress(answer.progress.done, answer.progress.total)
        raise Unavailable("the inspection was cut off; ask again")

    def delete(self, dataset: DatasetRef, *, force: bool = False) -> None:
        """Raises NotFound, or FailedPrecondition when an unfinished job uses it and `force` is not set."""
        request = pb.DeleteDatasetRequest(dataset_id=self.id_of(dataset), force=force)
        self._catalog.call(self._stub.DeleteDataset, request, attempts=1)

    def images(self, dataset: DatasetRef) -> Iterator[Image]:
        """Its images, fetched page by page. Raises NotFound."""
        dataset_id, token = self.id_of(dataset), ""
        while True:
            request = pb.ListImagesRequest(dataset_id=dataset_id, page_size=500, page_token=token)
            page = self._catalog.call(self._stub.ListImages, request)
            yield from page.images
            token = page.next_page_token
            if not token:
                return

    def image_bytes(self, image: Image | int, *, thumbnail: bool = False) -> bytes:
        """The file as it was uploaded, or a small WebP of it. Raises NotFound, DataLoss."""
        variant = pb.IMAGE_VARIANT_THUMBNAIL if thumbnail else pb.IMAGE_VARIANT_ORIGINAL
        image_id = image if isinstance(image, int) else image.id
        request = pb.DownloadImageRequest(image_id=image_id, variant=variant)
        return bytes(self._catalog.call(self._stub.DownloadImage, request).content.data)

    def set_caption(self, image: Image | int, caption: str) -> Image:
        """Raises NotFound, InvalidArgument."""
        image_id = image if isinstance(image, int) else image.id
        request = pb.UpdateImageRequest(image_id=image_id, caption=caption)
        return self._catalog.call(self._stub.UpdateImage, request).image

    def set_mask(self, image: Image | int, mask: bytes | str | Path) -> Image:
        """Says what of a picture counts in training with a masked loss: a picture (its bytes, or where it is), white
        where it counts. Raises NotFound, InvalidArgument, FailedPrecondition for a clip."""
        image_id = image if isinstance(image, int) else image.id
        data = mask if isinstance(mask, bytes) else Path(mask).read_bytes()
        request = pb.SetImageMaskRequest(image_id=image_id, content=HttpBody(data=data))
        return self._catalog.call(self._stub.SetImageMask, request).image

    def clear_mask(self, image: Image | int) -> Image:
        """All of the picture counts again. Raises NotFound."""
        image_id = image if isinstance(image, int) else image.id
        return self._catalog.call(self._stub.ClearImageMask, pb.ClearImageMaskRequest(image_id=image_id)).image

    def mask_bytes(self, image: Image | int) -> bytes:
        """A picture's mask, a grey PNG of its size. Raises NotFound where it has none."""
        image_id = image if isinstance(image, int) else image.id
        request = pb.DownloadImageRequest(image_id=image_id, variant=pb.IMAGE_VARIANT_MASK)
        return bytes(self._catalog.call(self._stub.DownloadImage, request).content.data)

    def delete_image(self, image: Image | int) -> None:
        """Raises NotFound."""
        image_id = image if isinstance(image, int) else image.id
        self._catalog.call(self._stub.DeleteImage, pb.DeleteImageRequest(image_id=image_id), attempts=1)

    def snapshot(self, dataset: DatasetRef) -> Snapshot:
        """The dataset frozen as it is now. Raises NotFound, FailedPrecondition when it is empty."""
        request = pb.CreateSnapshotRequest(dataset_id=self.id_of(dataset))
        return self._catalog.call(self._stub.CreateSnapshot, request).snapshot

    def upload(
        self,
        dataset: DatasetRef,
        paths: str | Path | Iterable[str | Path],
        on_progress: Callable[[UploadProgress], None] | None = None,
    ) -> UploadSummary:
        """Sends files and folders, with captions and masks from beside them; skips what the dataset has; says what was
        refused.

        A connection that is cut is taken up again where it was. `on_progress` is called from another thread.
        Raises NotFound, InvalidArgument (a path or a caption file), Unavailable.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        images, unreadable = read_images(find_files(given))
        dataset_id = self.id_of(dataset)
        summary = self._send(dataset_id, images, unreadable, on_progress)
        refused = self._set_masks(dataset_id, {image.sha256: image.mask for image in images if image.mask})
        masks = sum(image.mask is not None for image in images) - len(refused)
        return replace(summary, refused=[*summary.refused, *refused], masks=masks)

    def _send(
        self,
        dataset_id: int,
        images: Sequence[LocalImage],
        unreadable: MutableMapping[Path, str],
        on_progress: Callable[[UploadProgress], None] | None,
    ) -> UploadSummary:
        attempt = 0
        while True:
            try:
                present = self._present(dataset_id, images)
                missing = [image for image in images if image.sha256 not in present]
                there = [image.path for image in images if image.sha256 in present]
                if not missing:
                    return UploadSummary([], [], _refused(unreadable), there, self.get(dataset_id))
                parts = upload_parts(dataset_id, missing, unreadable, on_progress)
                answer = self._catalog.call(self._stub.UploadImages, parts, timeout=None, attempts=1)
                refused = [*answer.refused, *_refused(unreadable)]
                return UploadSummary(list(answer.accepted), list(answer.duplicates), refused, there, answer.dataset)
            except Unavailable as error:
                attempt += 1
                if attempt >= CALL_ATTEMPTS:
                    raise
                sleep(delay_after(error, attempt - 1))

    def _set_masks(self, dataset_id: int, masks: Mapping[str, Path]) -> Sequence[pb.RefusedFile]:
        """Gives the dataset's pictures their masks, by the pictures' digests; answers with those that were refused."""
        refused: list[pb.RefusedFile] = []
        for image in self.images(dataset_id) if masks else ():
            if (mask := masks.get(image.sha256)) is not None:
                try:
                    self.set_mask(image, mask)
                except (InvalidArgument, FailedPrecondition) as error:
                    refused.append(pb.RefusedFile(filename=mask.name, message=str(error)))
                except OSError as error:
                    refused.append(pb.RefusedFile(filename=mask.name, message=f"cannot be read: {error.strerror}"))
        return refused

    def _present(self, dataset_id: int, images: Sequence[LocalImage]) -> set[str]:
        """Which of the images' digests the dataset has."""
        digests = sorted({image.sha256 for image in images})
        present: set[str] = set()
        for start in range(0, len(digests), DIGESTS_A_CALL):
            request = pb.FindImagesRequest(dataset_id=dataset_id, sha256=digests[start : start + DIGESTS_A_CALL])
            present.update(self._catalog.call(self._stub.FindImages, request).present)
        return present

    def id_of(self, dataset: DatasetRef) -> int:
        """The id that `dataset` means; asks the Catalog only for a name."""
        if isinstance(dataset, Dataset):
            return dataset.id
        if isinstance(dataset, int):
            return dataset
        if dataset.isdecimal():
            return int(dataset)
        if not dataset:
            raise InvalidArgument({"dataset": "must be an id or a name"})
        return self.get(dataset).id


def _refused(unreadable: Mapping[Path, str]) -> list[pb.RefusedFile]:
    return [pb.RefusedFile(filename=path.name, message=reason) for path, reason in unreadable.items()]


def upload_parts(
    dataset_id: int,
    images: Sequence[LocalImage],
    unreadable: MutableMapping[Path, str],
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> Iterator[pb.UploadImagesRequest]:
    """The parts of an UploadImages stream: start, then each file and its chunks, reporting as they are taken.

    A file that is gone by now is left out and noted in `unreadable`: gRPC would turn an exception here into the end of
    the whole upload.
    """
    yield pb.UploadImagesRequest(start=pb.UploadStart(dataset_id=dataset_id))
    bytes_total = sum(image.size_bytes for image in images)
    bytes_done = 0
    for index, image in enumerate(images):
        try:
            stream = image.path.open("rb")
        except OSError as error:
            unreadable[image.path] = f"cannot be read: {error.strerror}"
            continue
        with stream:
            yield pb.UploadImagesRequest(
                file=pb.UploadFile(
                    filename=image.path.name, caption=image.caption, size_bytes=image.size_bytes, sha256=image.sha256
                )
            )
            offset = 0
            while data := stream.read(CHUNK_BYTES):
                yield pb.UploadImagesRequest(chunk=pb.UploadChunk(offset=offset, data=data))
                offset += len(data)
        bytes_done += offset
        if on_progress is not None:
            on_progress(UploadProgress(index + 1, len(images), bytes_done, bytes_total, image.path.name))
