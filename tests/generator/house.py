"""What several tests of the Generator do."""

import asyncio
from collections.abc import Callable
from typing import Any

from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc


async def until(
    generator: Any, request: rpc.GetGenerationRequest, status: pb.GenerationStatus.ValueType
) -> pb.Generation:
    """The generation, once it has the status; after a while, as it is."""
    for _ in range(600):
        generation = (await generator.GetGeneration(request)).generation
        if generation.status == status:
            break
        await asyncio.sleep(0.05)
    return generation


async def settled(holds: Callable[[], Any]) -> bool:
    """True once it holds; False when it does not after a while. It may be a coroutine function."""
    for _ in range(600):
        answer = holds()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return True
        await asyncio.sleep(0.05)
    return False


async def at_a_step(stream: Any) -> rpc.GenerateResponse:
    """Reads until the denoiser is at work."""
    async for event in stream:
        if event.HasField("step"):
            return event
    raise AssertionError("the stream ended before the first step")
