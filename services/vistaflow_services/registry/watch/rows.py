"""Chooses the rows of a stretch of the log for a watch, and makes its message.

Rows that no watch needs are not serialised; rows that many watches need are serialised once.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vistaflow_services.core.lru import Lru
from vistaflow_services.registry.domain import Counts, StateFilter, StateRow
from vistaflow_services.registry.log.hub import STRETCH_BYTES, STRETCH_ROWS, Entry, Stretch
from vistaflow_services.registry.watch import encode
from vistaflow_services.registry.watch.store import UNKNOWN, WatchStore

# Rows that are read, at most, for one message with the latest row of each task.
FOLD_ROWS = 50_000
_SHARED_BYTES = 4 * STRETCH_BYTES
_LABELS_KEPT = 50_000
_HELD_COUNTS = 10_000

_Key = tuple[uuid.UUID, str]


@dataclass(kw_only=True)
class Watch:
    """One watch: its options and its position in the log."""

    filter: StateFilter
    interval: float
    """Longest time without a message, in seconds."""
    position: int
    """Every row that concerns the watch up to this revision was delivered."""
    latest: bool = False
    """Whether only the latest waiting row of each task is delivered."""
    include_left: bool = False
    """Whether rows by which a job or task leaves the statuses of the filter are delivered."""
    from_snapshot: bool = False
    """Whether it starts with a snapshot."""
    turn: contextlib.AbstractAsyncContextManager[Any] = field(
        default_factory=contextlib.nullcontext
    )
    """Held from the reading of rows until they are handed over; watches may share it."""
    page_rows: int = 250
    large: bool = False
    """Whether its kits have many rows, as an earlier page has shown."""
    held_counts: Lru[int, Counts] = field(default_factory=lambda: Lru(_HELD_COUNTS))
    """New counts of kits, to be sent with the next row of the kit that matches the filter."""

    def __post_init__(self) -> None:
        self.any_status = replace(self.filter, statuses=frozenset())
        """The filter without its statuses."""
        self.filtered = bool(self.filter)
        """Whether it is a watch of less than everything."""

    @property
    def read(self) -> StateFilter:
        """The filter of the rows that are read from the database for it."""
        return self.any_status if self.include_left else self.filter

    @property
    def picks_rows(self) -> bool:
        """Whether some rows of a kit may match and others not."""
        return self.filter.of_rows


class Fold:
    """Rows for one message.

    Args:
        latest: Whether a later row of a task replaces an earlier one.
    """

    def __init__(self, *, latest: bool) -> None:
        self.counts: dict[int, Counts] = {}
        self.folded = 0
        """Number of rows that later rows of the same task replaced."""
        self.seen = 0
        """Number of rows that were read for this message."""
        self._latest = latest
        self._size = 0
        self._rows: dict[Any, tuple[Entry, bool]] = {}

    def add(self, entry: Entry, left: bool) -> None:
        """Adds a row; rows come in revision order."""
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
            before: The position of the watch.
            through: Its position after the last message.
        """
        if not self._rows:
            return []
        entered = [entry for entry, left in self._rows.values() if not left]
        left = [entry for entry, left in self._rows.values() if left]
        return encode.deltas(
            entered, self.counts, through, before=before, left=left, folded=self.folded
        )


class RowPicker:
    """Chooses the rows of watches.

    Args:
        store: Reads the labels of kits and earlier rows.
    """

    def __init__(self, store: WatchStore) -> None:
        self._store = store
        self._labels: Lru[int, dict[str, str]] = Lru(_LABELS_KEPT)
        self._shared: Lru[tuple[int, int, bool], bytes] = Lru(_SHARED_BYTES, least=1)

    def shared(self, watch: Watch, through: int) -> bytes | None:
        """The delta from a watch's position to a revision, if it was made for another already."""
        return (
            None if watch.filtered else self._shared.peek((watch.position, through, watch.latest))
        )

    async def messages(self, watch: Watch, stretch: Stretch) -> list[bytes]:
        """The delta of one stretch; no message if no row of it matches."""
        shared = self.shared(watch, stretch.through)
        if shared is not None or not stretch.entries:
            return [] if shared is None else [shared]
        fold = Fold(latest=watch.latest)
        await self.pick(watch, stretch, fold)
        messages = fold.messages(watch.position, stretch.through)
        if not watch.filtered and len(messages) == 1:
            place = (watch.position, stretch.through, watch.latest)
            self._shared.put(place, messages[0], len(messages[0]))
        return messages

    async def pick(self, watch: Watch, stretch: Stretch, fold: Fold) -> None:
        """Adds the rows of a stretch that match, and the new counts of their kits, to a fold."""
        fold.seen += len(stretch.entries)
        if not watch.filtered:
            for entry in stretch.entries:
                fold.add(entry, False)
            fold.counts |= _latest_counts(entry.row for entry in stretch.entries)
            return
        await self._learn_labels(watch.filter, stretch.entries)
        leaving = await self._leaving(watch, stretch.entries) if watch.include_left else frozenset()
        touched: dict[int, None] = {}
        of_kits: list[StateRow] = []
        kits = StateFilter(
            kit_ids=watch.filter.kit_ids,
            labels=watch.filter.labels,
            project=watch.filter.project,
        )
        for entry in stretch.entries:
            row = entry.row
            labels = self._labels.peek(row.kit_id)
            left = row.revision in leaving
            if left or watch.filter.matches(row, labels):
                fold.add(entry, left)
                touched[row.kit_id] = None
            if row.kit_counts is not None and kits.matches(row, labels):
                of_kits.append(row)
        fold.counts |= _counts_to_send(watch, touched, _latest_counts(of_kits))

    async def _leaving(self, watch: Watch, entries: Iterable[Entry]) -> frozenset[int]:
        """The rows by which a job or task leaves the statuses of the watch's filter.

        Such a row has another status, and the row before it a status of the filter. The row before
        is in the same stretch, or is looked up once for all watches. So a watch does not remember
        the rows that it has received, and may resume anywhere.
        """
        statuses = watch.filter.statuses
        if not statuses:
            return frozenset()
        last: dict[_Key, str] = {}
        out: list[Entry] = []
        unknown: list[Entry] = []
        for entry in entries:
            row = entry.row
            if not watch.any_status.matches(row, self._labels.peek(row.kit_id)):
                continue
            key = (row.job_id, row.task_name)
            if entry.before is None:
                entry.before = last.get(key)
            last[key] = row.status
            if row.status not in statuses:
                out.append(entry)
                if entry.before is None:
                    unknown.append(entry)
        if unknown:
            before = await self._store.statuses_before([entry.row for entry in unknown])
            for entry in unknown:
                entry.before = before.get(entry.row.revision, "")
        # A row whose predecessor was deleted counts as one that leaves: better one row too many
        # than a job that seems to stay in the filter.
        return frozenset(
            entry.row.revision
            for entry in out
            if entry.before in statuses or entry.before == UNKNOWN
        )

    async def _learn_labels(self, matching: StateFilter, entries: Iterable[Entry]) -> None:
        """Reads the labels of the kits of these rows, if the filter needs them.

        Labels never change. All kits of a stretch fit into the mapping.
        """
        if not matching.of_kits:
            return
        needed = {entry.row.kit_id for entry in entries}
        unknown = {kit_id for kit_id in needed if self._labels.get(kit_id) is None}
        if unknown:
            labels = await self._store.labels(unknown)
            for kit_id in unknown:
                self._labels.put(kit_id, labels.get(kit_id, {}))


def _counts_to_send(
    watch: Watch, touched: Iterable[int], counts: Mapping[int, Counts]
) -> Mapping[int, Counts]:
    """The counts to send with rows of the kits touched; the others are held for later."""
    if not watch.picks_rows:
        return counts
    held = watch.held_counts
    due: dict[int, Counts] = {}
    for kit_id in touched:
        latest = counts.get(kit_id) or held.pop(kit_id)
        if latest is not None:
            due[kit_id] = latest
    for kit_id, kit_counts in counts.items():
        if kit_id in due:
            held.pop(kit_id)
        else:
            held.put(kit_id, kit_counts)
    return due


def _latest_counts(rows: Iterable[StateRow]) -> dict[int, Counts]:
    """The counts of each kit after the last of the rows."""
    return {row.kit_id: row.kit_counts for row in rows if row.kit_counts is not None}
