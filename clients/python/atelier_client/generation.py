"""Drawing: a prompt in, pictures out."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Unpack

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1.generation_pb2 import Generation, GenerationSettings
from atelier.generator.v1.generator_service_pb2 import GenerateResponse, LoadedModel
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

from atelier_client.errors import DeadlineExceeded, InternalError, InvalidArgument, ResourceExhausted, Unavailable
from atelier_client.models import ModelRef, Models
from atelier_client.options import Options, Size, parse_size, settings_of
from atelier_client.pictures import Drawing, Picture, drawing_of
from atelier_client.transport import CALL_ATTEMPTS, Transport, delay_after

__all__ = ["Drawing", "Generations", "Options", "Picture", "Size", "parse_size"]


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

    def settings(self, prompt: str, model: ModelRef, **options: Unpack[Options]) -> GenerationSettings:
        """A request's settings; what is not said stays unset and gets the server's default.

        Raises InvalidArgument, NotFound.
        """
        return settings_of(prompt, model, options, self._models)

    def grid_settings(
        self,
        prompts: str | Sequence[str],
        models: ModelRef | Sequence[ModelRef],
        *,
        weights: Sequence[float] = (),
        seeds: Sequence[int] = (),
        **options: Unpack[Options],
    ) -> GenerationSettings:
        """The settings of a grid: every combination of prompts, models, weights (of models that are LoRAs) and seeds.

        Raises InvalidArgument, NotFound.
        """
        rows = [prompts] if isinstance(prompts, str) else list(prompts)
        columns = list(models) if isinstance(models, Sequence) and not isinstance(models, str) else [models]
        for field, axis in (("prompts", rows), ("models", columns)):
            if not axis:
                raise InvalidArgument({field: "must not be empty"})
        settings = self.settings(rows[0], columns[0], **options)
        settings.grid.prompts.extend(rows)
        settings.grid.model_ids.extend(self._models.id_of(model) for model in columns)
        settings.grid.lora_weights.extend(weights)
        settings.grid.seeds.extend(seeds)
        return settings

    def draw(
        self,
        settings: GenerationSettings,
        *,
        on_event: Callable[[GenerateResponse], None] | None = None,
        preview_interval: int | None = None,
        keep_drawing: bool = False,
        timeout: float | None = None,
    ) -> Drawing:
        """Draws and waits; `on_event` sees every message of the stream. A cut connection is taken up again.

        Leaving, by Ctrl-C, an exception of `on_event` or after `timeout` seconds, frees its place; with `keep_drawing`
        it goes on, and its pictures are found in the gallery. Raises NotFound, InvalidArgument, FailedPrecondition,
        ResourceExhausted, Cancelled, DeadlineExceeded, Unavailable.
        """
        pictures: dict[int, Picture] = {}
        generation: Generation | None = None
        answers = self.stream(settings, preview_interval=preview_interval, keep_drawing=keep_drawing, timeout=timeout)
        for answer in answers:
            if on_event is not None:
                on_event(answer)
            kind = answer.WhichOneof("event")
            if kind == "image":
                image = answer.image.image
                pictures[image.index] = Picture(answer.image.data, answer.generation_id, image)
            elif kind == "done":
                generation = answer.done.generation
        if generation is None:
            raise InternalError("the Generator's stream ended before it was done", reason="STREAM_ENDED")
        return drawing_of(generation, list(pictures.values()))

    def stream(
        self,
        settings: GenerationSettings,
        *,
        preview_interval: int | None = None,
        keep_drawing: bool = False,
        timeout: float | None = None,
    ) -> Iterator[GenerateResponse]:
        """The messages of a generation as they come. Leaving the iteration frees its place, unless `keep_drawing`.

        A cut connection is taken up again under the same request id: what the server has dropped meanwhile is drawn
        anew, what it has finished is not, and messages may repeat. `timeout` is seconds for all of it. Raises as
        `draw`.
        """
        request = pb.GenerateRequest(
            request_id=str(uuid.uuid4()),
            settings=settings,
            preview_interval=preview_interval,
            keep_drawing=keep_drawing,
        )
        deadline = None if timeout is None else time.monotonic() + timeout
        reached: set[tuple[str, int, int]] = set()
        attempt, was_accepted = 0, False
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                for answer in self._generator.stream(self._stub.Generate, request, timeout=left):
                    was_accepted = True
                    if (place := _place(answer)) not in reached:  # drawn further than ever: this leads somewhere
                        reached.add(place)
                        attempt = 0
                    yield answer
                return
            except (Unavailable, ResourceExhausted) as error:
                attempt += 1
                is_full = isinstance(error, ResourceExhausted)
                if attempt >= CALL_ATTEMPTS or (is_full and (error.retry_after_seconds is None or not was_accepted)):
                    raise
                pause = delay_after(error, attempt - 1)
                if deadline is not None and time.monotonic() + pause >= deadline:
                    raise DeadlineExceeded(
                        f"the pictures did not come within {timeout:g} s: {error.message}", reason="DEADLINE_EXCEEDED"
                    ) from error
                time.sleep(pause)

    def start(self, settings: GenerationSettings) -> Generation:
        """Has it drawn without anybody watching, and gives it as it was accepted; the gallery's `wait` waits for it.

        Raises as `draw`, but for what goes wrong later: `status` and `failure` tell that.
        """
        for answer in self.stream(settings, keep_drawing=True):
            return self.get(answer.generation_id)
        raise InternalError("the Generator's stream ended before it began", reason="STREAM_ENDED")

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
        """The file of a finished picture. Raises NotFound, DataLoss."""
        request = pb.DownloadGeneratedImageRequest(generation_id=generation_id, index=index)
        return bytes(self._generator.call(self._stub.DownloadGeneratedImage, request).content.data)

    def recent(self, *, model: ModelRef | None = None, limit: int = 50) -> Sequence[Generation]:
        """The latest generations, newest first; at most `limit` (up to 1000)."""
        model_id = None if model is None else self._models.id_of(model)
        request = pb.ListGenerationsRequest(page_size=limit, model_id=model_id)
        return self._generator.call(self._stub.ListGenerations, request).generations

    def loaded(self) -> Sequence[LoadedModel]:
        """The models in memory."""
        return self._generator.call(self._stub.ListLoadedModels, pb.ListLoadedModelsRequest()).models

    def load(self, model: ModelRef) -> LoadedModel:
        """Brings a model into memory before somebody waits for it, and waits until it is there. Raises as `draw`."""
        request = pb.LoadModelRequest(model_id=self._models.id_of(model))
        return self._generator.call(self._stub.LoadModel, request, timeout=None).model

    def unload(self, model: ModelRef) -> None:
        """Takes a model out of memory; one that is not there is no error. Raises FailedPrecondition while it draws."""
        request = pb.UnloadModelRequest(model_id=self._models.id_of(model))
        self._generator.call(self._stub.UnloadModel, request)


def _place(answer: GenerateResponse) -> tuple[str, int, int]:
    """How far a generation is when it says this; messages that tell of no progress have one place."""
    match answer.WhichOneof("event"):
        case "queued":
            return "queued", answer.queued.position, 0
        case "step":
            return "step", answer.step.first_index, answer.step.step
        case "image":
            return "image", answer.image.image.index, 0
        case _:
            return "", 0, 0
