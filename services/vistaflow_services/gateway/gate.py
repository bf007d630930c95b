"""What every request passes: the door, limits, errors, headers, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vistaflow_services.core.door import callers
from vistaflow_services.core.door.limits import Limits, Place, Places
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.server.metrics import Metrics
from vistaflow_services.gateway.answers import HttpError, error_answer, json_answer
from vistaflow_services.gateway.door import HttpDoor, peer_of
from vistaflow_services.gateway.page.serving import VIEWS

logger = logging.getLogger(__name__)

OPEN: Final = frozenset({"healthz", "login", "logout", "assets", *VIEWS})
"""First parts of the paths that answer every caller; the page asks for a token itself."""

STARTS: Final = frozenset({"/v1/query"})
"""Paths by which a GET starts something."""

BODY_BYTES: Final = 6 << 20
"""Largest JSON body: the largest request, with its bytes as base64."""

BODY_SECONDS: Final = 30.0
"""Longest time for a body of JSON to arrive."""

_HEADERS: Final = {
    # Answers are of one caller; those that may be kept say so.
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; form-action 'self'; frame-ancestors 'none'",
}
_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
_ALLOWED: Final = (
    "authorization, content-type, if-none-match, last-event-id, range, request-timeout"
)
_EXPOSED: Final = b"content-disposition, content-range, etag, location, retry-after"


class Gate:
    """An application behind the door.

    Args:
        inner: Answers the requests that are let in.
        door: Lets them in.
        places: How many streams there may be.
        metrics: Where requests are counted.
    """

    def __init__(
        self, inner: ASGIApp, door: HttpDoor, places: Places, metrics: Metrics | None = None
    ) -> None:
        self._inner = inner
        self._door = door
        self._places = places
        settings = door.settings
        self._limits = Limits(settings.rate_per_second, settings.streams_per_caller)
        self._counts = _Counts(metrics) if metrics is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        began, status = time.perf_counter(), 0
        allowed = ""

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = _HEADERS | _cors(allowed) if allowed else _HEADERS
                missing = (header for header in added.items() if header[0] not in present)
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        try:
            try:
                _check_framing(request)
                allowed = self._door.check_origin(request, starts=scope["path"] in STARTS)
                if request.method == "OPTIONS":
                    await _preflight(allowed)(scope, receive, sending)
                    return
                if not _is_open(scope["path"]):
                    self._door.check_change(request)
                    callers.enter(await self._door.caller(request))
                    scope["state"]["held"] = self._held
                    with self._limits.counted(callers.current(), peer_of(request), streams=False):
                        await self._inner(scope, receive, sending)
                    return
                await self._inner(scope, receive, sending)
            except (ServiceError, grpc.aio.AioRpcError) as error:
                if status:
                    raise
                await error_answer(error)(scope, receive, sending)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, ServiceError | grpc.aio.AioRpcError):
                error_id = uuid.uuid4().hex[:12]
                logger.exception("%s failed", scope["path"], extra={"error_id": error_id})
                if not status:
                    text = f"internal error; the gateway's log tells more under id {error_id}"
                    answer = {"code": "INTERNAL", "message": text, "reason": "INTERNAL"}
                    await json_answer(answer, 500)(scope, receive, sending)
                    return
            # What was sent is not all: the connection breaks, so that the reader knows.
            scope["state"]["transport"].abort()
        finally:
            if self._counts is not None:
                self._counts.note(request.method, status, time.perf_counter() - began)

    @contextlib.contextmanager
    def _held(self, request: Request) -> Iterator[None]:
        caller, peer = callers.current(), peer_of(request)
        with (
            self._limits.counted(caller, peer, streams=True),
            self._places.held(Place.STREAM, caller, peer),
        ):
            yield


def _check_framing(request: Request) -> None:
    """Refuses a request that a proxy before the gateway might have ended elsewhere.

    Raises:
        HttpError: It has two lengths.
    """
    if {"transfer-encoding", "content-length"} <= set(request.headers.keys()):
        raise HttpError(
            400, "a request has either content-length or transfer-encoding", reason="FRAMING",
            headers={"connection": "close"},
        )  # fmt: skip


def _is_open(path: str) -> bool:
    return path == "/" or path.removeprefix("/").partition("/")[0] in OPEN


class _Counts:
    """The metrics of requests."""

    def __init__(self, metrics: Metrics) -> None:
        import prometheus_client as prometheus

        self._duration = prometheus.Histogram(
            "vistaflow_gateway_request_duration_seconds",
            "How long requests took, streams included.",
            ["method", "status"],
            registry=metrics.registry,
        )

    def note(self, method: str, status: int, seconds: float) -> None:
        """Counts a request."""
        known = method if method in _METHODS else "other"
        self._duration.labels(known, str(status or 499)).observe(seconds)


def held(request: Request) -> contextlib.AbstractContextManager[None]:
    """Holds the place of a stream for as long as the block runs.

    Raises:
        ExhaustedError: There is none left for the caller.
    """
    holding: contextlib.AbstractContextManager[None] = request.scope["state"]["held"](request)
    return holding


class Streaming(StreamingResponse):
    """An answer in pieces.

    Args:
        content: The pieces.
        stack: What they need; left when the answer is sent, or its reader is gone.
        arguments: As of any response.
    """

    def __init__(self, content: Any, stack: contextlib.AsyncExitStack, **arguments: Any) -> None:
        super().__init__(content, **arguments)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        async with self._stack:
            if scope["method"] == "HEAD":
                # A stream of events would have no end, though nothing of it is sent.
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                await send({"type": "http.response.body", "body": b""})
                return
            await super().__call__(scope, receive, send)


async def body_of(request: Request, limit: int = BODY_BYTES) -> bytes:
    """The body of a request.

    Raises:
        HttpError: It is too large, or arrives too slowly.
    """
    body = bytearray()
    if not {"content-length", "transfer-encoding"} & set(request.headers.keys()):
        return b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                body += block
                if len(body) > limit:
                    raise HttpError(
                        413,
                        f"the body has more than {limit:,} bytes; send large files by "
                        "PUT /v1/files/NAME",
                        reason="BODY_TOO_LARGE",
                        headers={"connection": "close"},
                    )
    except TimeoutError:
        raise HttpError(
            408, f"no body arrived within {BODY_SECONDS:g} s", reason="BODY_TOO_SLOW"
        ) from None
    return bytes(body)


@contextlib.asynccontextmanager
async def ended_by_caller(request: Request) -> AsyncIterator[None]:
    """Cancels the block if the caller disconnects; use it once the body was read."""
    task, state = asyncio.current_task(), request.scope["state"]
    assert task is not None
    if state["transport"].is_closing():
        task.cancel()
    state["at_end"].add(task.cancel)
    try:
        yield
    finally:
        state["at_end"].discard(task.cancel)


def _cors(allowed: str) -> dict[bytes, bytes]:
    return {
        b"access-control-allow-origin": allowed.encode(),
        b"access-control-allow-credentials": b"true",
        b"access-control-expose-headers": _EXPOSED,
        b"cross-origin-resource-policy": b"cross-origin",
        b"vary": b"origin",
    }


def _preflight(allowed: str) -> Response:
    if not allowed:
        return Response(status_code=204, headers={"allow": _METHODS})
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": _ALLOWED,
            "access-control-max-age": "600",
        },
    )
