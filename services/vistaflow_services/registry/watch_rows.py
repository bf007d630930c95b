"""Which rows of a stretch of the log a watch is sent, and its message.

Rows that concern nobody are not serialised; what many watchers want is serialised once.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vistaflow_services.registry import wire
from vistaflow_services.registry.domain import Counts, StateFilter, StateRow
from vistaflow_services.registry.hub import STRETCH_BYTES, STRETCH_ROWS, Entry, Stretch
from vistaflow_services.registry.watch_store import UNKNOWN, WatchStore

# Rows that are looked at, at most, for one message that tells the latest of each task.
FOLD_ROWS = 50_000
_SHARED_BYTES = 4 * STRETCH_BYTES
_LABELS_KEPT = 50_000
_HELD_COUNTS = 10_000

_Key = tuple[uuid.UUID, str]


@dataclass(kw_only=True)
class Watch:
    """One watch: what it wants and how far it is."""

    wanted: StateFilter
    interval: float
    at: int
    """Everything that concerns it up to here was delivered."""
    latest: bool = False
    """Of rows that wait only the latest of each task is delivered."""
    include_left: bool = False
    """Whether rows by which a job or task leaves the statuses wanted are told."""
    begin_anew: bool = False
    """Whether it starts with a snapshot."""
    turn: contextlib.AbstractAsyncContextManager[Any] = field(
        default_factory=contextlib.nullcontext
    )
    """Held while rows are read for it and until they are handed over; may be shared."""
    page_rows: int = 250
    large: bool = False
    """Whether its kits are known to have many rows."""
    held_counts: OrderedDict[int, Counts] = field(default_factory=OrderedDict)
    """New counts of kits none of whose rows was wanted since; told with the next that is."""

    def __post_init__(self) -> None:
        self.wide = replace(self.wanted, statuses=frozenset())
        """The filter whatever the status."""
        self.filtered = bool(self.wanted)
        """Whether it wants less than everything."""

    @property
    def read(self) -> StateFilter:
        """What is read from the database for it."""
        return self.wide if self.include_left else self.wanted

    @property
    def picks_rows(self) -> bool:
        """Whether it may want some rows of a kit and not others."""
        return self.wanted.of_rows


class Fold:
    """Rows for one message.

    Args:
        latest: Whether a later row of a task takes the place of an earlier one.
    """

    def __init__(self, *, latest: bool) -> None:
        self.counts: dict[int, Counts] = {}
        self.folded = 0
        """Rows that later ones of the same task took the place of."""
        self.seen = 0
        self._latest = latest
        self._size = 0
        self._rows: dict[Any, tuple[Entry, bool]] = {}

    def add(self, entry: Entry, left: bool) -> None:
        """Takes a row in; rows come in revision order."""
        key: Any = entry.row.revision
        if self._latest:
            key = (entry.row.job_id, entry.row.task_name)
            before = self._rows.pop(key, None)
            if before is not None:
                self.folded += 1
                self._size -= before[0].size
        self._rows[key] = (entry, left)
        self._size += entry.size

    @property
    def full(self) -> bool:
        """Whether the message is large enough."""
        return (
            len(self._rows) >= STRETCH_ROWS or self._size >= STRETCH_BYTES or self.seen >= FOLD_ROWS
        )

    def messages(self, before: int, through: int) -> list[bytes]:
        """The delta, in several messages if it does not fit one; none if it has no content.

        Args:
            before: How far the watcher is.
            through: How far it is with the last message.
        """
        if not self._rows:
            return []
        entered = [entry for entry, left in self._rows.values() if not left]
        left = [entry for entry, left in self._rows.values() if left]
        return wire.deltas(
            entered, self.counts, through, before=before, left=left, folded=self.folded
        )


class RowPicker:
    """Picks the rows of watches.

    Args:
        store: Where labels of kits and earlier rows are read.
    """

    def __init__(self, store: WatchStore) -> None:
        self._store = store
        self._labels: OrderedDict[int, dict[str, str]] = OrderedDict()
        self._shared: OrderedDict[tuple[int, int, bool], bytes] = OrderedDict()
        self._shared_bytes = 0

    def shared(self, watch: Watch, through: int) -> bytes | None:
        """The delta from a watch's place to a revision, if it was made for another already."""
        return None if watch.filtered else self._shared.get((watch.at, through, watch.latest))

    async def messages(self, watch: Watch, stretch: Stretch) -> list[bytes]:
        """The delta of one stretch; no message when nothing of it is wanted."""
        shared = self.shared(watch, stretch.through)
        if shared is not None or not stretch.entries:
            return [] if shared is None else [shared]
        fold = Fold(latest=watch.latest)
        await self.pick(watch, stretch, fold)
        messages = fold.messages(watch.at, stretch.through)
        if not watch.filtered and len(messages) == 1:
            self._shared[watch.at, stretch.through, watch.latest] = messages[0]
            self._shared_bytes += len(messages[0])
            while self._shared_bytes > _SHARED_BYTES and len(self._shared) > 1:
                self._shared_bytes -= len(self._shared.popitem(last=False)[1])
        return messages

    async def pick(self, watch: Watch, stretch: Stretch, fold: Fold) -> None:
        """Puts what a watch wants of a stretch into a fold, with the counts of the kits touched."""
        fold.seen += len(stretch.entries)
        if not watch.filtered:
            for entry in stretch.entries:
                fold.add(entry, False)
            fold.counts |= _latest_counts(entry.row for entry in stretch.entries)
            return
        await self._learn_labels(watch.wanted, stretch.entries)
        leaving = await self._leaving(watch, stretch.entries) if watch.include_left else frozenset()
        touched: dict[int, None] = {}
        of_kits: list[StateRow] = []
        kits = StateFilter(
            kit_ids=watch.wanted.kit_ids,
            labels=watch.wanted.labels,
            project=watch.wanted.project,
        )
        for entry in stretch.entries:
            row = entry.row
            labels = self._labels.get(row.kit_id)
            left = row.revision in leaving
            if left or watch.wanted.matches(row, labels):
                fold.add(entry, left)
                touched[row.kit_id] = None
            if row.kit_counts is not None and kits.matches(row, labels):
                of_kits.append(row)
        fold.counts |= _told_counts(watch, touched, _latest_counts(of_kits))

    async def _leaving(self, watch: Watch, entries: Iterable[Entry]) -> frozenset[int]:
        """The rows by which a job or task leaves the statuses that the watch wants.

        The row before tells: from the same stretch, or looked up once for all watchers. So a
        watch need not remember what it was sent, however much that is, and may resume anywhere.
        """
        wanted = watch.wanted.statuses
        if not wanted:
            return frozenset()
        last: dict[_Key, str] = {}
        out: list[Entry] = []
        asked: list[Entry] = []
        for entry in entries:
            row = entry.row
            if not watch.wide.matches(row, self._labels.get(row.kit_id)):
                continue
            key = (row.job_id, row.task_name)
            if entry.before is None:
                entry.before = last.get(key)
            last[key] = row.status
            if row.status not in wanted:
                out.append(entry)
                if entry.before is None:
                    asked.append(entry)
        if asked:
            found = await self._store.statuses_before([entry.row for entry in asked])
            for entry in asked:
                entry.before = found.get(entry.row.revision, "")
        return frozenset(
            entry.row.revision for entry in out if entry.before in wanted or entry.before == UNKNOWN
        )

    async def _learn_labels(self, wanted: StateFilter, entries: Iterable[Entry]) -> None:
        """Makes the labels of the kits of these rows known. They never change."""
        if not wanted.of_kits:
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


def _told_counts(
    watch: Watch, touched: Iterable[int], counts: Mapping[int, Counts]
) -> Mapping[int, Counts]:
    """The counts to tell with rows of the kits touched; the others are held for later."""
    if not watch.picks_rows:
        return counts
    held = watch.held_counts
    held.update(counts)
    told = {kit_id: held.pop(kit_id) for kit_id in touched if kit_id in held}
    while len(held) > _HELD_COUNTS:
        held.popitem(last=False)
    return told


def _latest_counts(rows: Iterable[StateRow]) -> dict[int, Counts]:
    """The counts of each kit after the last of the rows."""
    return {row.kit_id: row.kit_counts for row in rows if row.kit_counts is not None}
