"""What happens around every RPC: its request is validated, its errors become statuses, its end is logged.

Streams are wrapped around their iteration, not around the call that returns the generator: a `try` around the call lets
what a stream raises escape as UNKNOWN.

Every RPC is handled as one that streams its requests, which on the wire is the same. grpc.aio never answers a unary
request that ends before its message does: it takes it for a call that was cancelled. A stream's iteration ends there.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import Message

from services.common import errors
from services.common.status import DETAILS_KEY, code_of, status_of
from services.common.telemetry import Logger
from services.common.validation import validate

Context = grpc.aio.ServicerContext[Any, Any]
REQUEST_ID_KEY = "x-request-id"


async def _validated(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        validate(request)
        yield request


async def _only(requests: AsyncIterator[Message]) -> Message:
    """The request of a call that has one, validated."""
    async for request in requests:
        validate(request)
        return request
    raise errors.InvalidArgument("is torn: it ended before its message did", field="request", reason="TORN_REQUEST")


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Validation, error mapping and one log line a call."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/atelier."):
            return handler  # unknown methods, and the standard services, answer for themselves
        metadata = dict(handler_call_details.invocation_metadata or ())
        request_id = str(metadata.get(REQUEST_ID_KEY) or uuid.uuid4())
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            behavior = handler.stream_stream or handler.unary_stream
            call = self._streaming(behavior, method, request_id, handler.request_streaming)
            return grpc.stream_stream_rpc_method_handler(call, **codec)
        behavior = handler.stream_unary or handler.unary_unary
        call = self._single(behavior, method, request_id, handler.request_streaming)
        return grpc.stream_unary_rpc_method_handler(call, **codec)

    def _single(self, behavior: Any, method: str, request_id: str, streams: bool) -> Any:
        async def call(requests: AsyncIterator[Message], context: Context) -> Any:
            started = self._begin(request_id)
            try:
                request = _validated(requests) if streams else await _only(requests)
                answer = await behavior(request, context)
            except BaseException as error:
                await self._fail(error, method, started, request_id, context)
            self._end(method, "OK", started)
            return answer

        return call

    def _streaming(self, behavior: Any, method: str, request_id: str, streams: bool) -> Any:
        async def call(requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Any]:
            started = self._begin(request_id)
            try:
                request = _validated(requests) if streams else await _only(requests)
                async with aclosing(behavior(request, context)) as answers:  # what it holds is let go at once
                    async for answer in answers:
                        yield answer
            except GeneratorExit:
                raise
            except BaseException as error:
                await self._fail(error, method, started, request_id, context)
            self._end(method, "OK", started)

        return call

    def _begin(self, request_id: str) -> float:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        return time.perf_counter()

    def _end(self, method: str, code: str, started: float, **more: object) -> None:
        millis = round((time.perf_counter() - started) * 1e3, 2)
        self._log.debug("rpc", method=method, code=code, millis=millis, **more)

    async def _fail(
        self, error: BaseException, method: str, started: float, request_id: str, context: Context
    ) -> NoReturn:
        """Ends the call with the error's status. What is unexpected is logged whole and answered with an id alone."""
        if isinstance(error, asyncio.CancelledError):
            self._end(method, "CANCELLED", started)
            raise error
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            raise error
        if isinstance(error, NotImplementedError):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this server")
        if not isinstance(error, errors.AtelierError):
            self._log.error("rpc failed unexpectedly", method=method, exc_info=error)
            error = errors.AtelierError(
                f"internal error; the server's log has it under {request_id}", reason="INTERNAL"
            )
        code = code_of(error)
        self._end(method, code.name, started, reason=error.reason, message=error.message)
        trailing = ((DETAILS_KEY, status_of(error).SerializeToString()), (REQUEST_ID_KEY, request_id))
        await context.abort(code, error.message, trailing)
        raise AssertionError("abort returns nothing")
