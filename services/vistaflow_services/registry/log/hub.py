"""Passes the newest rows of the log to the followers in this process.

The hub holds the newest rows in memory and wakes the followers that they concern. It receives
whole commits in order from this process's ledger, and from the tail, which reads what other
replicas wrote; a row that both bring counts once. `Hub.publish` is a plain call that awaits
nothing.

A follower that keeps up reads from memory. One that needs rows which have left the ring reads from
the database instead, so neither the ring nor the rows gathered for one follower grow without
bound.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self

from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.log.turns import Concerned, Everything

_log = logging.getLogger(__name__)

RING_ROWS = 20_000
RING_BYTES = 32 * 1024 * 1024
STRETCH_ROWS = 1_000
STRETCH_BYTES = 1024 * 1024
# Bytes of a row in memory, about, without its texts and its serialised form.
_ROW_BYTES = 700
# Upper bound of the bytes of a row in a message, without its metadata and reason.
_ROW_WIRE_BYTES = 1_300
# Upper bound of the bytes that a value of metadata adds to its text in a message: a number takes 8
# bytes, and each of the messages around it has a tag and a length.
_VALUE_WIRE_BYTES = 24


class Entry:
    """A row in memory, with its serialised form once a message needed it."""

    __slots__ = ("_most", "before", "row", "size", "wire")

    def __init__(self, row: StateRow) -> None:
        self.row = row
        self.before: str | None = None
        """The status before; empty for a first row, None until a watch needed it."""
        self.size = _ROW_BYTES + len(row.metadata_json) + len(row.reason)
        self.wire: bytes | None = None
        self._most = 0

    @property
    def most(self) -> int:
        """Upper bound of the bytes of the serialised form, without making it."""
        if self.wire is not None:
            return len(self.wire)
        if not self._most:
            text = self.row.metadata_json
            values = text.count(",") + text.count("[") + text.count("{")
            self._most = _ROW_WIRE_BYTES + 4 * len(self.row.reason)
            self._most += len(text.encode()) + _VALUE_WIRE_BYTES * values
        return self._most


class Stretch(NamedTuple):
    """A piece of the log that ends where an append ends."""

    entries: list[Entry]
    """Its rows in revision order; rows that do not concern the reader may be left out."""

    through: int
    """Every row that concerns the reader up to this revision is in it or before it."""


def cut(entries: Iterable[Entry], through: int) -> list[Stretch]:
    """Cuts rows into stretches of at most about 1,000 rows or 1 MiB.

    Rows of one append stay together however many they are.
    """
    stretches: list[Stretch] = []
    piece: list[Entry] = []
    size = 0
    for entry in entries:
        full = len(piece) >= STRETCH_ROWS or size >= STRETCH_BYTES
        if full and entry.row.batch != piece[-1].row.batch:
            stretches.append(Stretch(piece, entry.row.batch - 1))
            piece, size = [], 0
        piece.append(entry)
        size += entry.size
    stretches.append(Stretch(piece, through))
    return stretches


class Lag(NamedTuple):
    """How far a follower is behind."""

    rows: int
    """Rows it has still to look at."""
    seconds: float
    """For how long the first of them waits; a lower bound if that one has left the memory."""
    who: str


class Subscription:
    """The state of one follower, and the rows that gather for it while it is busy.

    For a follower of certain kits their rows are gathered here, so that a commit wakes only the
    followers that it concerns. If more than a stretch gathers, it is dropped, and the follower
    reads the rows before `since` from the ring or the database.
    """

    def __init__(self, hub: Hub, kits: frozenset[int] | None, who: str = "") -> None:
        self.kits = kits
        self.who = who
        self.since = hub.head
        """The revision after which the gathered rows are complete."""
        self.position = hub.head
        """The revision up to which the follower has read; lags are computed from it."""
        self._hub = hub
        self._horizon = hub.head
        self._gathered: list[Entry] = []
        self._size = 0
        self._woken = True
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    @property
    def horizon(self) -> int:
        """The revision up to which the follower may read before it is woken again."""
        return self._horizon

    def wake_up_to(self, head: int) -> None:
        """Wakes the follower, which may read up to `head`."""
        self._horizon = head
        self.wake()

    def gather(self, entries: list[Entry], head: int) -> None:
        """Adds the entries of one commit, which ends at `head`."""
        size = sum(entry.size for entry in entries)
        if self._gathered and (
            len(self._gathered) + len(entries) > STRETCH_ROWS or self._size + size > STRETCH_BYTES
        ):
            self._gathered, self._size, self.since = [], 0, head
        else:
            self._gathered.extend(entries)
            self._size += size

    def forget(self, head: int) -> None:
        """Drops the gathered rows; the follower's next read goes to the database."""
        self._gathered, self._size, self.since = [], 0, head
        self.wake_up_to(head)

    def take(self, after: int) -> list[Entry]:
        """Removes the gathered rows; returns those after a revision."""
        taken, self._gathered, self._size = self._gathered, [], 0
        self.since = self._hub.head
        if taken and taken[0].row.revision <= after:
            return [entry for entry in taken if entry.row.revision > after]
        return taken

    @property
    def waits_for_more(self) -> bool:
        """Whether no published row that the follower has not read concerns it."""
        if self.position >= self._hub.head:
            return True
        return self.kits is not None and not self._gathered and self.position >= self.since

    def wake(self) -> None:
        """Ends the wait of the follower, now or when it next begins one."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Waits until a new row may concern the follower, or the time is over."""
        self.position = self.horizon
        if not self._woken and seconds > 0:
            loop = asyncio.get_running_loop()
            self._until = loop.time() + seconds
            # One timer serves many waits, because most waits end before their time.
            if self._timer is None or self._timer.when() > self._until:
                self._set_timer(loop)
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._woken = False

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._until, self._time_is_over, loop)

    def _time_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if loop.time() < self._until:
            self._set_timer(loop)
        elif self._waiter is not None:
            if self.kits is not None:
                # Rows of other kits wake no follower of certain kits. Here the horizon moves over
                # them, so that the follower's bookmarks do, too.
                self._horizon = self._hub.head
            self.wake()

    def __enter__(self) -> Self:
        self._hub.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._hub.leave(self)


class Hub:
    """The newest rows of the log, and their followers in this process."""

    def __init__(
        self, head: int = 0, *, max_rows: int = RING_ROWS, max_bytes: int = RING_BYTES
    ) -> None:
        self.head = head
        """The last revision published; everything up to it is committed."""
        self.oldest = head + 1
        """The first revision still in memory; `head + 1` when none is."""
        self.missing = asyncio.Event()
        """Set when a commit arrived whose predecessors did not: the tail fetches them."""
        self._slots: list[Entry | None] = [None] * max_rows
        self._max_bytes = max_bytes
        self._bytes = 0
        self._everyone: Everything[Subscription] = Everything(head)
        self._concerned: Concerned[Subscription] = Concerned(head)
        self._by_kit: dict[int, set[Subscription]] = {}
        self._listeners: list[Callable[[Sequence[StateRow]], None]] = []
        self._on_skip: list[Callable[[], None]] = []
        self._awaited: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()

    def begin(self, head: int) -> None:
        """Starts at a head read from the database; no row before it is in memory."""
        if self.head < head:
            self.head = self._everyone.head = head
            self.oldest = head + 1

    def publish(self, rows: Sequence[StateRow]) -> None:
        """Takes in the rows of one or more commits, contiguous and in order.

        Rows that were published before are ignored. Rows after a gap are not published: revisions
        are dense, so another replica wrote those in between, and the tail brings all of them.

        Raises:
            ValueError: The rows themselves are not contiguous.
        """
        # The ledger and the tail may bring the same rows.
        rows = [row for row in rows if row.revision > self.head]
        if not rows:
            return
        if rows[-1].revision - rows[0].revision + 1 != len(rows):
            raise ValueError(f"rows {rows[0].revision} to {rows[-1].revision} have gaps")
        if rows[0].revision != self.head + 1:
            _log.info("rows %d to %d are still to come", self.head + 1, rows[0].revision - 1)
            self.missing.set()
            return
        entries = [Entry(row) for row in rows]
        self._remember(entries)
        self.head = rows[-1].revision
        self._gather(entries)
        for listener in self._listeners:
            listener(rows)
        self._release()

    advance_to = publish

    def skip_to(self, head: int) -> None:
        """Continues at a head whose earlier rows were deleted before this process read them.

        A follower that is further back reads from the database next, and gets an error there.
        """
        if head <= self.head:
            return
        self._slots = [None] * len(self._slots)
        self._bytes = 0
        self.begin(head)
        for subscription in self._followers():
            subscription.forget(head)
        for listener in self._on_skip:
            listener()
        self._release()

    def read(self, subscription: Subscription, after: int) -> Stretch | None:
        """The rows that a follower has not read yet, from memory.

        Returns:
            The next stretch, empty if there is no new row; None if the follower is so far behind
            that it must read from the database.
        """
        subscription.position = after
        if after >= self.head:
            return Stretch([], after)
        if subscription.kits is not None and after >= subscription.since:
            # No row of its kits is missing from what has gathered.
            return Stretch(subscription.take(after), self.head)
        if after + 1 < self.oldest:
            return None
        entries: list[Entry] = []
        size = 0
        for entry in self._range(after + 1):
            full = len(entries) >= STRETCH_ROWS or size >= STRETCH_BYTES
            if full and entry.row.batch != entries[-1].row.batch:
                break
            entries.append(entry)
            size += entry.size
        return Stretch(entries, entries[-1].row.revision)

    def subscribe(self, kits: Iterable[int] | None = None, who: str = "") -> Subscription:
        """A subscription to these kits, or to everything; it begins and ends with `with`."""
        return Subscription(self, None if kits is None else frozenset(kits), who)

    def enter(self, subscription: Subscription) -> None:
        """Adds a follower."""
        subscription.since = self.head
        subscription.wake_up_to(self.head)
        if subscription.kits is None:
            self._everyone.enter(subscription)
        else:
            for kit_id in subscription.kits:
                self._by_kit.setdefault(kit_id, set()).add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Removes a follower."""
        self._everyone.leave(subscription)
        self._concerned.leave(subscription)
        for kit_id in subscription.kits or ():
            followers = self._by_kit.get(kit_id)
            if followers is not None:
                followers.discard(subscription)
                if not followers:
                    del self._by_kit[kit_id]

    @property
    def awaited_count(self) -> int:
        """Number of callers that wait for a revision."""
        return len(self._awaited)

    @property
    def follower_count(self) -> int:
        """Number of followers of everything, plus number of kits with followers of their own."""
        return len(self._everyone) + len(self._by_kit)

    def lags(self) -> list[Lag]:
        """How far each follower is behind."""
        now = datetime.now(UTC)
        return [self._lag(follower, now) for follower in self._followers()]

    def _lag(self, follower: Subscription, now: datetime) -> Lag:
        if follower.waits_for_more:
            return Lag(0, 0.0, follower.who)
        entry = self._slots[max(follower.position + 1, self.oldest) % len(self._slots)]
        seconds = (now - entry.row.created_at).total_seconds() if entry is not None else 0.0
        return Lag(self.head - follower.position, max(0.0, seconds), follower.who)

    def wake_all(self) -> None:
        """Wakes every follower now, because something other than the log has changed."""
        for subscription in self._followers():
            subscription.wake_up_to(self.head)

    def _followers(self) -> set[Subscription]:
        return set(self._everyone.followers()).union(*self._by_kit.values())

    def listen(
        self,
        listener: Callable[[Sequence[StateRow]], None],
        on_skip: Callable[[], None] = lambda: None,
    ) -> None:
        """Calls a function with the rows of every commit, within `publish`.

        Args:
            listener: Receives the rows.
            on_skip: Called when rows are skipped because they are deleted already.
        """
        self._listeners.append(listener)
        self._on_skip.append(on_skip)

    def rows_after(self, revision: int) -> list[StateRow] | None:
        """The rows after a revision; None if the first of them has left the memory."""
        if revision >= self.head:
            return []
        if revision + 1 < self.oldest:
            return None
        return [entry.row for entry in self._range(revision + 1)]

    async def reached(self, revision: int) -> None:
        """Waits until the log has reached a revision in this process."""
        if revision > self.head:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._awaited, (revision, next(self._ticket), waiter))
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    self._awaited = [entry for entry in self._awaited if entry[2] is not waiter]
                    heapq.heapify(self._awaited)

    def _release(self) -> None:
        """Ends the waits for revisions up to the head."""
        while self._awaited and self._awaited[0][0] <= self.head:
            waiter = heapq.heappop(self._awaited)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _remember(self, entries: list[Entry]) -> None:
        """Puts entries into the ring, in place of the oldest if there is no room.

        A revision has the slot `revision % len(slots)`; those from `oldest` to the head are there.
        Of a commit larger than the whole ring only the end stays.
        """
        slots = self._slots
        for entry in entries:
            revision = entry.row.revision
            if revision - self.oldest >= len(slots):
                self._forget_oldest()
            slots[revision % len(slots)] = entry
            self._bytes += entry.size
        newest = entries[-1].row.revision
        while self._bytes > self._max_bytes and self.oldest < newest:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        slot = self.oldest % len(self._slots)
        entry = self._slots[slot]
        if entry is not None:
            self._bytes -= entry.size
            self._slots[slot] = None
        self.oldest += 1

    def _range(self, first: int) -> Iterable[Entry]:
        slots = self._slots
        for revision in range(first, self.head + 1):
            entry = slots[revision % len(slots)]
            assert entry is not None
            yield entry

    def _gather(self, entries: list[Entry]) -> None:
        """Gathers rows for the followers of their kits, and wakes the followers in turns."""
        if self._by_kit:
            concerned: dict[Subscription, list[Entry]] = {}
            for entry in entries:
                for subscription in self._by_kit.get(entry.row.kit_id, ()):
                    concerned.setdefault(subscription, []).append(entry)
            for subscription, theirs in concerned.items():
                subscription.gather(theirs, self.head)
                self._concerned.enter(subscription)
        for queue in (self._concerned, self._everyone):
            queue.head = self.head
            queue.serve()
