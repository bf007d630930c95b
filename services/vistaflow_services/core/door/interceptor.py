"""The door of every service: one interceptor that all calls pass.

With `VISTAFLOW_AUTH=required` it finds the caller before the request is read, and admits those whom
the method's `access` option in the proto admits. A method without such an option is refused to
everybody. With `VISTAFLOW_AUTH=owner` connections of the user who runs the service need no token
(`core/door/owner.py`). Streams end when their caller's token ends. The door also enforces the
limits of a caller: calls a second and open streams. Callers without a valid token share the limit
of their machine; beyond it, tokens that were never valid are not checked any more.

Whether the caller may see the kit, job or project that a call names is not decided here: the
registry looks at `callers.current()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from vistaflow._machine.local import token_file
from vistaflow_services.core.config import home
from vistaflow_services.core.door import access, callers
from vistaflow_services.core.door.callers import EVERYBODY, AccessRule, Caller, Role
from vistaflow_services.core.door.limits import Limits, Place, Places, Strangers
from vistaflow_services.core.door.owner import Owner, read_token
from vistaflow_services.core.door.tokens import Tokens
from vistaflow_services.core.errors import (
    ExhaustedError,
    InvalidError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from vistaflow_services.core.rpc.handlers import Remade, behaving, behaviour_of
from vistaflow_services.core.rpc.status import status_of, unforeseen

logger = logging.getLogger(__name__)

AUTH = "VISTAFLOW_AUTH"
AUTHS = ("off", "owner", "required")
"""The accepted callers: all; the user who runs the service, and tokens; tokens only."""
RATE = "VISTAFLOW_RATE_PER_SECOND"
STREAMS = "VISTAFLOW_STREAMS_PER_CALLER"
REFUSALS = "VISTAFLOW_REFUSALS_PER_SECOND"

MOST = 1_000_000
"""Largest limit of a caller; one that never ends a call is 0."""

PLACES = 2_000
"""Calls at once of a server that does not say how many it serves."""

REQUEST_SECONDS = 10.0
"""Longest time for the request of a unary call to arrive."""

END_SECONDS = 1.0
"""How long a stream may take to say why it ends, once its caller's token has ended."""

Context = grpc.aio.ServicerContext[Any, Any]

Admit = Callable[[Caller, Any], Awaitable[None]]
"""Narrows a request to what the caller may see, or raises."""


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """How the door is kept; the same for every service."""

    required: bool = False
    """Whether callers must show a token; if not, every caller is an administrator."""

    owner: bool = False
    """Whether connections of the user who runs the service need none where others do."""

    owner_token: str = field(default="", repr=False)
    """Lets others in as that user; empty for none."""

    rate_per_second: float = 0.0
    """Calls a second that one caller may make, twice as many in a burst; 0 for any number."""

    streams_per_caller: int = 0
    """Streams that one caller may have open; 0 for any number."""

    refusals_per_second: float = 20.0
    """Calls a second from one machine that may fail for want of a valid token, ten times as many
    in a burst; 0 for any number."""

    def __post_init__(self) -> None:
        limits = (self.rate_per_second, self.streams_per_caller, self.refusals_per_second)
        # NaN is neither below nor above anything.
        if not all(0 <= limit <= MOST for limit in limits):
            raise ValueError(f"{RATE}, {STREAMS} and {REFUSALS} are from 0 to {MOST:,}")

    @property
    def auth(self) -> str:
        """The value of the setting `VISTAFLOW_AUTH`."""
        return "owner" if self.owner else "required" if self.required else "off"

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
    if auth not in AUTHS:
        raise ValueError(f"{AUTH} is {', '.join(AUTHS[:-1])} or {AUTHS[-1]}, not {auth}")
    try:
        rate = float(environment.get(RATE) or 0)
        streams = int(environment.get(STREAMS) or 0)
        refusals = float(environment.get(REFUSALS) or 20)
    except ValueError:
        raise ValueError(f"{RATE}, {STREAMS} and {REFUSALS} are numbers") from None
    return DoorSettings(
        required=auth != "off",
        owner=auth == "owner",
        owner_token=read_token(token_file(home(environment))) if auth == "owner" else "",
        rate_per_second=rate,
        streams_per_caller=streams,
        refusals_per_second=refusals,
    )


class Door(grpc.aio.ServerInterceptor):
    """Lets callers in, or not."""

    def __init__(self, settings: DoorSettings, tokens: Tokens | None = None) -> None:
        self.settings = settings
        self.owner = Owner(settings.owner_token) if settings.owner else None
        """The user whose connections need no token."""
        self.tokens = tokens
        """Finds the bearers of tokens; None refuses all callers that need one."""
        self.admit: Admit | None = None
        """Looks at the requests of callers who have one project only."""
        self.places = Places(PLACES)
        """Those of the server that it is the door of, which sets them."""
        self._limits = Limits(settings.rate_per_second, settings.streams_per_caller)
        self._strangers = Strangers(settings.refusals_per_second)
        self._wrapped = Remade(
            lambda method, handler: behaving(handler, self._guarded(method, handler))
        )
        self._asking = Remade(self._ask)
        self._opened = Remade(self._open)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler that serves the call, or one that refuses it.

            the service is open to all (health)         served, within its places
            no tokens are required                      served, with every right
            no token is shown, or a malformed one       refused, or the connection is looked up
            the owner's token is shown                  served, with every right
            tokens cannot be checked yet                refused
            a token is shown that is not in memory      looked up in the handler
            a token is shown that is in memory          served if its role suffices, else refused

        A lookup takes a call to the registry, so it is done in the handler: gRPC asks for handlers
        one after another.
        """
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if _service(method) in access.OPEN:
            return self._opened.of(method, handler)
        rule = access.rule_of(method)
        if not self.settings.required:
            return self._unbounded(method, rule, handler)
        try:
            text = _bearer(handler_call_details.invocation_metadata)
        except ServiceError as error:
            # The owner of the suite needs no token: the kernel names the user of the connection.
            if self.owner is not None:
                return self._asking.of(method, handler)
            return self._refusal(method, error)
        if self.owner is not None and self.owner.is_shown(text):
            return self._unbounded(method, rule, handler)
        if self.tokens is None:
            return self._refusal(
                method, UnavailableError("tokens cannot be checked yet; try again")
            )
        if not self.tokens.knows(text):
            return self._asking.of(method, handler)
        return await self._for_token(method, rule, handler, text, self.tokens)

    async def _for_token(
        self, method: str, rule: AccessRule | None, handler: Any, text: str, tokens: Tokens
    ) -> Any:
        """The handler of a call whose token is in memory."""
        try:
            caller = await tokens.caller(text)
            _check_role(method, rule, caller)
        except PermissionDeniedError as error:
            return self._refusal(method, error, caller)
        except ServiceError as error:
            return self._refusal(method, error)
        except Exception:
            return _ending(*unforeseen(method))
        return self._serving(method, handler, caller)

    def _unbounded(self, method: str, rule: AccessRule | None, handler: Any) -> Any:
        """The handler of a call whose caller has every right."""
        if rule is access.NOBODY:
            return self._refusal(method, _unruled(method))
        return self._serving(method, handler, EVERYBODY)

    def _serving(self, method: str, handler: Any, caller: Caller) -> Any:
        """The handler of a call that is allowed."""
        # The task that runs this runs the handler, too.
        callers.enter(caller)
        streams = handler.request_streaming or handler.response_streaming
        narrowed = bool(caller.project) and self.admit is not None
        if not self.settings.limited and not narrowed and not streams:
            return handler
        return self._wrapped.of(method, handler)

    def _guarded(self, method: str, handler: Any) -> Callable[[Any, Context], Awaitable[Any]]:
        """Serves a call within its caller's limits and project."""
        streams = handler.request_streaming or handler.response_streaming
        place = _place(method, streams=streams)
        behaviour = behaviour_of(handler)

        async def guarded(request: Any, context: Context) -> Any:
            caller = callers.current()
            try:
                with (
                    self._limits.counted(caller, context.peer(), streams=streams),
                    self._held(place, caller, context),
                ):
                    async with self._ended(caller, context, streams=streams):
                        if caller.project and self.admit and not handler.request_streaming:
                            await self.admit(caller, request)
                        return await behaviour(request, context)
            except Exception as error:
                await _end(error, method, context)

        return guarded

    def _held(
        self, place: Place | None, caller: Caller, context: Context
    ) -> contextlib.AbstractContextManager[None]:
        """Holds a place for a call that may stay."""
        if place is None:
            return contextlib.nullcontext()
        return self.places.held(place, caller, context.peer())

    def _ask(self, method: str, handler: Any) -> Any:
        """A handler that first looks up the caller of an unknown token, or of a connection."""
        guarded = self._guarded(method, handler)

        async def asking(requests: Any, context: Context) -> None:
            try:
                caller = await self._whose(context)
                _check_role(method, access.rule_of(method), caller)
            except Exception as error:
                await _end(error, method, context)
            callers.enter(caller)
            try:
                await _answer(handler, guarded, requests, context)
            except Exception as error:
                await _end(error, method, context)

        return _as_stream(handler, asking)

    def _open(self, method: str, handler: Any) -> Any:
        """A handler of a service without authentication, with a limit of concurrent calls."""
        behaviour = behaviour_of(handler)
        streams = handler.request_streaming or handler.response_streaming
        place = Place.OPEN if streams else Place.CHECK

        async def opened(requests: Any, context: Context) -> None:
            try:
                with self.places.held(place, EVERYBODY, context.peer()):
                    await _answer(handler, behaviour, requests, context)
            except Exception as error:
                await _end(error, method, context)

        return _as_stream(handler, opened)

    async def _whose(self, context: Context) -> Caller:
        """Looks up the caller of a call whose token is not cached."""
        try:
            _bearer(context.invocation_metadata())
        except UnauthenticatedError as missing:
            peer = context.peer()
            if self.owner is None or not await self.owner.owns_connection(peer):
                self._strangers.look(peer, missing.reason)
                raise UnauthenticatedError(
                    "this suite serves the user who runs it; others need a token, which that "
                    "user creates with `vistaflow token create`: set VISTAFLOW_TOKEN, or send "
                    "`authorization: Bearer …` (as that user, set VISTAFLOW_HOME to its home)",
                    reason=missing.reason,
                ) from None
            await _write(context)
            return EVERYBODY
        return await self._stranger(context)

    async def _stranger(self, context: Context) -> Caller:
        """Whose a token is that was not seen before, or not to be valid."""
        assert self.tokens is not None
        who = self._strangers.look(context.peer(), "")
        try:
            caller = await self.tokens.caller(_bearer(context.invocation_metadata()))
        except UnauthenticatedError:
            raise
        except BaseException:
            self._strangers.welcome(who)
            raise
        self._strangers.welcome(who)
        return caller

    def _refusal(self, method: str, error: ServiceError, caller: Caller | None = None) -> Any:
        """A handler that ends a call of any kind before its request is read."""

        async def refuse(requests: Any, context: Context) -> None:
            refusal = error
            try:
                if caller is not None:
                    with self._limits.counted(caller, context.peer(), streams=False):
                        pass
                elif isinstance(error, UnauthenticatedError):
                    self._strangers.look(context.peer(), error.reason)
            except ExhaustedError as limit:
                refusal = limit
            _log(method, refusal)
            await context.abort(*status_of(refusal))

        return grpc.stream_stream_rpc_method_handler(refuse)

    @contextlib.asynccontextmanager
    async def _ended(
        self, caller: Caller, context: Context, *, streams: bool
    ) -> AsyncIterator[None]:
        """Ends a stream when the caller's token ends, if it does not end by itself."""
        if not streams or caller.validity is None or self.tokens is None:
            yield
            return
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(None) as end:

                def over() -> None:
                    if end.when() is None:
                        end.reschedule(clock() + END_SECONDS)

                with caller.notifying(over), self.tokens.held(caller):
                    yield
        except TimeoutError:
            if not end.expired():
                raise
            raise UnauthenticatedError(
                "the token is no longer valid: it expired or was revoked", reason="TOKEN_ENDED"
            ) from None


def _service(method: str) -> str:
    """The service of a method such as `/grpc.health.v1.Health/Check`."""
    return method.lstrip("/").rpartition("/")[0]


def _place(method: str, *, streams: bool) -> Place | None:
    """What kind of place a call holds; none if it is over soon."""
    if _service(method) in access.REFLECTION:
        return Place.OPEN
    if not streams:
        return None
    rule = access.rule_of(method)
    return Place.WORKER if rule is not None and rule.role is Role.WORKER else Place.STREAM


def _as_stream(handler: Any, behaviour: Callable[[Any, Context], Awaitable[None]]) -> Any:
    """The handler of any kind, with a behaviour that reads and writes messages as a stream.

    Only handlers know the peer, and others than those of streams are not called before their
    request is there: a caller who never sends one would hold a place unseen.
    """
    return grpc.stream_stream_rpc_method_handler(
        behaviour, handler.request_deserializer, handler.response_serializer
    )


async def _answer(
    handler: Any,
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    requests: Any,
    context: Context,
) -> None:
    """Serves a call that `_as_stream` took as what it is."""
    if not handler.request_streaming:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                requests = await context.read()
        except TimeoutError:
            raise InvalidError(f"no request arrived within {REQUEST_SECONDS:g} s") from None
        if requests is grpc.aio.EOF:
            raise InvalidError("the call has no request")
    response = await behaviour(requests, context)
    if not handler.response_streaming:
        await context.write(response)


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


def _check_role(method: str, rule: AccessRule | None, caller: Caller) -> None:
    """Raises `PermissionDeniedError` if the caller's role does not admit it to a method."""
    if caller is EVERYBODY:  # the owner, who has no role
        if rule is access.NOBODY:
            raise _unruled(method)
        return
    if rule is None or not rule.admits(caller.role):
        needs = f"needs the role {rule.role}" if rule and rule.role else "is for nobody"
        raise PermissionDeniedError(
            f"{method.rpartition('/')[2]} {needs}; the token's role is {caller.role}",
            reason="ROLE_TOO_SMALL",
        )


async def _write(context: Context) -> None:
    """Writes to a call, which ends the call if its connection was closed.

    The owner has the current connection of this address and port. But the call may have come over
    an earlier connection, which its client reset to release the port. gRPC may not have noticed;
    then the write fails and ends the call before this function returns.
    """
    try:
        await context.send_initial_metadata(())
    except Exception as error:
        raise UnavailableError("the connection of the call was closed") from error


def _unruled(method: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"nobody may call {method}: its proto does not say who")


def _log(method: str, error: ServiceError) -> None:
    level = logging.DEBUG if isinstance(error, ExhaustedError) else logging.INFO
    logger.log(level, "%s: %s %s", method, error.code, error)


async def _end(error: Exception, method: str, context: Context) -> NoReturn:
    """Ends a call that the door, or what serves it, raised in."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ServiceError):
        _log(method, error)
        await context.abort(*status_of(error))
    await context.abort(*unforeseen(method))


def _ending(code: grpc.StatusCode, message: str, metadata: Any) -> Any:
    """A handler that ends a call of any kind."""

    async def end(requests: Any, context: Context) -> None:
        await context.abort(code, message, metadata)

    return grpc.stream_stream_rpc_method_handler(end)
