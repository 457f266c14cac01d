"""The gallery: what was drawn, kept with its requests."""

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1.generation_pb2 import (
    GENERATION_STATUS_QUEUED,
    GENERATION_STATUS_RUNNING,
    GeneratedImage,
    Generation,
    GenerationStatus,
)
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

from atelier_client import plain
from atelier_client.models import ModelRef, Models
from atelier_client.pictures import SUFFIXES, Drawing, Picture, drawing_of
from atelier_client.transport import Transport

POLL_SECONDS = 0.5
PAGE_SIZE = 100

GenerationRef: TypeAlias = str | Generation
"""A generation, or its id."""


class Gallery:
    """What was drawn. Wherever a generation is asked for, its id or the message will do."""

    def __init__(self, generator: Transport, models: Models) -> None:
        self._generator = generator
        self._models = models

    @cached_property
    def _stub(self) -> GeneratorServiceStub:
        return GeneratorServiceStub(self._generator.channel)

    def list(
        self, *, model: ModelRef | None = None, status: str = "", prompt: str = "", kept: bool | None = None
    ) -> Iterator[Generation]:
        """Generations, newest first, fetched page by page.

        `model`: drawn with it, as the model, one of a grid's or one of the LoRAs; `status`: queued, running, completed,
        failed or cancelled; `prompt`: words that the prompt holds; `kept`: only those that are kept, or the others.
        Raises InvalidArgument, NotFound.
        """
        request = pb.ListGenerationsRequest(page_size=PAGE_SIZE, prompt_contains=prompt, is_kept=kept)
        if model is not None:
            request.model_id = self._models.id_of(model)
        if status:
            number = plain.number_of(GenerationStatus.DESCRIPTOR, status, field="status")
            request.status = GenerationStatus.ValueType(number)
        return self._pages(request)

    def _pages(self, request: pb.ListGenerationsRequest) -> Iterator[Generation]:
        while True:
            page = self._generator.call(self._stub.ListGenerations, request)
            yield from page.generations
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    def get(self, generation: GenerationRef) -> Generation:
        """As it is now. Raises NotFound."""
        request = pb.GetGenerationRequest(generation_id=id_of(generation))
        return self._generator.call(self._stub.GetGeneration, request).generation

    def wait(self, generation: GenerationRef) -> Generation:
        """Waits until it has ended, however it did: `status` and `failure` say how. Raises NotFound."""
        while True:
            found = self.get(generation)
            if found.status not in (GENERATION_STATUS_QUEUED, GENERATION_STATUS_RUNNING):
                return found
            time.sleep(POLL_SECONDS)

    def keep(self, generation: GenerationRef) -> Generation:
        """Has retention leave it alone. Raises NotFound."""
        return self._set_kept(generation, True)

    def unkeep(self, generation: GenerationRef) -> Generation:
        """Leaves it to retention again. Raises NotFound."""
        return self._set_kept(generation, False)

    def delete(self, generation: GenerationRef) -> None:
        """With the pictures that no other generation has. Raises NotFound, FailedPrecondition while it is drawn."""
        request = pb.DeleteGenerationRequest(generation_id=id_of(generation))
        self._generator.call(self._stub.DeleteGeneration, request, attempts=1)

    def picture(self, generation: GenerationRef, index: int) -> Picture:
        """One of its pictures. Raises NotFound, DataLoss."""
        found = generation if isinstance(generation, Generation) else self.get(generation)
        image = next((each for each in found.images if each.index == index), None)
        if image is None:
            found = self.get(found)  # of a message, it may have been drawn since; else the server says what is missing
            image = next((each for each in found.images if each.index == index), GeneratedImage(index=index))
        return Picture(self._bytes(found.id, index), found.id, image)

    def open(self, generation: GenerationRef) -> Drawing:
        """All of its pictures that are there, as `draw` gave them. Raises NotFound, DataLoss."""
        found = self.get(generation)
        pictures = [Picture(self._bytes(found.id, image.index), found.id, image) for image in found.images]
        return drawing_of(found, pictures)

    def download(self, generation: GenerationRef, folder: str | Path) -> tuple[Path, ...]:
        """Writes its pictures into a folder, made as needed, and gives the files.

        Raises NotFound, DataLoss, OSError.
        """
        return save_all(self.open(generation), Path(folder))

    def _bytes(self, generation_id: str, index: int) -> bytes:
        request = pb.DownloadGeneratedImageRequest(generation_id=generation_id, index=index)
        return bytes(self._generator.call(self._stub.DownloadGeneratedImage, request).content.data)

    def _set_kept(self, generation: GenerationRef, kept: bool) -> Generation:
        request = pb.UpdateGenerationRequest(generation_id=id_of(generation), is_kept=kept)
        return self._generator.call(self._stub.UpdateGeneration, request).generation


def id_of(generation: GenerationRef) -> str:
    return generation.id if isinstance(generation, Generation) else generation


def save_all(drawing: Drawing, target: Path) -> tuple[Path, ...]:
    """Writes every picture, and the sheet: into the folder `target`, or, where `target` has a picture's suffix, to that
    file. Several pictures are numbered from 1 there, but of a grid the file is its sheet, and the cells lie beside it.

    Raises OSError.
    """
    if target.suffix.lower() not in {*SUFFIXES.values(), ".jpeg"}:
        stems = [_stem(drawing, picture) for picture in drawing.files]
        return tuple(
            picture.save(target / f"{stem}{picture.suffix}") for picture, stem in zip(drawing.files, stems, strict=True)
        )
    if len(drawing.files) == 1:
        return (drawing.files[0].save(target),)
    numbered = tuple(
        picture.save(target.with_stem(f"{target.stem}-{picture.index + 1}")) for picture in drawing.pictures
    )
    return numbered if drawing.sheet is None else (*numbered, drawing.sheet.save(target))


def _stem(drawing: Drawing, picture: Picture) -> str:
    """The file's name: of one row of seeds by its seed alone, of a grid by its place too."""
    short = drawing.generation.id[:8]
    if picture.image.is_sheet:
        return f"{short}-sheet"
    return f"{short}-{picture.index + 1}-{picture.seed}" if drawing.sheet else f"{short}-{picture.seed}"
