"""Sends the rows of the log to watchers: ordered, unique, complete, atomic, resumable, bookmarked.

A watch has a `position` in the log: every row that concerns it up to there has been delivered. It
moves only over rows that were read, from memory while the watcher keeps up and from the database
otherwise, and every message contains it. So a bookmark is never ahead of a row that is still to
come, and a watcher that sends its position as `after_revision` continues without a gap.

For a slow watcher more rows wait when it comes back. In the mode EVERY_ROW it receives all of
them; in LATEST_PER_TASK it receives, of up to `rows.FOLD_ROWS` at a time, the latest of each task
and the number of rows that these replace.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    ConflictError,
    ExpiredError,
    UnavailableError,
    Violations,
)
from vistaflow_services.core.failpoints import reached
from vistaflow_services.registry.log.hub import (
    STRETCH_BYTES,
    STRETCH_ROWS,
    Entry,
    Hub,
    Stretch,
    Subscription,
    cut,
)
from vistaflow_services.registry.messages import filters
from vistaflow_services.registry.messages.narrowing import narrow_watch
from vistaflow_services.registry.watch import encode
from vistaflow_services.registry.watch.rows import Fold, RowPicker, Watch
from vistaflow_services.registry.watch.snapshot import SnapshotReader
from vistaflow_services.registry.watch.store import WatchStore

DEFAULT_INTERVAL_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 15.0
# Statements of watches at once, so that connections are left for other calls.
PAST_READERS = 4

Event = pb.WatchStatesResponse | bytes
"""A message of a watch; deltas are serialised already."""

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
        hub: Publishes new rows.
        store: Reads old rows.
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
        """Ends every watch with `end`, so that the watcher continues at another replica."""
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
        """Checks a request and returns its watch, which is then to be run.

        Args:
            request: The request.
            turn: Held from the reading of rows until they are handed over, so that the watches
                which share it hold rows for a bounded number of messages.

        Raises:
            InvalidError: It is malformed.
            ConflictError: It is of another log.
            ExpiredError: It begins beyond the head, or before the oldest row that is kept.
        """
        violations = Violations()
        await narrow_watch(request, self._store.fetch)
        matching = filters.states(request.filter, violations)
        interval = _interval(request, violations)
        if request.after_revision < 0:
            violations.add("after_revision", "is below 0; give the last revision you saw, or 0")
        if request.include_snapshot and request.after_revision:
            violations.add(
                "after_revision", "must be 0 with include_snapshot, which is a new start"
            )
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
            filter=matching,
            interval=interval,
            position=request.after_revision,
            latest=request.mode == pb.WATCH_MODE_LATEST_PER_TASK,
            include_left=request.include_left,
            from_snapshot=request.include_snapshot,
            turn=turn,
        )
        if not watch.from_snapshot and not self.ending:
            await self._place(watch, request.snapshot_if_expired)
        return watch

    async def run(self, watch: Watch, send: Send) -> None:
        """Sends the messages of a watch until it ends; `watch.position` follows each."""
        try:
            with (
                self._hub.subscribe(
                    watch.filter.kit_ids or None, callers.describe_current()
                ) as subscription,
                callers.current().notifying(subscription.wake),
            ):
                if watch.from_snapshot and not self.ending:
                    async with watch.turn:
                        await self._snapshot(watch, send)
                await self._follow(watch, subscription, send)
        except _Over as over:
            await send(end(over.code, watch.position))

    async def _place(self, watch: Watch, may_use_snapshot: bool) -> None:
        """Makes sure that every row after the watch's position can be delivered.

        Raises:
            ExpiredError, UnavailableError: Some are deleted, or not here yet.
        """
        after = watch.position
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
            if may_use_snapshot:
                watch.position, watch.from_snapshot = 0, True
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
        """Ends every watch if rows were read from another log than the one served."""
        if epoch != self._epoch:
            self.replaced()
            raise _Over(pb.END_REASON_EPOCH_CHANGED)

    async def _snapshot(self, watch: Watch, send: Send) -> None:
        async with contextlib.aclosing(self._snapshots.read(watch.filter)) as pages:
            async for page in pages:
                self._check_epoch(page.epoch)
                await send(page.message)
                watch.position = page.message.revision

    async def _follow(self, watch: Watch, subscription: Subscription, send: Send) -> None:
        """Sends the rows after the watch's position, until the registry ends the watch."""
        clock = asyncio.get_running_loop().time
        # Up to here the watcher receives rows that existed before. A snapshot has all of them; the
        # rows that came while it was read are deltas after `synced`.
        past = watch.position if watch.from_snapshot else subscription.horizon
        synced = False
        last_sent = clock()
        caller = callers.current()
        while not self.ending:
            if caller.over:
                raise _Over(pb.END_REASON_UNAUTHENTICATED)
            # `synced` tells the watcher that it has everything that existed when it came.
            if watch.position >= past and not synced:
                synced = True
                await send(
                    pb.WatchStatesResponse(
                        synced=pb.Synced(epoch=self._epoch), revision=watch.position
                    )
                )
                last_sent = clock()
            if watch.position < subscription.horizon:
                if await self._send_next(watch, subscription, send):
                    last_sent = clock()
                if watch.position < subscription.horizon:
                    # A watch that is far behind must not keep the loop from its other work.
                    await asyncio.sleep(0)
            # A bookmark shows that the stream is alive, and moves the place to resume from.
            if clock() - last_sent >= watch.interval:
                await send(
                    pb.WatchStatesResponse(
                        bookmark=pb.Bookmark(head_revision=self._hub.head), revision=watch.position
                    )
                )
                last_sent = clock()
            if watch.position >= subscription.horizon:
                await subscription.wait(last_sent + watch.interval - clock())
        raise _Over(self._ending)

    async def _send_next(self, watch: Watch, subscription: Subscription, send: Send) -> bool:
        """Sends the next messages, if there are any; returns whether there were."""
        head = self._hub.head
        shared = self._picker.shared(watch, head)
        if shared is not None and watch.turn is _NO_TURN:
            # Most watches follow everything and keep up: this way has as few steps as possible.
            watch.position = subscription.position = head
            await _deliver(shared, send)
            return True
        sent = False
        async with watch.turn, contextlib.aclosing(self._messages(watch, subscription)) as ready:
            async for through, message in ready:
                watch.position = through
                if message is not None:
                    await _deliver(message, send)
                    sent = True
        return sent

    async def _messages(
        self, watch: Watch, subscription: Subscription
    ) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """The next messages, if there are any, each with the position of the watch after it."""
        stretches = await self._next(watch, subscription, watch.position)
        await encode.encode(stretches)
        # With EVERY_ROW each stretch is a message. With LATEST_PER_TASK later rows replace earlier
        # ones across stretches, unless the one stretch is all there is.
        lone = len(stretches) == 1 and stretches[0].through >= self._hub.head
        if lone or not watch.latest:
            for stretch in itertools.chain.from_iterable(map(encode.pieces, stretches)):
                for message in _steps(
                    watch.position, stretch.through, await self._picker.messages(watch, stretch)
                ):
                    yield message
            return
        fold = Fold(latest=True)
        while True:
            for stretch in stretches:
                await self._picker.pick(watch, stretch, fold)
            # A bound on the rows of a fold keeps the message and the wait for it bounded.
            through = stretches[-1].through
            if through >= self._hub.head or fold.full or self.ending:
                break
            await asyncio.sleep(0)
            stretches = await self._next(watch, subscription, through)
        messages = fold.messages(watch.position, through)
        for message in _steps(watch.position, through, messages):
            yield message

    async def _next(self, watch: Watch, subscription: Subscription, after: int) -> list[Stretch]:
        """The next stretches of the log after a revision, from memory or from the database."""
        stretch = self._hub.read(subscription, after)
        if stretch is not None:
            return [stretch]
        async with self._readers:
            try:
                page = await self._store.page(
                    watch.read, after, self._hub.head, watch.page_rows, large=watch.large
                )
            except ExpiredError:
                # Perhaps because the database holds another log now: then that is the reason.
                self._check_epoch((await self._store.ends()).epoch)
                raise _Over(pb.END_REASON_EXPIRED) from None
        self._check_epoch(page.epoch)
        watch.large = page.large
        entries = [Entry(row) for row in page.rows]
        if entries:
            # Next time as many rows as make about one message.
            row_bytes = sum(entry.size for entry in entries) / len(entries)
            watch.page_rows = max(16, min(STRETCH_ROWS, int(STRETCH_BYTES / row_bytes)))
        return cut(entries, page.through)


def _steps(before: int, through: int, messages: list[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The messages of a delta, each with the position after it: only the last moves it."""
    for message in messages[:-1]:
        yield before, message
    yield through, messages[-1] if messages else None


async def _deliver(message: bytes, send: Send) -> None:
    reached("watch.before_send")
    await send(message)
    reached("watch.after_send")


def end(code: pb.EndReason.ValueType, revision: int, reason: str = "") -> pb.WatchStatesResponse:
    """The last message of a watch."""
    text = reason or pb.EndReason.Name(code).removeprefix("END_REASON_")
    return pb.WatchStatesResponse(end=pb.End(reason=text, code=code), revision=revision)


def _interval(request: pb.WatchStatesRequest, violations: Violations) -> float:
    """The longest time without a message, in seconds."""
    if not request.HasField("progress_interval"):
        return DEFAULT_INTERVAL_SECONDS
    seconds = request.progress_interval.seconds + request.progress_interval.nanos / 1e9
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        violations.add(
            "progress_interval",
            f"is {seconds:g} s; give {MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g} s",
        )
    return seconds
