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
from services.common.clients import MAX_MESSAGE_BYTES
from services.common.paging import decode_token, encode_token, page_size
from services.common.principal import principal_of
from services.diffusion.families import FAMILIES
from services.diffusion.schedulers import SAMPLERS
from services.generator import domain
from services.generator.catalog import FAMILIES as FAMILY_NAMES
from services.generator.config import GeneratorSettings
from services.generator.convert import (
    STATUS_NAMES,
    event_to_proto,
    generation_to_proto,
    loaded_to_proto,
    pictured_to_proto,
)
from services.generator.convert_settings import FORMATS, SCHEDULERS, wish_from_proto
from services.generator.gallery import Gallery
from services.generator.generations import Asking, Generations
from services.generator.runs import Watcher
from services.generator.store import Store

Context = grpc.aio.ServicerContext[Any, Any]

MAX_ANSWER_BYTES = MAX_MESSAGE_BYTES * 3 // 4
"""Of pictures in one answer; what is beyond is fetched by itself."""


@dataclass(frozen=True)
class GeneratorServicer(GeneratorServiceServicer):
    """Speaks for the generations, their store and their gallery."""

    generations: Generations
    gallery: Gallery
    store: Store
    device: str
    settings: GeneratorSettings

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
            quality=domain.DEFAULT_QUALITY,
            prompt_syntax=pb.PROMPT_SYNTAX_WEIGHTED,
        )
        families = {number: FAMILIES[name] for number, name in FAMILY_NAMES.items() if name in FAMILIES}
        return rpc.GetGeneratorCapabilitiesResponse(
            families=list(families),
            schedulers=[SCHEDULERS[name] for name in SAMPLERS],
            formats=list(FORMATS.values()),
            defaults=defaults,
            max_side=domain.MAX_SIDE,
            max_steps=domain.MAX_STEPS,
            max_count=domain.MAX_COUNT,
            max_queue=self.settings.max_queue,
            device=self.device,
            version=VERSION,
            max_grid=domain.MAX_GRID,
            max_batch=self.settings.max_batch,
            clip_families=[number for number, family in families.items() if family.draws_clips],
            control_families=[number for number, family in families.items() if family.takes_controls],
            has_safety_checker=self.settings.safety_checker is not None,
            max_age_days=self.settings.max_age_days,
            max_gallery_bytes=self.settings.max_gallery_bytes,
        )

    async def Generate(self, request: rpc.GenerateRequest, context: Context) -> AsyncIterator[rpc.GenerateResponse]:
        interval = request.preview_interval if request.HasField("preview_interval") else None
        watcher = await self._submit(request, context, preview_interval=interval)
        async with aclosing(watcher.events(self.settings.heartbeat_seconds)) as events:
            async for event in events:
                yield event_to_proto(watcher.id, event)

    async def GenerateImages(self, request: rpc.GenerateImagesRequest, context: Context) -> rpc.GenerateImagesResponse:
        watcher = await self._submit(request, context)
        answer = rpc.GenerateImagesResponse()
        room = MAX_ANSWER_BYTES
        async with aclosing(watcher.events(self.settings.heartbeat_seconds)) as events:
            async for event in events:
                match event:
                    case domain.Pictured(picture, data):
                        room -= len(data)
                        answer.images.append(pictured_to_proto(event if room >= 0 else domain.Pictured(picture, b"")))
                    case domain.Done(generation):
                        answer.generation.CopyFrom(generation_to_proto(generation))
        answer.images.sort(key=lambda each: each.image.index)  # they have come as each was done
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
        after = decode_token(request.page_token, int)
        found, last, total = await self.store.page(
            page_size(request.page_size),
            before=int(after[0]) if after else None,
            model_id=request.model_id if request.HasField("model_id") else None,
            status=STATUS_NAMES.get(request.status),
            prompt_contains=request.prompt_contains,
            is_kept=request.is_kept if request.HasField("is_kept") else None,
        )
        return rpc.ListGenerationsResponse(
            generations=[generation_to_proto(generation) for generation in found],
            next_page_token=encode_token(last) if last is not None else "",
            total_size=total,
        )

    async def UpdateGeneration(
        self, request: rpc.UpdateGenerationRequest, context: Context
    ) -> rpc.UpdateGenerationResponse:
        is_kept = request.is_kept if request.HasField("is_kept") else None
        generation = await self.gallery.keep(request.generation_id, is_kept)
        return rpc.UpdateGenerationResponse(generation=generation_to_proto(generation))

    async def DeleteGeneration(
        self, request: rpc.DeleteGenerationRequest, context: Context
    ) -> rpc.DeleteGenerationResponse:
        await self.gallery.delete(request.generation_id)
        return rpc.DeleteGenerationResponse()

    async def DownloadGeneratedImage(
        self, request: rpc.DownloadGeneratedImageRequest, context: Context
    ) -> rpc.DownloadGeneratedImageResponse:
        found = await self.gallery.picture(request.generation_id, request.index)
        body = httpbody_pb2.HttpBody(content_type=found.picture.content_type, data=found.data)
        return rpc.DownloadGeneratedImageResponse(content=body)

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
        return rpc.ListLoadedModelsResponse(models=[loaded_to_proto(model) for model in self.generations.loaded()])

    async def LoadModel(self, request: rpc.LoadModelRequest, context: Context) -> rpc.LoadModelResponse:
        return rpc.LoadModelResponse(model=loaded_to_proto(await self.generations.load(request.model_id)))

    async def UnloadModel(self, request: rpc.UnloadModelRequest, context: Context) -> rpc.UnloadModelResponse:
        await self.generations.unload(request.model_id)
        return rpc.UnloadModelResponse()

    async def _submit(
        self,
        request: rpc.GenerateRequest | rpc.GenerateImagesRequest,
        context: Context,
        *,
        preview_interval: int | None = None,
    ) -> Watcher:
        asking = Asking(
            principal=principal_of(context),
            request_id=request.request_id or None,
            preview_interval=preview_interval,
            keeps_drawing=request.keep_drawing,
        )
        return await self.generations.submit(wish_from_proto(request.settings), asking)
