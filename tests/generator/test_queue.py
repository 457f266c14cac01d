"""Queues: each caller has one, and there is one bound over all."""

import asyncio
from typing import Any

import pytest
from atelier.generator.v1 import generator_service_pb2 as rpc

from services.common.errors import ResourceExhausted
from services.common.principal import host_of
from services.common.status import error_from_rpc
from tests.generator.conftest import Studio
from tests.generator.house import at_a_step
from tests.generator.test_generate import settings


def ask(generator: Any, studio: Studio, **metadata: str) -> Any:
    wanted = settings(studio.base_id, steps=900)
    headers = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    return generator.Generate(rpc.GenerateRequest(settings=wanted), metadata=headers)


async def refused(stream: Any) -> ResourceExhausted:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which it is, is looked at below
        await anext(aiter(stream))
    error = error_from_rpc(caught.value, peer="the Generator")  # type: ignore[arg-type]  # an AioRpcError
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds >= 1
    return error


async def test_each_caller_has_a_queue_and_there_is_one_bound_over_all(studio: Studio) -> None:
    async with studio.generator(max_active=1, max_queue=2, max_queue_total=3) as generator:
        ann = {"x_atelier_principal": "ann"}
        streams = [ask(generator, studio, **ann)]
        await at_a_step(streams[0])  # it is begun, and waits no more
        for _ in range(2):
            streams.append(ask(generator, studio, **ann))
            await anext(aiter(streams[-1]))
        assert "ann" in (await refused(ask(generator, studio, **ann))).message
        # Behind a proxy callers are told apart by their addresses.
        streams.append(ask(generator, studio, x_forwarded_for="203.0.113.9, 10.0.0.1"))
        await anext(aiter(streams[-1]))
        assert "3 generations" in (await refused(ask(generator, studio))).message
        listed = (await generator.ListGenerations(rpc.ListGenerationsRequest())).generations
        assert [each.principal for each in listed] == ["203.0.113.9", "ann", "ann", "ann"]
        # A place that is left is free.
        streams[1].cancel()
        for _ in range(200):
            stream = ask(generator, studio)
            try:
                await anext(aiter(stream))
                break
            except Exception:
                await asyncio.sleep(0.02)
        newest = (await generator.ListGenerations(rpc.ListGenerationsRequest(page_size=1))).generations[0]
        assert newest.principal in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:50051", "192.0.2.7"),
        ("ipv6:%5B2001:db8::7%5D:50051", "2001:db8::7"),
        ("ipv6:[::1]:50051", "::1"),
        ("unix:/run/atelier.sock", "unix"),
        ("", "unknown"),
    ],
)
def test_a_peer_is_its_host(peer: str, host: str) -> None:
    assert host_of(peer) == host
