"""Handlers of calls, and what interceptors make of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc


def kind_of(handler: Any) -> str:
    """Where a handler has its behaviour, such as `unary_stream`."""
    return (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}"
    )


def behaviour_of(handler: Any) -> Callable[[Any, Any], Any]:
    """What serves a call."""
    behaviour: Callable[[Any, Any], Any] = getattr(handler, kind_of(handler))
    return behaviour


def behaving(handler: Any, behaviour: Callable[[Any, Any], Any]) -> Any:
    """The same handler with another behaviour."""
    return handler._replace(**{kind_of(handler): behaviour})


class Remade:
    """Handlers made out of others: once for each method, as servers have the same ones for good.

    Args:
        make: Makes one out of a method's name and its handler.
    """

    def __init__(self, make: Callable[[str, Any], Any]) -> None:
        self._make = make
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def of(self, method: str, handler: Any) -> Any:
        """What was made of a method's handler before, or is made now."""
        wrapped = self._wrapped.get(method)
        if wrapped is None or wrapped[0] is not handler:
            wrapped = self._wrapped[method] = (handler, self._make(method, handler))
        return wrapped[1]


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """Puts a handler of its own around that of every call."""

    def __init__(self) -> None:
        self._wrapped = Remade(self._wrap)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler that would otherwise see the call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrapped.of(handler_call_details.method, handler)

    @abstractmethod
    def _wrap(self, method: str, handler: Any) -> Any:
        """The handler that is put around that of a method."""
