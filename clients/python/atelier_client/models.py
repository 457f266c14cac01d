"""Models: base models, and what training made of them."""

from functools import cached_property
from typing import TypeAlias

from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.catalog.v1.model_pb2 import Model, ModelCategory, ModelType

from atelier_client import plain
from atelier_client.errors import InvalidArgument, NotFound
from atelier_client.naming import did_you_mean
from atelier_client.transport import Transport

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
