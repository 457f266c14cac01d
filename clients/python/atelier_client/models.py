"""Models: base models, and what training made of them."""

import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.catalog.v1.model_pb2 import Model, ModelCategory, ModelType

from atelier_client import plain
from atelier_client.errors import InvalidArgument, NotFound
from atelier_client.naming import did_you_mean
from atelier_client.transport import Transport

CHUNK_BYTES = 1 << 20

ModelRef: TypeAlias = int | str | Model
"""A model, its id, or its name."""


class Models:
    """The Catalog's models. Wherever one is asked for, its id, its name or the message will do."""

    def __init__(self, catalog: Transport) -> None:
        self._catalog = catalog

    @cached_property
    def _stub(self) -> CatalogServiceStub:
        return CatalogServiceStub(self._catalog.channel)

    def seed(self) -> pb.SeedModelsResponse:
        """Adds the base models and the starter model; what is there stays as it is. Raises FailedPrecondition."""
        return self._catalog.call(self._stub.SeedModels, pb.SeedModelsRequest())

    def list(self, *, category: str = "", type: str = "", active: bool | None = None) -> list[Model]:
        """Every model, or those of a category (image, video), a type (base_model, lora, ...), or in use."""
        request = pb.ListModelsRequest(page_size=1000, is_active=active)
        if category:
            number = plain.number_of(ModelCategory.DESCRIPTOR, category, field="category")
            request.category = ModelCategory.ValueType(number)
        if type:
            request.type = ModelType.ValueType(plain.number_of(ModelType.DESCRIPTOR, type, field="type"))
        models: list[Model] = []
        while True:
            page = self._catalog.call(self._stub.ListModels, request)
            models.extend(page.models)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return models

    def get(self, model: ModelRef) -> Model:
        """The model as it is now.

        Raises NotFound, and InvalidArgument for a name that several models have.
        """
        if isinstance(model, str) and not model.isdecimal():
            return self._by_name(model)
        model_id = model.id if isinstance(model, Model) else int(model)
        return self._catalog.call(self._stub.GetModel, pb.GetModelRequest(model_id=model_id)).model

    def id_of(self, model: ModelRef) -> int:
        """The id that `model` means; asks the Catalog only for a name."""
        if isinstance(model, Model):
            return model.id
        if isinstance(model, int) or model.isdecimal():
            return int(model)
        return self._by_name(model).id

    def lineage(self, model: ModelRef) -> pb.GetModelLineageResponse:
        """What it came from and what came from it. Raises NotFound."""
        request = pb.GetModelLineageRequest(model_id=self.id_of(model))
        return self._catalog.call(self._stub.GetModelLineage, request)

    def export(self, model: ModelRef, path: str | Path, *, format: str = "diffusers") -> Path:
        """Writes the model to a file for other programs, and gives its path; into a folder, under a name of its own.

        `format`: diffusers (a zip with a model card), lora_diffusers or lora_kohya (one .safetensors file, the latter
        for ComfyUI and AUTOMATIC1111). Raises NotFound, FailedPrecondition, DataLoss, OSError.
        """
        number = plain.number_of(pb.ExportFormat.DESCRIPTOR, format, field="format")
        request = pb.ExportModelRequest(model_id=self.id_of(model), format=pb.ExportFormat.ValueType(number))
        answers = self._catalog.stream(self._stub.ExportModel, request)
        first = next(answers)
        target = Path(path) / first.filename if Path(path).is_dir() else Path(path)
        aside = target.with_name(f".{target.name}.part")
        try:
            with aside.open("wb") as file:
                file.write(first.content.data)
                for answer in answers:
                    file.write(answer.content.data)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def import_weights(
        self,
        path: str | Path,
        base_model: ModelRef,
        *,
        name: str = "",
        trigger_words: Sequence[str] = (),
        license: str = "",
        description: str = "",
    ) -> Model:
        """Takes in what was made elsewhere, from a .safetensors file: a LoRA in diffusers' or kohya's layout, or a
        whole checkpoint, for which `base_model` is one of its family that has all but the weights.

        Named after the file where no name is given. Raises InvalidArgument for a file that is refused, NotFound,
        FailedPrecondition for another family than the base's, OSError.
        """
        file = Path(path)
        start = pb.ImportStart(
            request_id=str(uuid.uuid4()),
            name=name or file.stem,
            base_model_id=self.id_of(base_model),
            trigger_words=trigger_words,
            license=license,
            description=description,
        )
        with file.open("rb"):
            pass  # an OSError inside the stream would only break it
        return self._catalog.call(self._stub.ImportModel, _import_parts(start, file), timeout=None, attempts=1).model

    def register_hub(
        self,
        repo_id: str,
        revision: str,
        *,
        name: str = "",
        type: str = "base_model",
        family: str = "stable_diffusion",
        category: str = "image",
        native_resolution: int = 0,
        license: str = "",
    ) -> Model:
        """Makes a model of a diffusers folder on a hub, which is fetched at its first use: a pipeline, or, where `type`
        is "controlnet", a ControlNet.

        `revision` is a commit's 40 digits. Named after the repository where no name is given. Raises InvalidArgument,
        NotFound.
        """
        request = pb.RegisterModelRequest(request_id=str(uuid.uuid4()), name=name or repo_id.rpartition("/")[2])
        values = {
            "type": type,
            "family": family,
            "category": category,
            "layout": "controlnet" if type == "controlnet" else "pipeline",
            "hub": {"repo_id": repo_id, "revision": revision},
            "native_resolution": native_resolution,
            "license": license,
        }
        plain.fill(request, values, path="model")
        return self._catalog.call(self._stub.RegisterModel, request).model

    def import_lora(self, path: str | Path, base_model: ModelRef, **options: Any) -> Model:
        """As `import_weights`, by the name that it had while LoRAs were all there was."""
        return self.import_weights(path, base_model, **options)

    def push(
        self, model: ModelRef, repo_id: str, *, token: str = "", private: bool = False, commit_message: str = ""
    ) -> pb.PushModelResponse:
        """Puts a model with its card into a repository of a hub, made where it is not there.

        `token` is one of the hub's, with the right to write; empty means the deployment's own. Raises NotFound,
        FailedPrecondition, PermissionDenied, Unavailable.
        """
        request = pb.PushModelRequest(
            model_id=self.id_of(model),
            repo_id=repo_id,
            token=token,
            private=private,
            commit_message=commit_message,
        )
        return self._catalog.call(self._stub.PushModel, request, timeout=None, attempts=1)

    def pull(
        self,
        repo_id: str,
        base_model: ModelRef,
        *,
        filename: str = "",
        revision: str = "",
        name: str = "",
        trigger_words: Sequence[str] = (),
        token: str = "",
    ) -> pb.PullModelResponse:
        """Takes a LoRA or a checkpoint out of a hub's repository, as `import_weights` takes a file.

        `filename` may be left out where the top folder has one .safetensors file. Raises as `import_weights` and
        `push`.
        """
        request = pb.PullModelRequest(
            request_id=str(uuid.uuid4()),
            repo_id=repo_id,
            revision=revision,
            filename=filename,
            name=name,
            base_model_id=self.id_of(base_model),
            token=token,
            trigger_words=trigger_words,
        )
        return self._catalog.call(self._stub.PullModel, request, timeout=None, attempts=1)

    def delete(self, model: ModelRef) -> None:
        """Raises NotFound, or FailedPrecondition while other models are built on it."""
        self._catalog.call(self._stub.DeleteModel, pb.DeleteModelRequest(model_id=self.id_of(model)), attempts=1)

    def _by_name(self, name: str) -> Model:
        if not name:
            raise InvalidArgument({"model": "must be an id or a name"})
        found = self._catalog.call(self._stub.ListModels, pb.ListModelsRequest(name=name)).models
        if len(found) > 1:
            ids = ", ".join(str(model.id) for model in found)
            raise InvalidArgument({"model": f"{len(found)} models are called {name!r}: say which of the ids {ids}"})
        if not found:
            hint = did_you_mean(name, [model.name for model in self.list()])
            raise NotFound(f"there is no model called {name!r}{hint}", kind="model", id=name)
        return found[0]


def _import_parts(start: pb.ImportStart, path: Path) -> Iterator[pb.ImportModelRequest]:
    yield pb.ImportModelRequest(start=start)
    offset = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield pb.ImportModelRequest(chunk=pb.ImportChunk(offset=offset, data=data))
            offset += len(data)
