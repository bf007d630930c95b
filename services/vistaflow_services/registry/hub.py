"""Where the rows of the log go on their way to those who wait for them.

The hub holds the newest rows in memory and wakes whom they concern. It is fed
with whole commits, in order, by this process's ledger and by the tail of the
database, which sees what other replicas wrote; a row that both bring counts
once. Nothing here waits for anything: `Hub.publish` is one plain call.

A follower that keeps up reads from memory. One that falls behind the ring is
told so and reads from the database instead, so that neither the ring nor what
is kept for one follower grows without bound.
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
from vistaflow_services.registry.turns import Concerned, Everything

_log = logging.getLogger(__name__)

RING_ROWS = 20_000
RING_BYTES = 32 * 1024 * 1024
STRETCH_ROWS = 1_000
STRETCH_BYTES = 1024 * 1024
# About what a row costs in memory beside its texts and its serialised form.
_ROW_BYTES = 700
# The most that a row takes in a message beside its metadata and reason, which is less.
_ROW_WIRE_BYTES = 1_300
# The most that a value in metadata takes in a message beside its text: a number takes 8 bytes,
# and each of the messages around it has a tag and a length.
_VALUE_WIRE_BYTES = 24


class Entry:
    """A row on its way out, with its serialised form once somebody needed it."""

    __slots__ = ("_most", "before", "row", "size", "wire")

    def __init__(self, row: StateRow) -> None:
        self.row = row
        self.before: str | None = None
        """The status before; empty for a first row, None until somebody needed it."""
        self.size = _ROW_BYTES + len(row.metadata_json) + len(row.reason)
        self.wire: bytes | None = None
        self._most = 0

    @property
    def most(self) -> int:
        """At most how many bytes its serialised form has, known without making it."""
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
    """Everything that concerns the reader up to this revision is in it or before it."""


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
    """For how long the first of them waits; at least, if that one is no longer in memory."""
    who: str


class Subscription:
    """One follower's place at the hub, and what gathers for it while it is busy.

    A follower of certain kits has the rows of those kits gathered here, so that
    a commit wakes, and costs, only whom it concerns. If more gathers than a
    stretch, it is dropped and the follower reads from `since` backwards in the
    ring or the database.
    """

    def __init__(self, hub: Hub, kits: frozenset[int] | None, who: str = "") -> None:
        self.kits = kits
        self.who = who
        self.since = hub.head
        self.at = hub.head
        """How far the follower has looked, for those who look whether it keeps up."""
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
        """How far there is something to read now, rather than after the next wake."""
        return self._horizon

    def wake_up_to(self, head: int) -> None:
        """Wakes the follower; what comes after `head` is for the next time."""
        self._horizon = head
        self.wake()

    def gather(self, entries: list[Entry], head: int) -> None:
        """Keeps the entries of one commit, which ends at `head`."""
        size = sum(entry.size for entry in entries)
        if self._gathered and (
            len(self._gathered) + len(entries) > STRETCH_ROWS or self._size + size > STRETCH_BYTES
        ):
            self._gathered, self._size, self.since = [], 0, head
        else:
            self._gathered.extend(entries)
            self._size += size

    def forget(self, head: int) -> None:
        """Lets go what has gathered: the follower's next read finds out that more is gone."""
        self._gathered, self._size, self.since = [], 0, head
        self.wake_up_to(head)

    def take(self, after: int) -> list[Entry]:
        """Hands over what has gathered after a revision."""
        taken, self._gathered, self._size = self._gathered, [], 0
        self.since = self._hub.head
        if taken and taken[0].row.revision <= after:
            return [entry for entry in taken if entry.row.revision > after]
        return taken

    @property
    def waits_for_more(self) -> bool:
        """Whether nothing that is there concerns the follower."""
        if self.at >= self._hub.head:
            return True
        return self.kits is not None and not self._gathered and self.at >= self.since

    def wake(self) -> None:
        """Ends the wait of the follower, now or when it next begins one."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Waits until something may concern the follower, or the time is over."""
        self.at = self.horizon
        if not self._woken and seconds > 0:
            loop = asyncio.get_running_loop()
            self._until = loop.time() + seconds
            # One timer serves many waits, of which few come to their end.
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
                # What others wrote wakes nobody, but is known to be nothing of the follower's.
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
    """The newest rows of the log, and everyone who follows it in this process."""

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
        """Starts at a head learned from the database; nothing before it is in memory."""
        if self.head < head:
            self.head = self._everyone.head = head
            self.oldest = head + 1

    def publish(self, rows: Sequence[StateRow]) -> None:
        """Takes in the rows of one or more commits, contiguous and in order.

        Rows already known are ignored. Rows that leave a gap are not taken:
        revisions are dense, so a gap means that another replica wrote in between
        and the tail, woken here, brings all of them.

        Raises:
            ValueError: The rows themselves are not contiguous.
        """
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
        self._tell(entries)
        for listener in self._listeners:
            listener(rows)
        self._release()

    advance_to = publish

    def skip_to(self, head: int) -> None:
        """Goes on at a head before which nothing is kept any more, though it was not seen here.

        Whoever follows from further back reads from the database next, and is told there that its
        rows are gone.
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
        """What a follower has not seen yet, from memory.

        Returns:
            The next stretch, empty when there is nothing new, or None when the
            follower is so far behind that it must read from the database.
        """
        subscription.at = after
        if after >= self.head:
            return Stretch([], after)
        if subscription.kits is not None and after >= subscription.since:
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
        """A place for a follower of these kits, or of everything; enter it with `with`."""
        return Subscription(self, None if kits is None else frozenset(kits), who)

    def enter(self, subscription: Subscription) -> None:
        """Begins to tell a follower of new rows."""
        subscription.since = self.head
        subscription.wake_up_to(self.head)
        if subscription.kits is None:
            self._everyone.enter(subscription)
        else:
            for kit_id in subscription.kits:
                self._by_kit.setdefault(kit_id, set()).add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Forgets a follower."""
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
        """How many wait for a revision to come."""
        return len(self._awaited)

    @property
    def follower_count(self) -> int:
        """How many follow everything, and kits with followers of their own."""
        return len(self._everyone) + len(self._by_kit)

    def lags(self) -> list[Lag]:
        """How far each follower is behind."""
        now = datetime.now(UTC)
        return [self._lag(each, now) for each in self._followers()]

    def _lag(self, follower: Subscription, now: datetime) -> Lag:
        if follower.waits_for_more:
            return Lag(0, 0.0, follower.who)
        entry = self._slots[max(follower.at + 1, self.oldest) % len(self._slots)]
        seconds = (now - entry.row.created_at).total_seconds() if entry is not None else 0.0
        return Lag(self.head - follower.at, max(0.0, seconds), follower.who)

    def wake_all(self) -> None:
        """Wakes every follower now, so that it looks at what else changed."""
        for subscription in self._followers():
            subscription.wake_up_to(self.head)

    def _followers(self) -> set[Subscription]:
        return set(self._everyone.followers()).union(*self._by_kit.values())

    def listen(
        self,
        listener: Callable[[Sequence[StateRow]], None],
        on_skip: Callable[[], None] = lambda: None,
    ) -> None:
        """Calls a function with the rows of every commit, before anyone awaits again.

        Args:
            listener: Gets the rows.
            on_skip: Called where rows come no more, because they are no longer kept.
        """
        self._listeners.append(listener)
        self._on_skip.append(on_skip)

    def rows_after(self, revision: int) -> list[StateRow] | None:
        """The rows after a revision, or None if the first of them is not in memory any more."""
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
                    self._awaited = [each for each in self._awaited if each[2] is not waiter]
                    heapq.heapify(self._awaited)

    def _release(self) -> None:
        """Lets those go on who waited for a revision that is reached."""
        while self._awaited and self._awaited[0][0] <= self.head:
            waiter = heapq.heappop(self._awaited)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _remember(self, entries: list[Entry]) -> None:
        slots = self._slots
        # Only the end of a commit larger than the whole ring can stay.
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
        at = self.oldest % len(self._slots)
        entry = self._slots[at]
        if entry is not None:
            self._bytes -= entry.size
            self._slots[at] = None
        self.oldest += 1

    def _range(self, first: int) -> Iterable[Entry]:
        slots = self._slots
        for revision in range(first, self.head + 1):
            entry = slots[revision % len(slots)]
            assert entry is not None
            yield entry

    def _tell(self, entries: list[Entry]) -> None:
        if self._by_kit:
            told: dict[Subscription, list[Entry]] = {}
            for entry in entries:
                for subscription in self._by_kit.get(entry.row.kit_id, ()):
                    told.setdefault(subscription, []).append(entry)
            for subscription, theirs in told.items():
                subscription.gather(theirs, self.head)
                self._concerned.enter(subscription)
        for queue in (self._concerned, self._everyone):
            queue.head = self.head
            queue.serve()
