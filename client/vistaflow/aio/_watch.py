"""Watches that survive lost connections: they resume by revision and repeat nothing."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Final, Generic, TypeVar

import grpc

from vistaflow._rpc.channel import TRANSIENT, requested_pause, waits
from vistaflow._rpc.messages import message_of
from vistaflow._rpc.replicas import leave, present_replica
from vistaflow.aio._filters import watch_filter
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.errors import CanceledError, VistaError, from_rpc, invalid
from vistaflow.models import (
    Delta,
    Snapshot,
    Synced,
    WatchEvent,
    event_of,
)

EventT = TypeVar("EventT")

SILENCE_SECONDS = 30.0
"""Twice the longest time between two bookmarks."""


MODES: Final = {
    "every": pb.WATCH_MODE_EVERY_ROW,
    "latest": pb.WATCH_MODE_LATEST_PER_TASK,
}
"""What a watch does with rows that wait, by its name here."""


def watch_mode(mode: str) -> pb.WatchMode.ValueType:
    """The mode that a word names.

    Raises:
        InvalidArgumentError: There is none.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise invalid("mode", f"{mode!r} is none of {', '.join(MODES)}")
    return MODES[mode]


class Place:
    """What one watch asks for, and how far it has come.

    Args:
        after_revision: Rows after this one.
        include_snapshot: Whether to begin with the current state.
        state_filter: Which rows.
        mode: What is sent of rows that wait.
        include_left: Whether to receive the rows that left the filter.
        snapshot_if_expired: Whether to begin with a snapshot where the past is no longer kept.
    """

    def __init__(
        self,
        *,
        after_revision: int,
        include_snapshot: bool,
        state_filter: pb.StateFilter,
        mode: str = "every",
        include_left: bool = False,
        snapshot_if_expired: bool = False,
    ) -> None:
        self._mode = watch_mode(mode)
        self._include_left = include_left
        self.snapshot_if_expired = snapshot_if_expired
        self._filter = state_filter
        self._snapshot_wanted = include_snapshot
        self._epoch = ""
        self._parts: list[pb.Delta] = []
        """The parts received so far of a delta that does not fit one message."""
        self.revision = after_revision

    def request(self) -> pb.WatchStatesRequest:
        """The request that continues from here."""
        self._parts = []
        return message_of(
            pb.WatchStatesRequest,
            after_revision=0 if self._snapshot_wanted else self.revision,
            filter=self._filter,
            include_snapshot=self._snapshot_wanted,
            epoch="" if self._snapshot_wanted else self._epoch,
            mode=self._mode,
            include_left=self._include_left,
            snapshot_if_expired=self.snapshot_if_expired,
        )

    def restart(self) -> None:
        """Continues from a snapshot: the log is another one, with its own revisions."""
        self._snapshot_wanted, self.revision, self._epoch = True, 0, ""

    def take(self, message: pb.WatchStatesResponse) -> WatchEvent | None:
        """The event of a message, unless it was delivered before."""
        if message.delta.partial:
            self._parts.append(message.delta)
            return None
        if self._parts and message.HasField("delta"):
            message = self._whole(message)
        event = event_of(message)
        if isinstance(event, Synced):
            self._epoch = message.synced.epoch
            self._snapshot_wanted = False
        if event is None or (isinstance(event, Delta) and event.revision <= self.revision):
            return None
        if not isinstance(event, Snapshot):
            self.revision = max(self.revision, event.revision)
        return event

    def _whole(self, last: pb.WatchStatesResponse) -> pb.WatchStatesResponse:
        """Combines the parts of a delta, so that its rows form one event."""
        whole = pb.WatchStatesResponse(revision=last.revision)
        for part in (*self._parts, last.delta):
            whole.delta.MergeFrom(part)
        whole.delta.partial = False
        self._parts = []
        return whole


def place_of(
    *,
    after_revision: int = 0,
    include_snapshot: bool = False,
    mode: str = "every",
    include_left: bool = False,
    snapshot_if_expired: bool = False,
    **criteria: Any,
) -> Place:
    """The beginning of a watch with its filter, whose fields `watch_filter` takes.

    Raises:
        InvalidArgumentError: A value is of a wrong type, or a word is unknown.
    """
    place = Place(
        after_revision=after_revision,
        include_snapshot=include_snapshot,
        state_filter=watch_filter(**criteria),
        mode=mode,
        include_left=include_left,
        snapshot_if_expired=snapshot_if_expired,
    )
    place.request()  # a wrong type is an error of the caller, not of the stream
    return place


class ReconnectingWatch(ABC, Generic[EventT]):
    """Iterates over the events of a stream that is opened again after each lost connection.

    Outcomes of one connection:

        the server ends it         it is opened again after a pause
        an error that may pass     it is opened again after a pause, or after the pause requested
        an error that stays        it is raised
        silence                    another replica is used from then on

    Silence of `SILENCE_SECONDS`, twice the longest interval between bookmarks, counts as a lost
    connection. Pauses grow while connections deliver nothing.

    Args:
        method: The stub's method that opens the stream.
    """

    def __init__(self, method: Any) -> None:
        self._method = method
        self.connected = False
        """Whether the stream is up now."""

    async def __aiter__(self) -> AsyncIterator[EventT]:
        """The events, without end."""
        next_wait = waits()
        while True:
            replica = present_replica(self._method)
            pause = 0.0
            try:
                async for event in self._connection():
                    next_wait = waits()
                    yield event
            except grpc.aio.AioRpcError as error:
                pause = self._pause_after(from_rpc(error))
            except grpc.aio.UsageError:
                raise CanceledError("the client was closed", reason="CLOSED") from None
            except TimeoutError:
                # The connection, or the server behind it, is lost without an error.
                leave(self._method, replica)
            finally:
                self.connected = False
            await asyncio.sleep(pause + next_wait())

    @abstractmethod
    def _connection(self) -> AsyncIterator[EventT]:
        """The events of one connection; raises `TimeoutError` after silence."""

    def _pause_after(self, error: VistaError) -> float:
        """The seconds to wait before the stream is opened again.

        Raises:
            VistaError: Opening it again cannot succeed.
        """
        pause = requested_pause(error)
        if pause is None and not isinstance(error, TRANSIENT):
            raise error from None
        return pause or 0.0


class Watch(ReconnectingWatch[WatchEvent]):
    """Iterates over what happens; made by `AsyncClient.watch`.

    A lost stream resumes from the last revision delivered; an incomplete snapshot is sent again
    from its beginning. With `snapshot_if_expired` a `Snapshot` follows where the revision is no
    longer kept or the log was replaced by a restored backup: it replaces everything before it.

    Args:
        stub: The registry.
        place: What is watched.
    """

    def __init__(self, stub: rpc.RegistryServiceStub, place: Place) -> None:
        super().__init__(stub.WatchStates)
        self._place = place

    @property
    def revision(self) -> int:
        """Everything up to this was delivered: resume from it, also in another process."""
        return self._place.revision

    async def _connection(self) -> AsyncIterator[WatchEvent]:
        call: Any = self._method(self._place.request())
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                self.connected = True
                if message.HasField("end"):
                    return
                event = self._place.take(message)
                if event is not None:
                    yield event
        finally:
            call.cancel()

    def _pause_after(self, error: VistaError) -> float:
        if error.reason == "EPOCH_CHANGED" and self._place.snapshot_if_expired:
            self._place.restart()
            return 0.0
        return super()._pause_after(error)
