"""Drawing: a prompt in, pictures out."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from atelier.generator.v1 import generation_pb2 as types
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1.generation_pb2 import Generation, GenerationSettings
from atelier.generator.v1.generator_service_pb2 import GenerateResponse
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

from atelier_client import plain
from atelier_client.errors import InternalError, InvalidArgument, Unavailable
from atelier_client.models import ModelRef, Models
from atelier_client.transport import CALL_ATTEMPTS, Transport, delay_after

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Size: TypeAlias = int | str | tuple[int, int]
"""Pixels: 512, "512x768" or (512, 768), width first."""


@dataclass(frozen=True)
class Picture:
    """A finished picture. A notebook shows it by itself."""

    data: bytes
    """The PNG file; its text chunks tell how it was made."""
    index: int
    seed: int
    width: int
    height: int

    def save(self, path: str | Path) -> Path:
        """Writes the file, folders made as needed, and gives its path."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.data)
        return file

    def to_pillow(self) -> "PillowImage":
        """As a Pillow image. Raises ImportError where Pillow is not installed."""
        from io import BytesIO

        from PIL import Image

        return Image.open(BytesIO(self.data))

    def _repr_png_(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Drawing(Sequence[Picture]):
    """The pictures of one request, and the request as the server understood it (`generation.settings`)."""

    generation: Generation
    pictures: tuple[Picture, ...]

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        return self.pictures[index]

    def __len__(self) -> int:
        return len(self.pictures)


class Generations:
    """The Generator: drawing, and what was drawn."""

    def __init__(self, generator: Transport, models: Models) -> None:
        self._generator = generator
        self._models = models

    @cached_property
    def _stub(self) -> GeneratorServiceStub:
        return GeneratorServiceStub(self._generator.channel)

    def capabilities(self) -> pb.GetGeneratorCapabilitiesResponse:
        """Families, schedulers, limits and defaults."""
        return self._generator.call(self._stub.GetGeneratorCapabilities, pb.GetGeneratorCapabilitiesRequest())

    def schedulers(self) -> Sequence[pb.SchedulerInfo]:
        """The schedulers that this deployment has."""
        return self._generator.call(self._stub.ListSchedulers, pb.ListSchedulersRequest()).schedulers

    def settings(
        self,
        prompt: str,
        model: ModelRef,
        *,
        negative_prompt: str = "",
        size: Size | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float | None = None,
        scheduler: str = "",
        seed: int | None = None,
        count: int | None = None,
        lora_weight: float | None = None,
        loras: Mapping[str, float] | None = None,
    ) -> GenerationSettings:
        """A request's settings; what is None stays unset and gets the server's default. Raises InvalidArgument."""
        width, height = (None, None) if size is None else parse_size(size)
        settings = GenerationSettings()
        values: dict[str, Any] = {
            "model_id": self._models.id_of(model),
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "steps": steps,
            "guidance_scale": guidance,
            "guidance_rescale": guidance_rescale,
            "scheduler": scheduler or None,
            "seed": seed,
            "count": count,
            "lora_weight": lora_weight,
        }
        plain.fill(settings, values, path="settings")
        for reference, weight in (loras or {}).items():
            settings.loras.append(types.LoraWeight(model_id=self._models.id_of(reference), weight=weight))
        return settings

    def draw(
        self,
        settings: GenerationSettings,
        *,
        on_event: Callable[[GenerateResponse], None] | None = None,
        preview_interval: int | None = None,
    ) -> Drawing:
        """Draws and waits; `on_event` sees every message of the stream. A cut connection is taken up again.

        Raises NotFound, InvalidArgument, FailedPrecondition, ResourceExhausted, Cancelled, Unavailable.
        """
        pictures: dict[int, Picture] = {}
        generation: Generation | None = None
        for answer in self.stream(settings, preview_interval=preview_interval):
            if on_event is not None:
                on_event(answer)
            kind = answer.WhichOneof("event")
            if kind == "image":
                image = answer.image.image
                pictures[image.index] = Picture(answer.image.data, image.index, image.seed, image.width, image.height)
            elif kind == "done":
                generation = answer.done.generation
        if generation is None:
            raise InternalError("the Generator's stream ended before it was done", reason="STREAM_ENDED")
        return Drawing(generation, tuple(pictures[index] for index in sorted(pictures)))

    def stream(
        self, settings: GenerationSettings, *, preview_interval: int | None = None
    ) -> Iterator[GenerateResponse]:
        """The messages of a generation as they come. Leaving the iteration does not stop it: `cancel` does.

        A cut connection is taken up again under the same request id: nothing is drawn twice, messages may repeat.
        """
        request = pb.GenerateRequest(request_id=str(uuid.uuid4()), settings=settings, preview_interval=preview_interval)
        attempt = 0
        while True:
            try:
                for answer in self._generator.stream(self._stub.Generate, request):
                    attempt = 0
                    yield answer
                return
            except Unavailable as error:
                attempt += 1
                if attempt >= CALL_ATTEMPTS:
                    raise
                time.sleep(delay_after(error, attempt - 1))

    def cancel(self, generation_id: str) -> Generation:
        """Stops it within one denoising step. Raises NotFound, FailedPrecondition."""
        request = pb.CancelGenerationRequest(generation_id=generation_id)
        return self._generator.call(self._stub.CancelGeneration, request).generation

    def get(self, generation_id: str) -> Generation:
        """Raises NotFound."""
        return self._generator.call(
            self._stub.GetGeneration, pb.GetGenerationRequest(generation_id=generation_id)
        ).generation

    def image_bytes(self, generation_id: str, index: int) -> bytes:
        """The PNG of a finished picture. Raises NotFound, DataLoss."""
        request = pb.DownloadGeneratedImageRequest(generation_id=generation_id, index=index)
        return bytes(self._generator.call(self._stub.DownloadGeneratedImage, request).content.data)

    def recent(self, *, model: ModelRef | None = None, limit: int = 50) -> Sequence[Generation]:
        """The latest generations, newest first; at most `limit` (up to 1000)."""
        model_id = None if model is None else self._models.id_of(model)
        request = pb.ListGenerationsRequest(page_size=limit, model_id=model_id)
        return self._generator.call(self._stub.ListGenerations, request).generations


def parse_size(size: Size) -> tuple[int, int]:
    """(width, height) in pixels. Raises InvalidArgument naming `size`."""
    if isinstance(size, tuple):
        return size
    if isinstance(size, int):
        return size, size
    parts = size.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() for part in parts):
        raise InvalidArgument({"size": f"{size!r} is neither a side like 512 nor a width and height like 512x768"})
    sides = [int(part) for part in parts]
    return sides[0], sides[-1]
