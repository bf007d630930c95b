"""Tells watchers what happens: ordered, unique, complete, atomic, resumable, bookmarked.

A watcher is a place in the log, its `at`: everything that concerns it up to there has been
delivered. It moves only over rows that were looked at, in memory while the watcher keeps up and
in the database while it does not, and every message tells it. So a bookmark is never ahead of a
row still to come, and whoever passes `at` back as `after_revision` goes on as if nothing had
happened.

A watcher that takes its time finds more rows waiting when it comes back. In the mode EVERY_ROW it
gets all of them; in LATEST_PER_TASK, of up to `watch_rows.FOLD_ROWS` at a time, the latest of each
task and how many were folded into those.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.errors import (
    ConflictError,
    ExpiredError,
    UnavailableError,
    Violations,
)
from vistaflow_services.core.failpoints import reached
from vistaflow_services.registry import translate, wire
from vistaflow_services.registry.hub import (
    STRETCH_BYTES,
    STRETCH_ROWS,
    Entry,
    Hub,
    Stretch,
    Subscription,
    cut,
)
from vistaflow_services.registry.tenancy import narrow_watch
from vistaflow_services.registry.watch_rows import Fold, RowPicker, Watch
from vistaflow_services.registry.watch_snapshot import SnapshotReader
from vistaflow_services.registry.watch_store import WatchStore

DEFAULT_INTERVAL_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 15.0
# Statements at once on behalf of watchers, so that they leave connections to everyone else.
PAST_READERS = 4

Event = pb.WatchStatesResponse | bytes
"""A message of a watch; deltas come serialised already."""

Send = Callable[[Event], Awaitable[None]]
"""Delivers a message; returns once there is room for the next."""


_NO_TURN = contextlib.nullcontext()


class _Over(Exception):
    """The watch cannot go on."""

    def __init__(self, code: pb.EndReason.ValueType) -> None:
        super().__init__(code)
        self.code = code


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
        self._ending: pb.EndReason.ValueType = pb.END_REASON_UNSPECIFIED
        self.ended = asyncio.Event()
        """Set when every watch is being ended."""
        self._readers = asyncio.Semaphore(PAST_READERS)
        self._picker = RowPicker(store)
        self._snapshots = SnapshotReader(store, readers=PAST_READERS)

    @property
    def ending(self) -> bool:
        """Whether every watch is being ended."""
        return self.ended.is_set()

    def drain(self) -> None:
        """Ends every watch with `end`, for the watcher to go on elsewhere."""
        self._end(pb.END_REASON_DRAINING)

    def replaced(self) -> None:
        """Ends every watch: the log is no longer the one that was watched."""
        self._end(pb.END_REASON_EPOCH_CHANGED)

    def _end(self, reason: pb.EndReason.ValueType) -> None:
        if not self.ending:
            self._ending = reason
            self.ended.set()
            self._hub.wake_all()

    async def watch(self, request: pb.WatchStatesRequest, send: Send) -> None:
        """Sends the messages of one watch until it ends."""
        await self.run(await self.admit(request), send)

    async def admit(
        self,
        request: pb.WatchStatesRequest,
        *,
        turn: contextlib.AbstractAsyncContextManager[Any] = _NO_TURN,
    ) -> Watch:
        """A watch to be run, if it can be served.

        Args:
            request: What to watch.
            turn: Held while rows are read and until they are handed over, so that watches which
                share it hold no more in memory together than it lets through.

        Raises:
            InvalidError: It is malformed.
            ConflictError: It is of another log.
            ExpiredError: It begins beyond the head, or where nothing is kept any more.
        """
        violations = Violations()
        await narrow_watch(request, self._store.fetch)
        wanted = translate.filter_from_proto(request.filter, violations)
        interval = _interval(request, violations)
        if request.after_revision < 0:
            violations.add("after_revision", "is below 0; give the last revision you saw, or 0")
        if request.include_snapshot and request.after_revision:
            violations.add("after_revision", "must be 0 with include_snapshot, which starts anew")
        if request.mode not in pb.WatchMode.values():
            violations.add("mode", "must be WATCH_MODE_EVERY_ROW or WATCH_MODE_LATEST_PER_TASK")
        violations.check()
        if request.epoch and request.epoch != self._epoch:
            raise ConflictError(
                f"the log's epoch is {self._epoch}, not {request.epoch}: this is another log, such "
                "as a restored backup; start again with include_snapshot",
                reason="EPOCH_CHANGED",
                metadata={"epoch": self._epoch},
            )
        watch = Watch(
            wanted=wanted,
            interval=interval,
            at=request.after_revision,
            latest=request.mode == pb.WATCH_MODE_LATEST_PER_TASK,
            include_left=request.include_left,
            begin_anew=request.include_snapshot,
            turn=turn,
        )
        if not watch.begin_anew and not self.ending:
            await self._place(watch, request.snapshot_if_expired)
        return watch

    async def run(self, watch: Watch, send: Send) -> None:
        """Sends the messages of a watch; once one is sent, so is everything up to `watch.at`."""
        try:
            with (
                self._hub.subscribe(watch.wanted.kit_ids or None, callers.told()) as place,
                callers.current().heard(place.wake),
            ):
                if watch.begin_anew and not self.ending:
                    async with watch.turn:
                        await self._snapshot(watch, send)
                await self._follow(watch, place, send)
        except _Over as over:
            await send(end(over.code, watch.at))

    async def _place(self, watch: Watch, may_begin_anew: bool) -> None:
        """Sees that everything after the watch's place is there to be delivered."""
        after = watch.at
        if self._hub.oldest - 1 <= after <= self._hub.head:
            return
        ends = await self._store.ends()
        if ends.epoch != self._epoch:
            self.replaced()
            return
        if after > ends.head:
            raise ExpiredError(
                f"revision {after} is beyond the head of the log, {ends.head}",
                reason="BEYOND_HEAD",
                metadata={"head_revision": str(ends.head)},
            )
        if after + 1 < ends.oldest:
            if may_begin_anew:
                watch.at, watch.begin_anew = 0, True
                return
            raise ExpiredError(
                f"rows before revision {ends.oldest} are no longer kept; start again with "
                "include_snapshot, or ask for snapshot_if_expired",
                reason="REVISION_EXPIRED",
                metadata={"oldest_revision": str(ends.oldest)},
            )
        try:
            async with asyncio.timeout(10):
                await self._hub.reached(after)
        except TimeoutError:
            raise UnavailableError("this replica is behind the log; try again") from None

    def _check_epoch(self, epoch: str) -> None:
        """Ends every watch if what was read is of another log than the one served."""
        if epoch != self._epoch:
            self.replaced()
            raise _Over(pb.END_REASON_EPOCH_CHANGED)

    async def _snapshot(self, watch: Watch, send: Send) -> None:
        async with contextlib.aclosing(self._snapshots.read(watch.wanted)) as pages:
            async for page in pages:
                self._check_epoch(page.epoch)
                await send(page.message)
                watch.at = page.message.revision

    async def _follow(self, watch: Watch, place: Subscription, send: Send) -> None:
        """Sends everything after the watch's place, until the registry ends it."""
        clock = asyncio.get_running_loop().time
        # A snapshot is the whole past; rows that came while it was read are deltas after `synced`.
        past = watch.at if watch.begin_anew else place.horizon
        synced = False
        told = clock()
        caller = callers.current()
        while not self.ending:
            if caller.over:
                raise _Over(pb.END_REASON_UNAUTHENTICATED)
            if watch.at >= past and not synced:
                synced = True
                await send(
                    pb.WatchStatesResponse(synced=pb.Synced(epoch=self._epoch), revision=watch.at)
                )
                told = clock()
            if watch.at < place.horizon:
                if await self._tell(watch, place, send):
                    told = clock()
                if watch.at < place.horizon:
                    await asyncio.sleep(0)
            if clock() - told >= watch.interval:
                await send(
                    pb.WatchStatesResponse(
                        bookmark=pb.Bookmark(head_revision=self._hub.head), revision=watch.at
                    )
                )
                told = clock()
            if watch.at >= place.horizon:
                await place.wait(told + watch.interval - clock())
        raise _Over(self._ending)

    async def _tell(self, watch: Watch, place: Subscription, send: Send) -> bool:
        """Sends the next messages, if there is anything to tell; whether there was."""
        head = self._hub.head
        shared = self._picker.shared(watch, head)
        if shared is not None and watch.turn is _NO_TURN:
            # The way of the many, who follow everything and keep up: as short as can be.
            watch.at = place.at = head
            await _deliver(shared, send)
            return True
        said = False
        async with watch.turn, contextlib.aclosing(self._messages(watch, place)) as ready:
            async for through, message in ready:
                watch.at = through
                if message is not None:
                    await _deliver(message, send)
                    said = True
        return said

    async def _messages(
        self, watch: Watch, place: Subscription
    ) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """The next messages, if there are any, each with the position of the watch after it."""
        stretches = await self._next(watch, place, watch.at)
        await wire.encode(stretches)
        lone = len(stretches) == 1 and stretches[0].through >= self._hub.head
        if lone or not watch.latest:
            for stretch in itertools.chain.from_iterable(map(wire.pieces, stretches)):
                for message in _steps(
                    watch.at, stretch.through, await self._picker.messages(watch, stretch)
                ):
                    yield message
            return
        fold = Fold(latest=True)
        while True:
            for stretch in stretches:
                await self._picker.pick(watch, stretch, fold)
            at = stretches[-1].through
            if at >= self._hub.head or fold.full or self.ending:
                break
            await asyncio.sleep(0)
            stretches = await self._next(watch, place, at)
        for message in _steps(watch.at, at, fold.messages(watch.at, at)):
            yield message

    async def _next(self, watch: Watch, place: Subscription, at: int) -> list[Stretch]:
        """The next pieces of the log after `at`, from memory or from the database."""
        stretch = self._hub.read(place, at)
        if stretch is not None:
            return [stretch]
        async with self._readers:
            try:
                page = await self._store.page(
                    watch.read, at, self._hub.head, watch.page_rows, large=watch.large
                )
            except ExpiredError:
                # Of another log, perhaps, whose rows are not those that were looked for.
                self._check_epoch((await self._store.ends()).epoch)
                raise _Over(pb.END_REASON_EXPIRED) from None
        self._check_epoch(page.epoch)
        watch.large = page.large
        entries = [Entry(row) for row in page.rows]
        if entries:
            # As many rows next time as make about one message.
            each = sum(entry.size for entry in entries) / len(entries)
            watch.page_rows = max(16, min(STRETCH_ROWS, int(STRETCH_BYTES / each)))
        return cut(entries, page.through)


def _steps(before: int, through: int, messages: list[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """How far a watch is with each message of a delta: only the last brings it on."""
    for message in messages[:-1]:
        yield before, message
    yield through, messages[-1] if messages else None


async def _deliver(message: bytes, send: Send) -> None:
    reached("watch.before_send")
    await send(message)
    reached("watch.after_send")


def end(code: pb.EndReason.ValueType, revision: int, reason: str = "") -> pb.WatchStatesResponse:
    """The last message of a watch."""
    told = reason or pb.EndReason.Name(code).removeprefix("END_REASON_")
    return pb.WatchStatesResponse(end=pb.End(reason=told, code=code), revision=revision)


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
