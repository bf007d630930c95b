"""A watch that outlives its connection: it resumes by revision, misses nothing, repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import grpc

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.channel import TRANSIENT, pause_asked, waits
from vistaflow.errors import VistaError, from_rpc
from vistaflow.models import (
    Delta,
    Snapshot,
    Synced,
    WatchEvent,
    event_of,
    job_type_value,
    status_value,
)
from vistaflow.replicas import leave, present_replica

SILENCE_SECONDS = 30.0
"""Twice the longest time between two bookmarks."""


def watch_filter(
    *,
    kit_ids: Iterable[int] = (),
    job_ids: Iterable[str] = (),
    job_types: Iterable[str] = (),
    statuses: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    project: str = "",
    recorded_after: datetime | None = None,
    recorded_before: datetime | None = None,
) -> pb.StateFilter:
    """The rows wanted; what is left empty does not restrict."""
    wanted = pb.StateFilter(
        project=project,
        kit_ids=kit_ids,
        job_ids=job_ids,
        job_types=map(job_type_value, job_types),
        statuses=map(status_value, statuses),
        labels=labels or {},
    )
    if recorded_after is not None:
        wanted.recorded_after.FromDatetime(recorded_after.astimezone(UTC))
    if recorded_before is not None:
        wanted.recorded_before.FromDatetime(recorded_before.astimezone(UTC))
    return wanted


MODES: Final = {
    "every": pb.WATCH_MODE_EVERY_ROW,
    "latest": pb.WATCH_MODE_LATEST_PER_TASK,
}
"""What a watch does with rows that wait, by its name here."""


def watch_mode(mode: str) -> pb.WatchMode.ValueType:
    """The mode that a word names.

    Raises:
        ValueError: If there is none.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    return MODES[mode]


class Place:
    """What one watch asks for, and how far it has come.

    Args:
        after_revision: Rows after this one.
        include_snapshot: Whether to begin with the current state.
        state_filter: Which rows.
        mode: What is sent of rows that wait.
        include_left: Whether to be told what left the filter.
        snapshot_if_expired: Whether to begin anew where the past is no longer kept.
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
        """What goes on from here."""
        self._parts = []
        return pb.WatchStatesRequest(
            after_revision=0 if self._snapshot_wanted else self.revision,
            filter=self._filter,
            include_snapshot=self._snapshot_wanted,
            epoch="" if self._snapshot_wanted else self._epoch,
            mode=self._mode,
            include_left=self._include_left,
            snapshot_if_expired=self.snapshot_if_expired,
        )

    def begin_anew(self) -> None:
        """Goes on from a snapshot: there is another log, with revisions of its own."""
        self._snapshot_wanted, self.revision, self._epoch = True, 0, ""

    def take(self, message: pb.WatchStatesResponse) -> WatchEvent | None:
        """What a message tells that was not told before."""
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
    **wanted: Any,
) -> Place:
    """Where a watch begins, and what it wants; the rest is as `watch_filter` takes it."""
    return Place(
        after_revision=after_revision,
        include_snapshot=include_snapshot,
        state_filter=watch_filter(**wanted),
        mode=mode,
        include_left=include_left,
        snapshot_if_expired=snapshot_if_expired,
    )


class Watch:
    """Iterates over what happens; made by `Client.watch`.

    Silence of twice the longest bookmark interval counts as a lost connection. A stream that is
    lost is opened again, for ever, from the last revision delivered; a snapshot that was cut off
    begins anew. With `snapshot_if_expired` so does a watch whose place is no longer kept, or whose
    log was replaced by a restored backup: a `Snapshot` in the midst tells to forget what was
    before.

    Args:
        stub: The registry.
        place: What is watched.
    """

    def __init__(self, stub: rpc.RegistryServiceStub, place: Place) -> None:
        self._stub = stub
        self._place = place
        self.connected = False
        """Whether the stream is up now."""

    @property
    def revision(self) -> int:
        """Everything up to here was delivered: what to resume from, also in another process."""
        return self._place.revision

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        """The events, without end."""
        return self._events()

    async def _events(self) -> AsyncIterator[WatchEvent]:
        wait = waits()
        while True:
            at = present_replica(self._stub.WatchStates)
            pause = 0.0
            try:
                async for event in self._stream():
                    wait = waits()
                    yield event
            except grpc.aio.AioRpcError as error:
                pause = self._mended(from_rpc(error))
            except TimeoutError:
                # Silent for too long: the connection, or who serves it, is gone without saying so.
                leave(self._stub.WatchStates, at)
            finally:
                self.connected = False
            await asyncio.sleep(pause + wait())

    def _mended(self, error: VistaError) -> float:
        """The seconds to wait before trying again, if that is of any use.

        Raises:
            VistaError: It is of none.
        """
        if error.reason == "EPOCH_CHANGED" and self._place.snapshot_if_expired:
            self._place.begin_anew()
            return 0.0
        return mended(error)

    async def _stream(self) -> AsyncIterator[WatchEvent]:
        """The events of one connection."""
        call: Any = self._stub.WatchStates(self._place.request())
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


def mended(error: VistaError) -> float:
    """The seconds that a service asks to wait before a stream is opened again.

    Raises:
        VistaError: Opening it again cannot mend it.
    """
    asked = pause_asked(error)
    if asked is None and not isinstance(error, TRANSIENT):
        raise error from None
    return asked or 0.0
