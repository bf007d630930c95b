"""The door of every service: one interceptor that all calls pass.

Where tokens are required (`VISTAFLOW_AUTH=required`) it finds out whose the call is, before the
request is read, and lets in whom the method's `access` option in the proto admits. What has no
such option is refused to everybody. Streams are ended when their caller's token ends. It also
keeps the limits a caller has: calls a second and streams at once.

Whether the caller may see the kit, job or project that a call names is not decided here: the
registry looks at `callers.current()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from vistaflow_services.core import access, callers
from vistaflow_services.core.callers import EVERYBODY, Caller
from vistaflow_services.core.errors import (
    ExhaustedError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from vistaflow_services.core.status import status_of, unforeseen
from vistaflow_services.core.tokens import Tokens

logger = logging.getLogger(__name__)

AUTH = "VISTAFLOW_AUTH"
RATE = "VISTAFLOW_RATE_PER_SECOND"
STREAMS = "VISTAFLOW_STREAMS_PER_CALLER"

END_SECONDS = 1.0
"""How long a stream may take to say why it ends, once its caller's token has ended."""

STREAM_RETRY_SECONDS = 5.0
_BUCKETS = 10_000

Context = grpc.aio.ServicerContext[Any, Any]

Admit = Callable[[Caller, Any], Awaitable[None]]
"""Narrows a request to what the caller may see, or raises."""


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """How the door is kept; the same for every service."""

    required: bool = False
    """Whether callers must show a token; without, everybody is an administrator."""

    rate_per_second: float = 0.0
    """Calls a second that one caller may make, twice as many in a burst; 0 for any number."""

    streams_per_caller: int = 0
    """Streams that one caller may have open; 0 for any number."""

    def __post_init__(self) -> None:
        if self.rate_per_second < 0 or self.streams_per_caller < 0:
            raise ValueError("limits of callers are at least 0")

    @property
    def limited(self) -> bool:
        """Whether callers have limits."""
        return bool(self.rate_per_second or self.streams_per_caller)


def door_settings(environment: Mapping[str, str] = os.environ) -> DoorSettings:
    """The settings in the environment.

    Raises:
        ValueError: One is malformed.
    """
    auth = environment.get(AUTH) or "off"
    if auth not in ("off", "required"):
        raise ValueError(f"{AUTH} is off or required, not {auth}")
    try:
        rate = float(environment.get(RATE) or 0)
        streams = int(environment.get(STREAMS) or 0)
    except ValueError:
        raise ValueError(f"{RATE} and {STREAMS} are numbers") from None
    return DoorSettings(
        required=auth == "required", rate_per_second=rate, streams_per_caller=streams
    )


class Door(grpc.aio.ServerInterceptor):
    """Lets callers in, or not."""

    def __init__(self, settings: DoorSettings, tokens: Tokens | None = None) -> None:
        self.settings = settings
        self.tokens = tokens
        """Knows the bearers of tokens; without it nobody can be let in who needs one."""
        self.admit: Admit | None = None
        """Looks at the requests of callers who have one project only."""
        self._limits = _Limits(settings)
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler that serves the call, or one that refuses it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.lstrip("/").rpartition("/")[0] in access.OPEN:
            return handler
        try:
            caller = await self._admitted(method, handler_call_details.invocation_metadata)
        except ServiceError as error:
            logger.info("%s: %s %s", method, error.code, error)
            return _refusal(*status_of(error))
        except Exception:
            logger.exception("the door broke at %s", method)
            return _refusal(*unforeseen("door"))
        # The task that runs this runs the handler, too.
        callers.enter(caller)
        streams = handler.request_streaming or handler.response_streaming
        narrowed = bool(caller.project) and self.admit is not None
        if not self.settings.limited and not narrowed and not (streams and caller.token_id):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler))
        return known[1]

    async def _admitted(self, method: str, metadata: Any) -> Caller:
        """The caller, if the call is allowed."""
        rule = access.rule_of(method)
        if not self.settings.required:
            if rule is access.NOBODY:
                raise PermissionDeniedError(f"nobody may call {method}: its proto does not say who")
            return EVERYBODY
        text = _bearer(metadata)
        if self.tokens is None:
            raise UnavailableError("tokens cannot be checked yet; try again")
        caller = await self.tokens.caller(text)
        if rule is None or not rule.admits(caller.role):
            needs = f"needs the role {rule.role}" if rule and rule.role else "is for nobody"
            raise PermissionDeniedError(
                f"{method.rpartition('/')[2]} {needs}; the token's role is {caller.role}",
                reason="ROLE_TOO_SMALL",
            )
        return caller

    def _wrap(self, handler: Any) -> Any:
        streams = handler.request_streaming or handler.response_streaming
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        behaviour = getattr(handler, kind)

        async def guarded(request: Any, context: Context) -> Any:
            caller = callers.current()
            try:
                with self._limits.counted(caller, context, streams=streams):
                    async with self._ended(caller, context, streams=streams):
                        if caller.project and self.admit and not handler.request_streaming:
                            await self.admit(caller, request)
                        return await behaviour(request, context)
            except ServiceError as error:
                await context.abort(*status_of(error))

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    @contextlib.asynccontextmanager
    async def _ended(
        self, caller: Caller, context: Context, *, streams: bool
    ) -> AsyncIterator[None]:
        """Ends a stream when the caller's token ends, if it does not end by itself."""
        if not streams or caller.validity is None or self.tokens is None:
            yield
            return
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        struck = False
        timers: list[asyncio.TimerHandle] = []

        def strike() -> None:
            nonlocal struck
            struck = True
            task.cancel()

        def over() -> None:
            if not timers:
                timers.append(loop.call_later(END_SECONDS, strike))

        try:
            with caller.heard(over), self.tokens.held(caller):
                yield
        except asyncio.CancelledError:
            if not struck or task.uncancel():
                raise
            raise UnauthenticatedError(
                "the token is no longer valid: it expired or was revoked", reason="TOKEN_ENDED"
            ) from None
        finally:
            for timer in timers:
                timer.cancel()


class _Limits:
    """What each caller has left of its limits."""

    def __init__(self, settings: DoorSettings) -> None:
        self._settings = settings
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._streams: Counter[str] = Counter()

    @contextlib.contextmanager
    def counted(self, caller: Caller, context: Context, *, streams: bool) -> Any:
        """Counts a call for as long as the block runs.

        Raises:
            ExhaustedError: The caller is over a limit.
        """
        if not self._settings.limited:
            yield
            return
        # Without tokens a caller is a machine: `ipv4:10.0.0.7:41234` without the port.
        who = caller.token_id or context.peer().rpartition(":")[0]
        if self._settings.rate_per_second:
            self._take(who)
        if not streams or not self._settings.streams_per_caller:
            yield
            return
        if self._streams[who] >= self._settings.streams_per_caller:
            raise ExhaustedError(
                f"{self._settings.streams_per_caller} streams are open already, which is as many "
                "as one caller may have",
                reason="TOO_MANY_STREAMS",
                retry_after=STREAM_RETRY_SECONDS,
            )
        self._streams[who] += 1
        try:
            yield
        finally:
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]

    def _take(self, who: str) -> None:
        """Takes one call out of the caller's bucket, which fills all the time."""
        rate = self._settings.rate_per_second
        most = max(1.0, 2 * rate)
        now = asyncio.get_running_loop().time()
        left, at = self._buckets.get(who, (most, now))
        left = min(most, left + (now - at) * rate)
        if left < 1:
            raise ExhaustedError(
                f"more than {rate:g} calls a second, which is as many as one caller may make",
                reason="RATE_LIMITED",
                retry_after=(1 - left) / rate,
            )
        self._buckets[who] = (left - 1, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)


def _bearer(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The token that a call shows."""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str):
            kind, _, text = value.partition(" ")
            if kind.lower() == "bearer" and text:
                return text.strip()
    raise UnauthenticatedError(
        "a token is required here: set VISTAFLOW_TOKEN, or send `authorization: Bearer …`",
        reason="TOKEN_MISSING",
    )


def _refusal(code: grpc.StatusCode, message: str, metadata: Any) -> Any:
    """A handler that ends the call before its request is read, whatever kind of call it is."""

    async def refuse(requests: Any, context: Context) -> None:
        await context.abort(code, message, metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)
