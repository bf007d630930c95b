"""Several watches on one stream, each with a name that the caller chooses.

Each is a watch of its own with all guarantees; an error of one ends only that one, with an `end`.
They share one outbox of a few messages, and only a few at a time may hold rows for it: so the
memory for a caller that does not read is bounded, however many watches it opens.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import (
    ConflictError,
    ExpiredError,
    InvalidError,
    ServiceError,
    Violations,
)
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry.messages.translate import label_from_proto
from vistaflow_services.registry.watch import encode
from vistaflow_services.registry.watch.service import Event, WatchService, end

logger = logging.getLogger(__name__)

MAX_WATCHES = 1000
MAX_NAME = 100
# Messages that wait to be sent, each of about 1 MiB at most unless one append is larger.
OUTBOX_MESSAGES = 4
# Watches of one stream that read rows at the same time.
READING = 2


class WatchMany:
    """One call of WatchMany.

    Args:
        service: Serves the watches.
    """

    def __init__(self, service: WatchService) -> None:
        self._service = service
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=OUTBOX_MESSAGES)
        self._turn = asyncio.Semaphore(READING)
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._closing: set[str] = set()
        self._over: set[str] = set()
        """Watches whose `end` is on its way."""

    async def messages(
        self, requests: AsyncIterator[pb.WatchManyRequest]
    ) -> AsyncGenerator[bytes, None]:
        """The messages of all watches, serialised; ends only if the registry drains.

        Raises:
            InvalidError: A message neither opens nor closes a watch.
        """
        reader = asyncio.create_task(self._read(requests))
        finisher = asyncio.create_task(self._finish(reader))
        try:
            while (message := await self._outbox.get()) is not None:
                yield message
            if reader.done():
                await reader
        finally:
            await ended([reader, finisher, *self._watches.values()])

    async def _finish(self, reader: asyncio.Task[None]) -> None:
        """Ends the stream once nothing more can come."""
        over = asyncio.create_task(self._service.ended.wait())
        try:
            await asyncio.wait({reader, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if reader.done() and not reader.cancelled() and reader.exception() is not None:
            for task in self._watches.values():
                task.cancel()
        while self._watches:
            await asyncio.wait(list(self._watches.values()))
        await self._outbox.put(None)

    async def _read(self, requests: AsyncIterator[pb.WatchManyRequest]) -> None:
        """Opens and closes watches as the caller says."""
        async for request in requests:
            if request.HasField("open"):
                await self._open(request.open)
            elif request.HasField("close"):
                await self._close(request.close.name)
            else:
                raise InvalidError("a message must be `open` or `close`")

    async def _open(self, request: pb.OpenWatch) -> None:
        name = request.name
        violations = Violations()
        if not name:
            violations.add("open.name", f"is required: 1 to {MAX_NAME} characters")
        label_from_proto(name, "open.name", MAX_NAME, violations)
        if name in self._watches:
            violations.add(
                "open.name",
                f"{name!r} is the name of an open watch, which continues; choose another",
            )
        try:
            violations.check()
            if len(self._watches) >= MAX_WATCHES:
                raise InvalidError(f"at most {MAX_WATCHES:,} watches are open at once")
        except InvalidError as error:
            # Only this request to open ends. An open watch of the same name continues.
            message = end(pb.END_REASON_INVALID, request.watch.after_revision, error.message)
            await self._outbox.put(_named(name[:MAX_NAME], message))
            return
        self._watches[name] = asyncio.create_task(self._watch(name, request.watch))

    async def _close(self, name: str) -> None:
        task = self._watches.get(name)
        if task is not None and name not in self._over:  # else it ends by itself
            self._closing.add(name)
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self, name: str, request: pb.WatchStatesRequest) -> None:
        """Puts the messages of one watch into the outbox, an `end` at last."""
        position = request.after_revision
        over: pb.WatchStatesResponse | None = None

        async def send(event: Event) -> None:
            nonlocal position, over
            if isinstance(event, pb.WatchStatesResponse) and event.HasField("end"):
                over = event
            else:
                await self._outbox.put(_named(name, event))
                position = watch.position

        try:
            watch = await self._service.admit(request, turn=self._turn)
            await self._service.run(watch, send)
        except asyncio.CancelledError:
            if name not in self._closing:
                self._watches.pop(name, None)
                raise
            over = end(pb.END_REASON_CLOSED, position)
        except ServiceError as error:
            over = end(_code(error), position, error.message)
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            logger.exception("watch %s of WatchMany failed", name, extra={"error_id": error_id})
            over = end(pb.END_REASON_UNAVAILABLE, position, f"internal error {error_id}")
        self._over.add(name)
        try:
            await self._outbox.put(_named(name, over or end(pb.END_REASON_UNAVAILABLE, position)))
        finally:
            # Only now the name is free: no message of a new watch may come before this `end`.
            self._over.discard(name)
            self._closing.discard(name)
            self._watches.pop(name, None)


def _named(name: str, event: Event) -> bytes:
    return encode.named(name, event if isinstance(event, bytes) else event.SerializeToString())


def _code(error: ServiceError) -> pb.EndReason.ValueType:
    """What an error means for the watch that met it."""
    match error:
        case ExpiredError():
            return pb.END_REASON_EXPIRED
        case ConflictError():
            return pb.END_REASON_EPOCH_CHANGED
        case InvalidError():
            return pb.END_REASON_INVALID
    return pb.END_REASON_UNAVAILABLE
