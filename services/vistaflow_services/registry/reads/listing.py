"""Pages of kits, jobs and rows, on any connection that holds one moment of the log."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from vistaflow_services.core.message_limits import Part, fitting
from vistaflow_services.registry.database import queries
from vistaflow_services.registry.database.kits import read_head
from vistaflow_services.registry.database.pool import Connection, Row
from vistaflow_services.registry.database.queries import fetch, fetch_planned
from vistaflow_services.registry.database.rows import (
    filter_parameters,
    to_counts,
    to_job,
    to_kit,
    to_row,
)
from vistaflow_services.registry.domain import (
    STATUS_PLACE,
    Counts,
    Head,
    Job,
    JobFilter,
    JobType,
    KitFilter,
    StateFilter,
    StateRow,
    Status,
)
from vistaflow_services.registry.reads import list_queries

TOO_FAR = 2**62
PAGE_BYTES = 2 * 1024 * 1024
"""About how much is read for a page of kits or jobs, whatever number was asked for. JSON may take
more room as a Struct: a page ends where its message is full."""

METADATA_BYTES = 1024 * 1024
"""The same for rows."""

FIRST_STATES = 50
"""Rows read for a page before it is known how large they are."""

CLOCK_STEP = timedelta(minutes=10)
"""How far the database's clock may have been set back; times are taken to rise otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some entries of a list."""

    entries: list[Any]
    next_key: int | None
    """Where the next page starts; None on the last."""
    revision: int
    """Revision of the log up to which the page is complete."""

    def filled(
        self, make: Callable[[Any], Part], key_of: Callable[[Any], int]
    ) -> tuple[list[Part], int | None]:
        """The messages of as many entries as fit one answer, and where the next page starts.

        Args:
            make: Makes the message of an entry.
            key_of: Where the page starts that comes after an entry.
        """
        parts = fitting(self.entries, make)
        if len(parts) == len(self.entries):
            return parts, self.next_key
        return parts, key_of(self.entries[len(parts) - 1])


async def kits(
    connection: Connection, chosen: KitFilter, *, before: int | None, limit: int
) -> Page:
    """Kits without their jobs, newest first; see `Store.list_kits`."""
    head = await read_head(connection)
    first, last = 0, before or 2**31 - 1
    if chosen.created_after or chosen.created_before:
        times = {
            "surely_after": chosen.created_after and _stepped(chosen.created_after, -1),
            "surely_before": chosen.created_before and _stepped(chosen.created_before, 1),
        }
        ((first, end),) = await fetch(connection, "kits_around", times)
        last = min(last, end)
    parameters = filter_parameters(chosen) | {
        "before": last,
        "after": first,
        "recent": min(last, head.last_kit_id) - list_queries.RECENT_KITS,
        "limit": limit + 1,
        "bytes": PAGE_BYTES,
    }
    text = list_queries.kits(
        by_status=bool(chosen.statuses), by_search=bool(chosen.labels or chosen.name_contains)
    )
    rows, more = _cut(await fetch_planned(connection, text, parameters), limit)
    page = [to_kit(row) for row in rows]
    return Page(entries=page, next_key=page[-1].kit_id if more else None, revision=head.last_id)


async def jobs(
    connection: Connection, chosen: JobFilter, *, before: int | None, limit: int
) -> Page:
    """Jobs, newest first, each with its tasks' counts; see `Store.list_jobs`."""
    head = await read_head(connection)
    parameters = filter_parameters(chosen) | {
        "before": before or TOO_FAR,
        "limit": limit + 1,
        "bytes": PAGE_BYTES,
        "each_type": list(chosen.job_types or JobType),
        "each_status": list(chosen.statuses or Status),
    }
    text = list_queries.jobs(
        # Kits and labels narrow more than types and statuses do.
        by_kind=bool(chosen.job_types or chosen.statuses) and not (chosen.kit_ids or chosen.labels),
        by_project=bool(chosen.project),
    )
    rows, more = _cut(await fetch_planned(connection, text, parameters), limit)
    page = [to_job(row) for row in rows]
    counts = await task_counts(connection, page)
    return Page(
        entries=[(job, counts.get(job.job_id)) for job in page],
        next_key=page[-1].first_revision if more else None,
        revision=head.last_id,
    )


async def states(connection: Connection, chosen: StateFilter, *, after: int, limit: int) -> Page:
    """Rows of the log after a revision, in order; see `Store.list_states`."""
    head = await read_head(connection)
    kit_ids = await _kits_of(connection, chosen)
    if kit_ids == []:
        return Page(entries=[], next_key=None, revision=head.last_id)
    first, last = await _bounds(connection, chosen, head, after)
    part = await _part(connection, kit_ids, head, first, last)
    parameters = filter_parameters(chosen) | {"kit_ids": kit_ids, "until": part.last}
    rows, more = await _rows_that_fit(connection, part, parameters, limit)
    if more:
        next_key: int | None = rows[-1].revision
    else:
        next_key = part.last if part.last < last else None
    return Page(entries=rows, next_key=next_key, revision=head.last_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one page reads of the log: the rows after `after`, up to `last`, by which query."""

    after: int
    last: int
    query: LiteralString


async def _bounds(
    connection: Connection, chosen: StateFilter, head: Head, after: int
) -> tuple[int, int]:
    """The revisions between which all rows are: after the first, up to the second.

    Times of the filter only narrow them: the query still compares the times of all rows between.
    """
    first, last = after, head.last_id
    if chosen.recorded_after is not None:
        near = await _revision_near(connection, chosen.recorded_after, -1)
        # The times of rows that retention dropped are not known, so those that were kept of them
        # cannot be skipped by time.
        if near >= head.oldest_id:
            first = max(after, near)
    if chosen.recorded_before is not None:
        last = min(last, await _revision_near(connection, chosen.recorded_before, 1))
    return first, last


async def _part(
    connection: Connection, kit_ids: list[int] | None, head: Head, first: int, last: int
) -> _Part:
    """What to read of the log between two revisions, and how.

    ======================  ====================  ========================================
    where the page starts   kits of the filter    read for one page
    ======================  ====================  ========================================
    in what retention kept  any                   all that was kept: it is a table apart
    in the log              all                   `SCAN_ROWS` rows, in the order of the log
    in the log              with few rows         all rows of these kits, found and sorted
    in the log              with many rows        as for all, from the first row of any on
    ======================  ====================  ========================================
    """
    if first + 1 < head.oldest_id:
        query = list_queries.states(dropped=True, by_kit=bool(kit_ids), walked=False)
        return _Part(after=first, last=min(last, head.oldest_id - 1), query=query)
    walked = False
    if kit_ids:
        few = {"kit_ids": kit_ids, "few": queries.FEW_ROWS}
        ((walked,),) = await fetch(connection, "kits_are_large", few)
        if walked:
            ((start,),) = await fetch(connection, "kits_begin", {"kit_ids": kit_ids})
            first = max(first, start - 1)
    query = list_queries.states(dropped=False, by_kit=bool(kit_ids), walked=walked)
    if not kit_ids or walked:
        last = min(last, first + queries.SCAN_ROWS)
    return _Part(after=first, last=last, query=query)


async def _rows_that_fit(
    connection: Connection, part: _Part, parameters: Mapping[str, Any], limit: int
) -> tuple[list[StateRow], bool]:
    """At most `limit` rows of about `METADATA_BYTES`, and whether the part has more of them.

    The database unpacks the metadata of as many rows as a statement asks for, to see how many fit.
    So a few are read first, and then as many of their size as there is room for.
    """
    rows: list[StateRow] = []
    after, room = part.after, METADATA_BYTES
    step = min(limit, FIRST_STATES)
    while True:
        bounds = {"after": after, "limit": step + 1, "bytes": room}
        batch, more = _cut(
            await fetch_planned(connection, part.query, {**parameters, **bounds}), step
        )
        read = [to_row(row) for row in batch]
        rows += read
        room -= sum(len(row.metadata_json) + len(row.reason) for row in read)
        # Fewer rows than the step: the statement stopped where the room ended.
        if not more or len(read) < step or len(rows) == limit or room <= 0:
            return rows, more
        after = rows[-1].revision
        average = (METADATA_BYTES - room) // len(rows)
        step = min(limit - len(rows), max(FIRST_STATES, room // max(1, average)))


async def task_counts(connection: Connection, jobs: Sequence[Job]) -> dict[uuid.UUID, Counts]:
    """The tasks of jobs by status, of those that have any."""
    if not jobs:
        return {}
    ids = {
        "kit_ids": list({job.kit_id for job in jobs}),
        "job_ids": [job.job_id for job in jobs],
    }
    counts: dict[uuid.UUID, list[int]] = {}
    for job_id, status, number in await fetch(connection, "task_counts", ids):
        counts.setdefault(job_id, [0] * len(STATUS_PLACE))[STATUS_PLACE[status]] = number
    return {job_id: to_counts(count) for job_id, count in counts.items()}


def _cut(rows: list[Row], limit: int) -> tuple[list[Row], bool]:
    """At most `limit` rows, and whether there are more; each row ends with how many were found."""
    page = rows[:limit]
    return page, bool(rows) and rows[0][-1] > len(page)


async def _kits_of(connection: Connection, chosen: StateFilter) -> list[int] | None:
    """The only kits whose rows a filter can match; None: any. The log has an index of kits."""
    if not chosen.job_ids:
        return list(chosen.kit_ids) or None
    rows = await fetch(connection, "kits_of_jobs", {"job_ids": list(chosen.job_ids)})
    kits = {row[1] for row in rows}
    return list(kits & chosen.kit_ids if chosen.kit_ids else kits)


def _stepped(time: datetime, side: int) -> datetime:
    """A time so much earlier (-1) or later (1) that no clock that was set can make up for it."""
    try:
        return time + side * CLOCK_STEP
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if side > 0 else datetime.min.replace(tzinfo=UTC)


async def _revision_near(connection: Connection, time: datetime, side: int) -> int:
    """A revision surely before (-1) or after (1) the rows of a time, however clocks were set."""
    around = {"time": _stepped(time, side)}
    ((revision, _),) = await fetch(connection, "revision_at", around)
    return int(revision)
