"""Tells watchers what happens: ordered, unique, complete, atomic, resumable, bookmarked.

A watcher is a place in the log, its `at`: everything that concerns it up to there has been
delivered. It moves only over rows that were looked at, in memory while the watcher keeps up and
in the database while it does not, and every message tells it. So a bookmark is never ahead of a
row still to come, and whoever passes `at` back as `after_revision` goes on as if nothing had
happened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field

import grpc
import psycopg

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    ExpiredError,
    UnavailableError,
    Violations,
)
from vistaflow_services.core.failpoints import reached
from vistaflow_services.registry import translate, wire
from vistaflow_services.registry.domain import Counts, Kit, StateFilter, StateRow
from vistaflow_services.registry.hub import (
    STRETCH_BYTES,
    STRETCH_ROWS,
    Entry,
    Hub,
    Stretch,
    Subscription,
    cut,
)
from vistaflow_services.registry.watch_store import WatchStore

DEFAULT_INTERVAL_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 15.0
SNAPSHOT_ROWS = 1000
# How long the database holds a snapshot still for a watcher that does not read it.
SNAPSHOT_PATIENCE_SECONDS = 30.0
# Statements at once on behalf of watchers, so that they leave connections to everyone else.
PAST_READERS = 4
_SHARED_STRETCHES = 16
_LABELS_KEPT = 50_000
_HELD_COUNTS = 10_000

_SnapshotPage = tuple[pb.WatchStatesResponse, bool]
"""A message of a snapshot, and whether it is the last."""


@dataclass(kw_only=True)
class _Watch:
    """One call of WatchStates."""

    wanted: StateFilter
    interval: float
    at: int
    page_rows: int = 250
    held_counts: OrderedDict[int, Counts] = field(default_factory=OrderedDict)
    """New counts of kits none of whose rows was wanted since; told with the next that is."""

    @property
    def picks_rows(self) -> bool:
        """Whether it may want some rows of a kit and not others."""
        return bool(self.wanted.job_types or self.wanted.statuses or self.wanted.job_ids)


class WatchService:
    """Serves WatchStates.

    Args:
        hub: Where new rows come from.
        store: Where old rows are read.
        epoch: The log's name.
    """

    def __init__(self, *, hub: Hub, store: WatchStore, epoch: str) -> None:
        self._hub = hub
        self._store = store
        self._epoch = epoch
        self._draining = False
        self._readers = asyncio.Semaphore(PAST_READERS)
        self._snapshots = asyncio.Semaphore(PAST_READERS)
        self._labels: OrderedDict[int, dict[str, str]] = OrderedDict()
        self._shared: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def drain(self) -> None:
        """Ends every watch with `end`, for the watcher to go on elsewhere."""
        self._draining = True
        self._hub.wake_all()

    async def watch(
        self, request: pb.WatchStatesRequest
    ) -> AsyncGenerator[pb.WatchStatesResponse | bytes, None]:
        """The messages of one watch; deltas come serialised already."""
        watch = await self._admit(request)
        with self._hub.subscribe(watch.wanted.kit_ids or None) as place:
            if request.include_snapshot:
                async with contextlib.aclosing(self._snapshot(watch.wanted)) as messages:
                    async for message in messages:
                        yield message
                        watch.at = message.revision
            async with contextlib.aclosing(self._follow(watch, place)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _admit(self, request: pb.WatchStatesRequest) -> _Watch:
        violations = Violations()
        wanted = translate.filter_from_proto(request.filter, violations)
        interval = _interval(request, violations)
        if request.after_revision < 0:
            violations.add("after_revision", "is below 0; give the last revision you saw, or 0")
        if request.include_snapshot and request.after_revision:
            violations.add("after_revision", "must be 0 with include_snapshot, which starts anew")
        violations.check()
        if request.epoch and request.epoch != self._epoch:
            raise ConflictError(
                f"the log's epoch is {self._epoch}, not {request.epoch}: this is another log, such "
                "as a restored backup; start again with include_snapshot",
                reason="EPOCH_CHANGED",
                metadata={"epoch": self._epoch},
            )
        if not request.include_snapshot:
            await self._check_kept(request.after_revision)
        return _Watch(wanted=wanted, interval=interval, at=request.after_revision)

    async def _check_kept(self, after: int) -> None:
        if self._hub.oldest - 1 <= after <= self._hub.head:
            return
        ends = await self._store.ends()
        if after > ends.head:
            raise ExpiredError(
                f"revision {after} is beyond the head of the log, {ends.head}",
                reason="BEYOND_HEAD",
                metadata={"head_revision": str(ends.head)},
            )
        if after + 1 < ends.oldest:
            raise ExpiredError(
                f"rows before revision {ends.oldest} are no longer kept; start again with "
                "include_snapshot",
                reason="REVISION_EXPIRED",
                metadata={"oldest_revision": str(ends.oldest)},
            )
        try:
            async with asyncio.timeout(10):
                await self._hub.reached(after)
        except TimeoutError:
            raise UnavailableError("this replica is behind the log; try again") from None

    async def _follow(
        self, watch: _Watch, place: Subscription
    ) -> AsyncGenerator[pb.WatchStatesResponse | bytes, None]:
        """Everything after the watch's place, until the registry drains."""
        clock = asyncio.get_running_loop().time
        past = self._hub.head
        synced = False
        told = clock()
        while not self._draining:
            if watch.at >= past and not synced:
                synced = True
                yield pb.WatchStatesResponse(synced=pb.Synced(epoch=self._epoch), revision=watch.at)
                told = clock()
            if watch.at < self._hub.head:
                for stretch in await self._next(watch, place):
                    message = await self._message(watch, stretch)
                    watch.at = stretch.through
                    if message is not None:
                        reached("watch.before_send")
                        yield message
                        reached("watch.after_send")
                        told = clock()
                await asyncio.sleep(0)
            if clock() - told >= watch.interval:
                yield pb.WatchStatesResponse(
                    bookmark=pb.Bookmark(head_revision=self._hub.head), revision=watch.at
                )
                told = clock()
            if watch.at >= self._hub.head:
                await place.wait(told + watch.interval - clock())
        yield pb.WatchStatesResponse(end=pb.End(reason="DRAINING"), revision=watch.at)

    async def _next(self, watch: _Watch, place: Subscription) -> list[Stretch]:
        """The next pieces of the log, from memory or from the database."""
        stretch = self._hub.read(place, watch.at)
        if stretch is not None:
            return [stretch]
        async with self._readers:
            page = await self._store.page(watch.wanted, watch.at, self._hub.head, watch.page_rows)
        entries = [Entry(row) for row in page.rows]
        if entries:
            # As many rows next time as make about one message.
            each = sum(entry.size for entry in entries) / len(entries)
            watch.page_rows = max(16, min(STRETCH_ROWS, int(STRETCH_BYTES / each)))
        return cut(entries, page.through)

    async def _message(self, watch: _Watch, stretch: Stretch) -> bytes | None:
        """The delta of a stretch; None when nothing of it is wanted."""
        if not stretch.entries:
            return None
        if watch.wanted:
            await self._learn_labels(watch.wanted, stretch.entries)
            return self._picked(watch, stretch)
        key = (watch.at, stretch.through)
        message = self._shared.get(key)
        if message is None:
            counts = _latest_counts(entry.row for entry in stretch.entries)
            message = wire.delta(stretch.entries, counts, stretch.through)
            self._shared[key] = message
            if len(self._shared) > _SHARED_STRETCHES:
                self._shared.popitem(last=False)
        return message

    def _picked(self, watch: _Watch, stretch: Stretch) -> bytes | None:
        """The delta of the rows that pass the watch's filter."""
        picked: list[Entry] = []
        touched: dict[int, None] = {}
        of_kits: list[StateRow] = []
        kits = StateFilter(kit_ids=watch.wanted.kit_ids, labels=watch.wanted.labels)
        for entry in stretch.entries:
            labels = self._labels.get(entry.row.kit_id)
            if watch.wanted.matches(entry.row, labels):
                picked.append(entry)
                touched[entry.row.kit_id] = None
            if entry.row.kit_counts is not None and kits.matches(entry.row, labels):
                of_kits.append(entry.row)
        counts = _latest_counts(of_kits)
        if watch.picks_rows:
            watch.held_counts.update(counts)
            counts = {
                kit_id: watch.held_counts.pop(kit_id)
                for kit_id in touched
                if kit_id in watch.held_counts
            }
            while len(watch.held_counts) > _HELD_COUNTS:
                watch.held_counts.popitem(last=False)
        return wire.delta(picked, counts, stretch.through) if picked else None

    async def _learn_labels(self, wanted: StateFilter, entries: Iterable[Entry]) -> None:
        """Makes the labels of the kits of these rows known. They never change."""
        if not wanted.labels:
            return
        needed = {entry.row.kit_id for entry in entries}
        unknown = needed.difference(self._labels)
        if unknown:
            found = await self._store.labels(unknown)
            for kit_id in unknown:
                self._labels[kit_id] = found.get(kit_id, {})
        for kit_id in needed:
            self._labels.move_to_end(kit_id)
        while len(self._labels) > max(_LABELS_KEPT, len(needed)):
            self._labels.popitem(last=False)

    async def _snapshot(self, wanted: StateFilter) -> AsyncGenerator[pb.WatchStatesResponse, None]:
        """The current rows, as they were at the revision of the last message."""
        pages: asyncio.Queue[_SnapshotPage] = asyncio.Queue(maxsize=2)
        # In a task of its own, so that a watcher that does not read cannot hold the database's
        # snapshot, and with it every dead row of the tables, for as long as it likes.
        pump = asyncio.create_task(self._pump(wanted, pages))
        try:
            last = False
            while not last:
                ready = asyncio.create_task(pages.get())
                await asyncio.wait({ready, pump}, return_when=asyncio.FIRST_COMPLETED)
                if pump.done() and pump.exception() is not None:
                    ready.cancel()
                    await pump
                message, last = await ready
                yield message
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, wanted: StateFilter, pages: asyncio.Queue[_SnapshotPage]) -> None:
        try:
            async with self._snapshots, self._store.snapshot() as snapshot:
                sent: set[int] = set()
                message = pb.WatchStatesResponse(snapshot=pb.Snapshot())
                async for rows in snapshot.rows(wanted, SNAPSHOT_ROWS):
                    if message.snapshot.states:
                        async with asyncio.timeout(SNAPSHOT_PATIENCE_SECONDS):
                            await pages.put((message, False))
                    fresh = {row.kit_id for row in rows} - sent
                    sent |= fresh
                    message = _snapshot_message(rows, await snapshot.kits(fresh) if fresh else ())
                # Only the last tells it: whoever has not all of the snapshot has nothing yet.
                message.revision = snapshot.revision
        except TimeoutError:
            raise ExhaustedError(
                "the snapshot was not read in time; narrow the filter", reason="SLOW_WATCHER"
            ) from None
        except psycopg.OperationalError as error:
            raise UnavailableError("the database is not there now") from error
        await pages.put((message, True))


def serve_bytes(service: WatchService, server: grpc.aio.Server) -> None:
    """Lets WatchStates answer with bytes; call it after the servicer was added to the server."""

    async def watch(
        request: pb.WatchStatesRequest, context: object
    ) -> AsyncIterator[pb.WatchStatesResponse | bytes]:
        async with contextlib.aclosing(service.watch(request)) as messages:
            async for message in messages:
                yield message

    def serialize(message: pb.WatchStatesResponse | bytes) -> bytes:
        return message if isinstance(message, bytes) else message.SerializeToString()

    handler = grpc.unary_stream_rpc_method_handler(
        watch, pb.WatchStatesRequest.FromString, serialize
    )
    name = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
    server.add_registered_method_handlers(name, {"WatchStates": handler})


def _interval(request: pb.WatchStatesRequest, violations: Violations) -> float:
    """How long the watcher may hear nothing, in seconds."""
    if not request.HasField("progress_interval"):
        return DEFAULT_INTERVAL_SECONDS
    seconds = request.progress_interval.seconds + request.progress_interval.nanos / 1e9
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        violations.add(
            "progress_interval",
            f"is {seconds:g} s; give {MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g} s",
        )
    return seconds


def _latest_counts(rows: Iterable[StateRow]) -> dict[int, Counts]:
    """The counts of each kit after the last of the rows."""
    return {row.kit_id: row.kit_counts for row in rows if row.kit_counts is not None}


def _snapshot_message(rows: Iterable[StateRow], kits: Collection[Kit]) -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(
        snapshot=pb.Snapshot(
            states=[translate.state_to_proto(row) for row in rows],
            kits=[translate.kit_to_proto(kit) for kit in kits],
        )
    )
