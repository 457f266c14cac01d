"""Which weights a request is drawn with, as the Catalog has them. Its errors come as the domain errors they were."""

import asyncio

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from services.common.clients import peer_errors
from services.common.errors import FailedPrecondition, InvalidArgument
from services.generator import domain

PEER = "the Catalog"
TIMEOUT_SECONDS = 30.0
FAMILIES = {number: name.removeprefix("MODEL_FAMILY_").lower() for name, number in model_pb2.ModelFamily.items()}


class Catalog:
    """A client of the Catalog on an open channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CatalogServiceStub(channel)

    async def plan(self, model_id: int, lora_weight: float | None, loras: tuple[domain.LoraChoice, ...]) -> domain.Plan:
        """The folders and LoRAs of a request.

        Raises NotFound (a model), FailedPrecondition (inactive, not for pictures, a LoRA of another base),
        InvalidArgument (a LoRA named twice, a weight for what is no LoRA), Unavailable.
        """
        chain = await self._chain(model_id)
        others = await asyncio.gather(*(self._model(each.model_id) for each in loras))
        model = chain[0]
        applied: list[domain.AppliedLora] = []
        if model.layout == model_pb2.WEIGHTS_LAYOUT_LORA:
            applied.append(domain.AppliedLora(source_of(model), 1.0 if lora_weight is None else lora_weight))
            chain = chain[1:]
            if not chain:
                message = f"model {model.id} '{model.name}' is a LoRA without a base model to put it on"
                raise FailedPrecondition(message, reason="BASE_MODEL_MISSING")
        elif lora_weight is not None:
            message = f"model {model.id} '{model.name}' is not a LoRA, so it has no LoRA weight"
            raise InvalidArgument(message, field="settings.lora_weight")
        # Behind a full model only its base matters; a LoRA in the chain of bases changes nothing that is loaded.
        pipeline = [each for each in chain if each.layout != model_pb2.WEIGHTS_LAYOUT_LORA]
        for each in (model, *others):
            _check_drawable(each)
        for choice, lora in zip(loras, others, strict=True):
            _check_lora(lora, pipeline)
            applied.append(domain.AppliedLora(source_of(lora), choice.weight))
        ids = [each.source.model_id for each in applied]
        if len(set(ids)) != len(ids):
            raise InvalidArgument("names a LoRA twice", field="settings.loras")
        return domain.Plan(model.name, tuple(source_of(each) for each in pipeline), tuple(applied))

    async def _model(self, model_id: int) -> model_pb2.Model:
        with peer_errors(PEER):
            request = catalog_pb2.GetModelRequest(model_id=model_id)
            return (await self._stub.GetModel(request, timeout=TIMEOUT_SECONDS)).model

    async def _chain(self, model_id: int) -> list[model_pb2.Model]:
        """A model, its base, the base of that, and so on: nearest first."""
        chain = [await self._model(model_id)]
        while chain[-1].HasField("base_model_id"):
            chain.append(await self._model(chain[-1].base_model_id))
        return chain


def source_of(model: model_pb2.Model) -> domain.Source:
    """Where a model's weights are, in the domain's words."""
    hub = (model.hub.repo_id, model.hub.revision) if model.WhichOneof("weights") == "hub" else None
    return domain.Source(
        model_id=model.id,
        name=model.name,
        family=FAMILIES.get(model.family, "unknown"),
        digest=hub[1] if hub else model.digest,
        files=tuple((file.path, file.sha256) for file in model.stored.files),
        hub=hub,
        native_size=model.native_resolution,
    )


def _check_drawable(model: model_pb2.Model) -> None:
    name = f"model {model.id} '{model.name}'"
    if not model.is_active:
        raise FailedPrecondition(f"{name} is inactive", reason="MODEL_INACTIVE")
    if model.category != model_pb2.MODEL_CATEGORY_IMAGE:
        raise FailedPrecondition(f"{name} does not draw pictures from text", reason="CATEGORY_UNSUPPORTED")


def _check_lora(lora: model_pb2.Model, pipeline: list[model_pb2.Model]) -> None:
    """Raises FailedPrecondition unless `lora` was trained on one of the pipeline's models."""
    name, base = f"model {lora.id} '{lora.name}'", pipeline[0]
    if lora.layout != model_pb2.WEIGHTS_LAYOUT_LORA:
        raise FailedPrecondition(f"{name} is not a LoRA", reason="NOT_A_LORA")
    if lora.family != base.family or lora.base_model_id not in [each.id for each in pipeline]:
        message = f"{name} was trained on model {lora.base_model_id}, and this request draws with model {base.id}"
        raise FailedPrecondition(f"{message} '{base.name}'", reason="LORA_MISMATCH")
