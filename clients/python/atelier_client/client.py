"""The client: one object for the three services."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, Unpack

from atelier.generator.v1.generator_service_pb2 import GenerateResponse

from atelier_client.addresses import Addresses, find_addresses
from atelier_client.datasets import Datasets
from atelier_client.gallery import Gallery
from atelier_client.generation import Generations
from atelier_client.models import ModelRef, Models
from atelier_client.options import Options
from atelier_client.pictures import Drawing
from atelier_client.training import Training
from atelier_client.transport import Transport


class Atelier:
    """Images in, a fine-tuned model out, pictures from it.

    >>> atelier = Atelier.connect()
    >>> dataset = atelier.datasets.create("icons")
    >>> atelier.datasets.upload(dataset, "pictures/")
    >>> job = atelier.training.create(dataset, "Atelier Starter", config={"lora": {"rank": 8}}, start=True)
    >>> job = atelier.training.wait(job.id)
    >>> atelier.generate("a red apple", model=job.model_id)[0].save("apple.png")

    Safe to use from several threads. Close it, or use it as a context manager, to let the connections go.
    """

    def __init__(self, *, catalog: str, trainer: str, generator: str) -> None:
        """Addresses are host:port. Nothing is sent before the first call."""
        self.addresses = Addresses(catalog, trainer, generator)
        self._transports = [
            Transport("Catalog", catalog),
            Transport("Trainer", trainer),
            Transport("Generator", generator),
        ]
        catalog_transport, trainer_transport, generator_transport = self._transports
        self.datasets = Datasets(catalog_transport)
        self.models = Models(catalog_transport)
        self.training = Training(trainer_transport, self.datasets, self.models)
        self.generations = Generations(generator_transport, self.models)
        self.gallery = Gallery(generator_transport, self.models)

    @classmethod
    def connect(cls, *, catalog: str = "", trainer: str = "", generator: str = "") -> Self:
        """A client at the addresses given, else ATELIER_<SERVICE>_ADDRESS, else those of the running `atelier up`."""
        found = find_addresses(catalog=catalog, trainer=trainer, generator=generator)
        return cls(catalog=found.catalog, trainer=found.trainer, generator=found.generator)

    def generate(
        self,
        prompt: str,
        *,
        model: ModelRef,
        on_event: Callable[[GenerateResponse], None] | None = None,
        keep_drawing: bool = False,
        **options: Unpack[Options],
    ) -> Drawing:
        """Draws `prompt` with `model` and gives the pictures; `options` are those of `atelier_client.Options`.

        Leaving, by Ctrl-C or an exception of `on_event`, ends it, unless `keep_drawing`. Raises NotFound,
        InvalidArgument, FailedPrecondition, ResourceExhausted, Cancelled, Unavailable.
        """
        settings = self.generations.settings(prompt, model, **options)
        return self.generations.draw(settings, on_event=on_event, keep_drawing=keep_drawing)

    def grid(
        self,
        prompts: str | Sequence[str],
        *,
        models: ModelRef | Sequence[ModelRef],
        weights: Sequence[float] = (),
        seeds: Sequence[int] = (),
        on_event: Callable[[GenerateResponse], None] | None = None,
        keep_drawing: bool = False,
        **options: Unpack[Options],
    ) -> Drawing:
        """Draws every combination: the cells, and all of them on one labelled picture, the drawing's `sheet`.

        `weights` are of models that are LoRAs; an axis that is left out has one value. Options and errors as of
        `generate`.
        """
        settings = self.generations.grid_settings(prompts, models, weights=weights, seeds=seeds, **options)
        return self.generations.draw(settings, on_event=on_event, keep_drawing=keep_drawing)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
