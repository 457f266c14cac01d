"""Which weights a request is drawn with, as the Catalog has them. Its errors come as the domain errors they were."""

import asyncio

import grpc
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.catalog.v1 import model_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from services.common.clients import peer_errors
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.diffusion.families import get_family as diffusion_family
from services.generator import domain

PEER = "the Catalog"
TIMEOUT_SECONDS = 30.0
FAMILIES = {number: name.removeprefix("MODEL_FAMILY_").lower() for name, number in model_pb2.ModelFamily.items()}


class Catalog:
    """A client of the Catalog on an open channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CatalogServiceStub(channel)

    async def plan(
        self,
        model_id: int,
        lora_weight: float | None,
        loras: tuple[domain.LoraChoice, ...],
        controls: tuple[int, ...] = (),
        *,
        weight_field: str | None = "settings.lora_weight",
    ) -> domain.Plan:
        """The folders, LoRAs and ControlNets (by their model ids) of a request.

        Raises NotFound (a model), FailedPrecondition (inactive, a ControlNet to draw with, a LoRA or ControlNet of
        another base), InvalidArgument (a LoRA named twice; a weight for what is no LoRA, unless `weight_field` is None
        and such a weight counts for nothing), Unavailable.
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
        elif lora_weight is not None and weight_field is not None:
            message = f"model {model.id} '{model.name}' is not a LoRA, so it has no LoRA weight"
            raise InvalidArgument(message, field=weight_field)
        # Behind a full model only its base matters; a LoRA in the chain of bases changes nothing that is loaded.
        pipeline = [each for each in chain if each.layout != model_pb2.WEIGHTS_LAYOUT_LORA]
        _check_drawable(model)
        for each in others:
            _check_active(each)
        for choice, lora in zip(loras, others, strict=True):
            _check_lora(lora, pipeline)
            applied.append(domain.AppliedLora(source_of(lora), choice.weight))
        ids = [each.source.model_id for each in applied]
        if len(set(ids)) != len(ids):
            raise InvalidArgument("names a LoRA twice", field="settings.loras")
        shown = await asyncio.gather(*(self._model(each) for each in controls))
        for place, control in enumerate(shown):
            check_control(control, pipeline[0], field=f"settings.controls[{place}].model_id")
        return domain.Plan(
            model.name,
            tuple(source_of(each) for each in pipeline),
            tuple(applied),
            tuple(source_of(each) for each in shown),
        )

    async def image_digest(self, image_id: int) -> str:
        """The SHA-256 of a dataset's picture, whose bytes are in the blob store. Raises NotFound, Unavailable."""
        if image_id > 2**31 - 1:  # more than the Catalog has numbers
            raise NotFound("image", image_id)
        with peer_errors(PEER):
            request = catalog_pb2.GetImageRequest(image_id=image_id)
            return (await self._stub.GetImage(request, timeout=TIMEOUT_SECONDS)).image.sha256

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


def _named(model: model_pb2.Model) -> str:
    return f"model {model.id} '{model.name}'"


def _check_active(model: model_pb2.Model) -> None:
    if not model.is_active:
        raise FailedPrecondition(f"{_named(model)} is inactive", reason="MODEL_INACTIVE")


def _check_drawable(model: model_pb2.Model) -> None:
    """Raises FailedPrecondition for what draws nothing by itself."""
    _check_active(model)
    if model.layout == model_pb2.WEIGHTS_LAYOUT_CONTROLNET:
        raise FailedPrecondition(f"{_named(model)} is a ControlNet, and draws nothing by itself", reason="NOT_A_MODEL")
    family = diffusion_family(FAMILIES.get(model.family, "unknown"))
    category = model_pb2.MODEL_CATEGORY_VIDEO if family.draws_clips else model_pb2.MODEL_CATEGORY_IMAGE
    if model.category != category:
        what = "clips" if family.draws_clips else "pictures"
        message = f"{_named(model)} is of a family that draws {what}, and its category is another"
        raise FailedPrecondition(message, reason="CATEGORY_UNSUPPORTED")


def check_control(control: model_pb2.Model, base: model_pb2.Model, *, field: str) -> None:
    """Raises FailedPrecondition unless `control` is a ControlNet that fits `base`."""
    name = f"{field}: {_named(control)}"
    if not control.is_active:
        raise FailedPrecondition(f"{name} is inactive", reason="MODEL_INACTIVE")
    if control.layout != model_pb2.WEIGHTS_LAYOUT_CONTROLNET:
        raise FailedPrecondition(f"{name} is not a ControlNet", reason="NOT_A_CONTROLNET")
    family = FAMILIES.get(base.family, "unknown")
    if not diffusion_family(family).takes_controls:
        message = f"{name} cannot steer {_named(base)}: models of the family {family} take no ControlNets"
        raise FailedPrecondition(message, reason="CONTROL_UNSUPPORTED")
    if control.family != base.family:
        message = f"{name} is of the family {FAMILIES.get(control.family, 'unknown')}, and {_named(base)} of {family}"
        raise FailedPrecondition(message, reason="CONTROL_MISMATCH")


def _check_lora(lora: model_pb2.Model, pipeline: list[model_pb2.Model]) -> None:
    """Raises FailedPrecondition unless `lora` was trained on one of the pipeline's models."""
    name, base = _named(lora), pipeline[0]
    if lora.layout != model_pb2.WEIGHTS_LAYOUT_LORA:
        raise FailedPrecondition(f"{name} is not a LoRA", reason="NOT_A_LORA")
    if lora.family != base.family or lora.base_model_id not in [each.id for each in pipeline]:
        message = f"{name} was trained on model {lora.base_model_id}, and this request draws with model {base.id}"
        raise FailedPrecondition(f"{message} '{base.name}'", reason="LORA_MISMATCH")
