"""The Generator's RPCs: convert, call, convert."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from atelier.generator.v1.generator_service_pb2_grpc import GeneratorServiceServicer
from google.api import httpbody_pb2

from services import VERSION
from services.common.errors import InvalidArgument
from services.common.paging import decode_token, encode_token, page_size
from services.common.principal import principal_of
from services.diffusion.families import FAMILIES
from services.diffusion.schedulers import SAMPLERS
from services.generator import domain
from services.generator.catalog import FAMILIES as FAMILY_NAMES
from services.generator.convert import (
    CONTENT_TYPES,
    FORMATS,
    SCHEDULERS,
    STATUS_NAMES,
    event_to_proto,
    generation_to_proto,
    loaded_to_proto,
    pictured_to_proto,
    wish_from_proto,
)
from services.generator.engine.pool import Pool
from services.generator.generations import Generations
from services.generator.runs import Run
from services.generator.store import Store

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class GeneratorServicer(GeneratorServiceServicer):
    """Speaks for the generations, their store and the models in memory."""

    generations: Generations
    store: Store
    pool: Pool
    device: str
    max_queue: int
    max_batch: int
    heartbeat_seconds: float

    async def GetGeneratorCapabilities(
        self, request: rpc.GetGeneratorCapabilitiesRequest, context: Context
    ) -> rpc.GetGeneratorCapabilitiesResponse:
        defaults = pb.GenerationSettings(
            steps=domain.DEFAULT_STEPS,
            guidance_scale=domain.DEFAULT_GUIDANCE,
            guidance_rescale=0,
            count=1,
            lora_weight=1,
            format=pb.PICTURE_FORMAT_PNG,
            quality=90,
            prompt_syntax=pb.PROMPT_SYNTAX_WEIGHTED,
        )
        drawn = [name for name, family in FAMILIES.items() if not family.draws_clips]
        return rpc.GetGeneratorCapabilitiesResponse(
            families=[number for number, name in FAMILY_NAMES.items() if name in drawn],
            schedulers=[SCHEDULERS[name] for name in SAMPLERS],
            formats=list(FORMATS.values()),
            max_batch=self.max_batch,
            defaults=defaults,
            max_side=domain.MAX_SIDE,
            max_steps=domain.MAX_STEPS,
            max_count=domain.MAX_COUNT,
            max_queue=self.max_queue,
            device=self.device,
            version=VERSION,
        )

    async def Generate(self, request: rpc.GenerateRequest, context: Context) -> AsyncIterator[rpc.GenerateResponse]:
        interval = request.preview_interval if request.HasField("preview_interval") else None
        run = await self._submit(request.settings, request.request_id, interval, context)
        run.keep_drawing |= request.keep_drawing
        try:
            async with aclosing(run.watch(self.heartbeat_seconds)) as events:
                async for event in events:
                    yield event_to_proto(run.generation, event)
        finally:
            self.generations.left(run)

    async def GenerateImages(self, request: rpc.GenerateImagesRequest, context: Context) -> rpc.GenerateImagesResponse:
        run = await self._submit(request.settings, request.request_id, None, context)
        run.keep_drawing |= request.keep_drawing
        answer = rpc.GenerateImagesResponse()
        try:
            async with aclosing(run.watch(self.heartbeat_seconds)) as events:
                async for event in events:
                    match event:
                        case domain.Pictured():
                            answer.images.append(pictured_to_proto(event, run.generation.settings))
                        case domain.Done(generation):
                            answer.generation.CopyFrom(generation_to_proto(generation))
        finally:
            self.generations.left(run)
        return answer

    async def CancelGeneration(
        self, request: rpc.CancelGenerationRequest, context: Context
    ) -> rpc.CancelGenerationResponse:
        generation = await self.generations.cancel(request.generation_id)
        return rpc.CancelGenerationResponse(generation=generation_to_proto(generation))

    async def GetGeneration(self, request: rpc.GetGenerationRequest, context: Context) -> rpc.GetGenerationResponse:
        generation = await self.store.get(request.generation_id)
        return rpc.GetGenerationResponse(generation=generation_to_proto(generation))

    async def ListGenerations(
        self, request: rpc.ListGenerationsRequest, context: Context
    ) -> rpc.ListGenerationsResponse:
        rules = {}
        if request.prompt_contains:
            rules["prompt_contains"] = "is not searched for by this version"
        if request.HasField("is_kept"):
            rules["is_kept"] = "is not filtered by in this version"
        if rules:
            raise InvalidArgument.of(rules)
        after = decode_token(request.page_token, int)
        found, last, total = await self.store.page(
            page_size(request.page_size),
            before=int(after[0]) if after else None,
            model_id=request.model_id if request.HasField("model_id") else None,
            status=STATUS_NAMES.get(request.status),
        )
        return rpc.ListGenerationsResponse(
            generations=[generation_to_proto(generation) for generation in found],
            next_page_token=encode_token(last) if last is not None else "",
            total_size=total,
        )

    async def DeleteGeneration(
        self, request: rpc.DeleteGenerationRequest, context: Context
    ) -> rpc.DeleteGenerationResponse:
        await self.generations.delete(request.generation_id)
        return rpc.DeleteGenerationResponse()

    async def DownloadGeneratedImage(
        self, request: rpc.DownloadGeneratedImageRequest, context: Context
    ) -> rpc.DownloadGeneratedImageResponse:
        data, format = await self.generations.picture(request.generation_id, request.index)
        body = httpbody_pb2.HttpBody(content_type=CONTENT_TYPES[format], data=data)
        return rpc.DownloadGeneratedImageResponse(content=body)

    async def UpdateGeneration(
        self, request: rpc.UpdateGenerationRequest, context: Context
    ) -> rpc.UpdateGenerationResponse:
        if request.HasField("is_kept"):
            raise InvalidArgument("nothing is removed by itself in this version", field="is_kept")
        generation = await self.store.get(request.generation_id)
        return rpc.UpdateGenerationResponse(generation=generation_to_proto(generation))

    async def LoadModel(self, request: rpc.LoadModelRequest, context: Context) -> rpc.LoadModelResponse:
        model = await self.generations.load(request.model_id)
        return rpc.LoadModelResponse(model=loaded_to_proto(model))

    async def UnloadModel(self, request: rpc.UnloadModelRequest, context: Context) -> rpc.UnloadModelResponse:
        await self.generations.unload(request.model_id)
        return rpc.UnloadModelResponse()

    async def ListSchedulers(self, request: rpc.ListSchedulersRequest, context: Context) -> rpc.ListSchedulersResponse:
        infos = [
            rpc.SchedulerInfo(
                scheduler=SCHEDULERS[sampler.name],
                display_name=sampler.display_name,
                is_stochastic=sampler.is_stochastic,
            )
            for sampler in SAMPLERS.values()
        ]
        return rpc.ListSchedulersResponse(schedulers=infos)

    async def ListLoadedModels(
        self, request: rpc.ListLoadedModelsRequest, context: Context
    ) -> rpc.ListLoadedModelsResponse:
        return rpc.ListLoadedModelsResponse(models=[loaded_to_proto(model) for model in self.pool.loaded()])

    async def _submit(
        self, settings: pb.GenerationSettings, request_id: str, preview_interval: int | None, context: Context
    ) -> Run:
        return await self.generations.submit(
            wish_from_proto(settings),
            request_id=request_id or None,
            preview_interval=preview_interval,
            principal=principal_of(context),
        )
