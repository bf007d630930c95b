"""Ends every call that raised with the right status, and lets nothing else out.

Without it grpc.aio sends the text of any exception to the caller, table names, paths and row
values included. It wraps all four kinds of RPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc

from vistaflow_services.core import log
from vistaflow_services.core.errors import InvalidError, ServiceError
from vistaflow_services.core.message_limits import REQUEST_BYTES
from vistaflow_services.core.rpc.handlers import WrappingInterceptor
from vistaflow_services.core.rpc.request_size import (
    Check,
    check_size,
    unread,
)
from vistaflow_services.core.rpc.status import status_of, unforeseen

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class _Refused:
    """Replaces a request that was refused before parsing, or could not be parsed."""

    def __init__(self, error: InvalidError) -> None:
        self.error = error


class ErrorInterceptor(WrappingInterceptor):
    """Ends a call that raised with the right gRPC status.

    A `ServiceError` keeps its code, message, reason and violations. Anything else is a bug: it is
    logged under an id, and the caller learns that id. A malformed request, and one that is too
    large, is `INVALID_ARGUMENT`; of the latter nothing is parsed.
    A unary call for which the caller set no deadline gets `default_timeout`.

    Args:
        default_timeout: Seconds.
        max_request_bytes: Largest request that is parsed.
        checks: What looks at the bytes of a request first, by the method's name with its service.
    """

    def __init__(
        self,
        *,
        default_timeout: float | None = None,
        max_request_bytes: int = REQUEST_BYTES,
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self._default_timeout = default_timeout
        self._max_request_bytes = max_request_bytes
        self._checks = checks if checks is not None else {}
        super().__init__()

    def _wrap(self, method: str, handler: Any) -> Any:
        if handler.request_streaming:
            return self._wrap_request_stream(method, handler)
        serialize = handler.response_serializer

        timeout = self._default_timeout

        async def unary_unary(request: Any, context: Context) -> Any:
            # The way of nearly every call, without the scopes that the others have.
            if getattr(request, "request_id", "") or isinstance(request, _Refused):
                async with self._ended_with_status(method, context, request):
                    return await answered(request, context)
            try:
                return await answered(request, context)
            except BaseException as error:
                await self._end(error, method, context)
                raise

        async def answered(request: Any, context: Context) -> Any:
            response = handler.unary_unary(request, context)
            if inspect.isawaitable(response):
                if timeout is None or context.time_remaining() is not None:
                    response = await response
                else:
                    response = await self._in_time(response, timeout, context)
            # Here and not in gRPC, so that a response of the wrong type is reported as a bug, too.
            return serialize(response) if serialize else response

        async def unary_stream(request: Any, context: Context) -> None:
            async with self._ended_with_status(method, context, request):
                await _stream(handler.unary_stream(request, context), context)

        read = self._reader(method, handler.request_deserializer, raises=False)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(unary_stream, read, serialize)
        return grpc.unary_unary_rpc_method_handler(unary_unary, read, None)

    def _wrap_request_stream(self, method: str, handler: Any) -> Any:
        serialize = handler.response_serializer

        async def stream_unary(requests: Any, context: Context) -> Any:
            async with self._ended_with_status(method, context):
                response = handler.stream_unary(requests, context)
                if inspect.isawaitable(response):
                    response = await response
                return serialize(response) if serialize else response

        async def stream_stream(requests: Any, context: Context) -> None:
            async with self._ended_with_status(method, context):
                await _stream(handler.stream_stream(requests, context), context)

        # Read inside the handler, whose exceptions we see; so the reader may simply raise.
        read = self._reader(method, handler.request_deserializer, raises=True)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream_stream, read, serialize)
        return grpc.stream_unary_rpc_method_handler(stream_unary, read, None)

    def _reader(
        self, method: str, deserialize: Callable[[bytes], Any] | None, *, raises: bool
    ) -> Any:
        """Parses requests. gRPC calls it in the event loop."""
        if deserialize is None:
            return None

        def read(data: bytes) -> Any:
            try:
                check_size(method, data, self._max_request_bytes)
                check = self._checks.get(method)
                if check is not None:
                    check(data)
                return deserialize(data)
            except Exception as error:
                refusal = error if isinstance(error, InvalidError) else unread(method, data)
                if raises:
                    raise refusal from None
                return _Refused(refusal)

        return read

    async def _in_time(self, response: Awaitable[Any], seconds: float, context: Context) -> Any:
        """Awaits a response for so long. What `asyncio.timeout` does, at a third of its cost."""
        task = asyncio.current_task()
        assert task is not None
        struck = False

        def strike() -> None:
            nonlocal struck
            struck = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(seconds, strike)
        try:
            return await response
        except asyncio.CancelledError:
            if not struck or task.uncancel():
                raise
        finally:
            timer.cancel()
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"not done within {seconds:g} s; set a longer deadline",
        )

    @contextlib.asynccontextmanager
    async def _ended_with_status(
        self, method: str, context: Context, request: Any = None
    ) -> AsyncIterator[None]:
        request_id = getattr(request, "request_id", "")
        with log.bound(request_id=request_id) if request_id else contextlib.nullcontext():
            try:
                if isinstance(request, _Refused):
                    raise request.error
                yield
            except BaseException as error:
                await self._end(error, method, context)
                raise

    async def _end(self, error: BaseException, method: str, context: Context) -> None:
        """Ends a call that raised; returns if what it raised is to go on."""
        if isinstance(error, ServiceError):
            logger.info("%s: %s %s", method, error.code, error)
            await context.abort(*status_of(error))
        if isinstance(error, grpc.aio.AbortError):
            return
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return
            # Not the call was canceled but something it awaited. Raised on, it would leave
            # the caller waiting.
        elif not isinstance(error, Exception):
            return
        await context.abort(*unforeseen(method))


async def _stream(responses: Any, context: Context) -> None:
    """Sends what a handler makes: an async generator, or a coroutine that writes by itself."""
    if inspect.isawaitable(responses):
        await responses
        return
    # A canceled call closes the generator here and now, not when it is collected.
    async with contextlib.aclosing(responses):
        async for response in responses:
            await context.write(response)
