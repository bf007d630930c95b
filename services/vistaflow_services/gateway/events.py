"""Watches of the registry as server-sent events, shared by their readers.

Readers of one caller with the same filter share one watch (`_Hub`), and each message is encoded
once for all of them. A reader comes to the shared watch in these steps:

    begins      its own watch: with a snapshot, or after the revision that it has
    synced      the past was sent. Without a shared watch, its own becomes the shared one
    joined      the messages of the shared watch go to its queue. Its own watch goes on until it is
                as far as the shared one was when it joined
    rides along rows up to its revision are left out, all others come from the queue. Once that is
                empty, the shared watch writes to the connection itself, the same bytes to all

`id:` is a revision up to which every row was sent, so that a reader who comes back with it in
`Last-Event-ID` misses nothing and gets nothing twice. The messages of a snapshot have none: its
rows are not in order with those that changed before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from starlette.requests import Request
from starlette.responses import Response

from vistaflow._rpc.channel import waits
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError, ServiceError
from vistaflow_services.core.tasks import ended
from vistaflow_services.gateway.answers import described
from vistaflow_services.gateway.gate import Streaming, held
from vistaflow_services.gateway.messages import message_from, to_json, values_of
from vistaflow_services.gateway.upstream import METHODS, Upstream

logger = logging.getLogger(__name__)

QUEUE_BYTES: Final = 1 << 20
"""What may wait for one reader; beyond it, its connection is closed."""

SILENCE_SECONDS: Final = 15.0
"""Longest time without a byte, by which proxies and readers know that the stream lives."""

PATIENCE_SECONDS: Final = 20.0
"""How long the registry may be away before a reader that just came gets an answer."""

_AGAIN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_METHOD: Final = METHODS["vistaflow.api.registry.v1.RegistryService/WatchStates"]
_GOES_ON: Final = (registry_pb2.END_REASON_DRAINING, registry_pb2.END_REASON_UNAVAILABLE)


@dataclass(frozen=True)
class _Frame:
    """A message of a watch, encoded."""

    kind: str
    revision: int
    """Every row up to here was sent with it or before it."""
    first: int
    """The lowest revision of its rows; 0 if it has none."""
    message: registry_pb2.WatchStatesResponse
    data: bytes

    @functools.cached_property
    def chunk(self) -> bytes:
        """The data as a chunk of a body of HTTP/1.1."""
        return b"%x\r\n%b\r\n" % (len(self.data), self.data)


def _frame(message: registry_pb2.WatchStatesResponse) -> _Frame:
    kind = message.WhichOneof("event") or "unknown"
    rows = [row.revision for row in (*message.delta.states, *message.delta.left)]
    # A partial delta has the revision before it; its rows are in order all the same.
    revision = max([message.revision, *rows])
    identity = f"id: {revision}\n" if kind in ("delta", "bookmark", "synced") else ""
    text = f"{identity}event: {kind}\ndata: {to_json(message)}\n\n"
    return _Frame(kind, revision, min(rows, default=0), message, text.encode("utf-8", "replace"))


def _without(frame: _Frame, revision: int) -> _Frame:
    """The frame without rows up to a revision."""
    message = registry_pb2.WatchStatesResponse()
    message.CopyFrom(frame.message)
    for rows in (message.delta.states, message.delta.left):
        remaining = [row for row in rows if row.revision > revision]
        del rows[:]
        rows.extend(remaining)
    return _frame(message)


class Events:
    """Serves watches.

    Args:
        upstream: The services.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._hubs: dict[tuple[str, bytes], _Hub] = {}
        self.readers = 0
        """Readers now."""
        self.cut_off = 0
        """Readers that were too slow."""

    async def close(self) -> None:
        """Ends all streams."""
        for hub in list(self._hubs.values()):
            await hub.close()

    async def of_kit(self, request: Request) -> Response:
        """The events of one kit."""
        values = values_of(_METHOD.input_type, request.query_params.multi_items())
        values.setdefault("filter", {})["kit_ids"] = [request.path_params["kit_id"]]
        return await self.watch(request, message_from(_METHOD.input_type, values))

    async def of_all(self, request: Request) -> Response:
        """The events that match the query parameters."""
        values = values_of(_METHOD.input_type, request.query_params.multi_items())
        return await self.watch(request, message_from(_METHOD.input_type, values))

    async def watch(
        self, request: Request, watch_request: registry_pb2.WatchStatesRequest
    ) -> Response:
        """Streams the events of a watch.

        Raises:
            InvalidError: `Last-Event-ID` is no revision.
            grpc.aio.AioRpcError: The watch is refused.
        """
        last_id = request.headers.get("last-event-id", "")
        if last_id:
            if not last_id.isascii() or not last_id.isdigit() or len(last_id) > 18:
                raise InvalidError("Last-Event-ID: has to be the id of an event, a revision")
            watch_request.after_revision = int(last_id)
            watch_request.include_snapshot = False
            # Browsers do not come back after an error.
            watch_request.snapshot_if_expired = True
        elif not watch_request.after_revision:
            watch_request.include_snapshot = True
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(held(request))
            reader = _Reader(self, request, watch_request)
            stack.callback(reader.close)
            first = await reader.begin()
            return Streaming(
                reader.blocks(first),
                stack.pop_all(),
                media_type="text/event-stream",
                headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            )
        raise AssertionError("unreachable")

    def hub_of(
        self, watch_request: registry_pb2.WatchStatesRequest
    ) -> tuple[tuple[str, bytes], Any]:
        """The key of a watch, and the hub that serves it, if there is one."""
        shared = registry_pb2.WatchStatesRequest()
        shared.CopyFrom(watch_request)
        for name in ("after_revision", "include_snapshot", "epoch", "snapshot_if_expired"):
            shared.ClearField(name)
        # Those who may see different rows never share.
        key = (callers.current().secret, shared.SerializeToString(deterministic=True))
        return key, self._hubs.get(key)

    async def open(self, watch_request: registry_pb2.WatchStatesRequest) -> Any:
        """Opens a watch at the registry."""
        return await self._upstream.stream(_METHOD, watch_request)

    def share(self, key: tuple[str, bytes], hub: _Hub) -> None:
        """Makes a watch the shared one of its key."""
        self._hubs[key] = hub

    def forget(self, hub: _Hub) -> None:
        """The watch is no longer shared."""
        if self._hubs.get(hub.key) is hub:
            del self._hubs[hub.key]


class _Hub:
    """One watch at the registry, for all readers of one caller with the same filter."""

    def __init__(
        self, events: Events, key: tuple[str, bytes], call: Any, revision: int, epoch: str
    ) -> None:
        self.key = key
        self.revision = revision
        """What the readers have, except those that wait in a queue."""
        self._events = events
        self._call = call
        self._epoch = epoch
        self._readers: set[_Reader] = set()
        self._watch_request = registry_pb2.WatchStatesRequest.FromString(key[1])
        # With the context of the reader that opens it, and so with the caller's token.
        self._task = asyncio.create_task(self._run())

    def join(self, reader: _Reader) -> None:
        """Sends a reader what comes from now on."""
        self._readers.add(reader)

    def leave(self, reader: _Reader) -> None:
        """The reader is gone; with the last one the watch ends."""
        self._readers.discard(reader)
        if not self._readers:
            self._events.forget(self)
            self._task.cancel()
            self._call.cancel()

    async def close(self) -> None:
        """Ends the watch and its readers."""
        self._events.forget(self)
        for reader in list(self._readers):
            reader.finish()
        self._call.cancel()
        await ended([self._task])

    async def _run(self) -> None:
        pause = waits()
        while True:
            try:
                message = await self._call.read()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    self._end(f"event: error\ndata: {json.dumps(described(error))}\n\n")
                    return
                message = grpc.aio.EOF
            if message is grpc.aio.EOF or (
                message.HasField("end") and message.end.code in _GOES_ON
            ):
                await asyncio.sleep(pause())
                self._watch_request.after_revision, self._watch_request.epoch = (
                    self.revision,
                    self._epoch,
                )
                with contextlib.suppress(ServiceError):
                    self._call = await self._events.open(self._watch_request)
                continue
            if message.HasField("synced"):
                # Of a watch that was opened again; the readers know.
                self._epoch = message.synced.epoch
                pause = waits()
                continue
            frame = _frame(message)
            self.revision = max(self.revision, frame.revision)
            for reader in list(self._readers):
                reader.put(frame)
            if frame.kind == "end":
                self._end("")
                return

    def _end(self, text: str) -> None:
        self._events.forget(self)
        for reader in list(self._readers):
            reader.finish(text.encode())


class _Reader:
    """One reader: a browser's tab, or any HTTP client."""

    def __init__(
        self, events: Events, request: Request, watch_request: registry_pb2.WatchStatesRequest
    ) -> None:
        self._events = events
        self._events.readers += 1
        self._request = request
        self._watch_request = watch_request
        self._call: Any = None
        self._hub: _Hub | None = None
        self._queue: deque[_Frame] = deque()
        self._waiting_bytes = 0
        self._revision = 0
        """Every row of the shared watch up to here was sent."""
        self._is_riding = False
        """Whether all that was queued is sent, so that the next message may follow it at once."""
        self._transport = request.scope["state"]["transport"]
        self._has_chunks = request.scope["http_version"] == "1.1"
        self._is_over = False
        self._last_words = b""
        self._news = asyncio.Event()

    def put(self, frame: _Frame) -> None:
        """Queues a message; a reader with too much in its queue is cut off."""
        if self._is_over:
            return
        if self._is_riding and frame.kind != "end" and not 0 < frame.first <= self._revision:
            if frame.revision > self._revision and not self._transport.is_closing():
                self._revision = frame.revision
                self._transport.write(frame.chunk)
                if self._transport.get_write_buffer_size() > QUEUE_BYTES:
                    self._cut_off()
            return
        self._is_riding = False
        self._waiting_bytes += len(frame.data)
        if self._waiting_bytes > QUEUE_BYTES and self._queue:
            self._cut_off()
            return
        self._queue.append(frame)
        self._news.set()

    def _cut_off(self) -> None:
        self._events.cut_off += 1
        self._queue.clear()
        self.finish()
        # It may wait for the reader to take what was sent before.
        self._transport.abort()

    def finish(self, last_words: bytes = b"") -> None:
        """Nothing follows what is queued."""
        self._is_over = True
        self._last_words = last_words
        self._news.set()

    def close(self) -> None:
        """The reader is gone."""
        self._is_over = True
        self._events.readers -= 1
        if self._hub is not None:
            self._hub.leave(self)
        if self._call is not None:
            self._call.cancel()

    async def begin(self) -> _Frame | None:
        """Opens its own watch; its first message, or None if the registry is away.

        Raises:
            grpc.aio.AioRpcError: The watch is refused.
        """
        loop, pause = asyncio.get_running_loop(), waits()
        end = loop.time() + PATIENCE_SECONDS
        while True:
            try:
                self._call = await self._events.open(self._watch_request)
                message = await self._call.read()
                if message is not grpc.aio.EOF:
                    return _frame(message)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    raise
            if loop.time() > end:
                return None
            await asyncio.sleep(pause())

    async def blocks(self, first: _Frame | None) -> AsyncIterator[bytes]:
        """The stream."""
        yield b"retry: 1000\n\n"
        if first is None:
            yield b"event: unavailable\ndata: {}\n\n"
            return
        async with contextlib.aclosing(self._all(first)) as blocks:
            async for block in blocks:
                yield block
        yield self._last_words

    async def _all(self, first: _Frame) -> AsyncGenerator[bytes, None]:
        frame, joined_at = first, 0
        while True:
            yield frame.data
            if frame.kind == "end":
                return
            if frame.kind == "synced" and self._hub is None:
                key, hub = self._events.hub_of(self._watch_request)
                epoch = frame.message.synced.epoch
                if hub is None:
                    hub = _Hub(self._events, key, self._call, frame.revision, epoch)
                    self._events.share(key, hub)
                    self._call = None
                self._hub = hub
                hub.join(self)
                joined_at = hub.revision
            is_whole = not frame.message.delta.partial
            if self._hub is not None and frame.revision >= joined_at and is_whole:
                break
            try:
                message = await self._call.read()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    yield f"event: error\ndata: {json.dumps(described(error))}\n\n".encode()
                return
            if message is grpc.aio.EOF:
                return
            frame = _frame(message)
        if self._call is not None:
            self._call.cancel()
        async with contextlib.aclosing(self._shared(frame.revision)) as blocks:
            async for block in blocks:
                yield block

    async def _shared(self, revision: int) -> AsyncGenerator[bytes, None]:
        """The messages of the shared watch from a revision on, but for those sent beside it."""
        self._revision = revision
        while True:
            while self._queue:
                frame = self._queue.popleft()
                self._waiting_bytes -= len(frame.data)
                if frame.revision <= self._revision and frame.kind != "end":
                    continue
                if frame.first and frame.first <= self._revision:
                    frame = _without(frame, self._revision)
                self._revision = max(self._revision, frame.revision)
                yield frame.data
            if self._is_over:
                self._is_riding = False
                return
            self._news.clear()
            # What was given away was written by the time that this goes on.
            self._is_riding = self._has_chunks
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._is_riding = False
                yield b":\n\n"
