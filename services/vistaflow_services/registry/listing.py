"""Pages of kits, jobs and rows, on any connection that holds one moment of the log."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from vistaflow_services.core.message_limits import Part, fitting
from vistaflow_services.registry import list_texts, watch_store
from vistaflow_services.registry.domain import (
    STATUS_PLACE,
    Counts,
    Job,
    JobType,
    StateFilter,
    StateRow,
    Status,
)
from vistaflow_services.registry.reading import (
    Connection,
    fetch,
    fetch_planned,
    read_head,
    to_job,
)
from vistaflow_services.registry.watch_store import (
    Row,
    filter_parameters,
    to_counts,
    to_kit,
    to_row,
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class KitsWanted:
    """A page of kits; what is empty does not restrict."""

    before: int | None
    """Only kits with lower ids."""
    limit: int
    project: str
    statuses: tuple[str, ...]
    labels: Mapping[str, str]
    name_contains: str
    created_after: datetime | None
    created_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsWanted:
    """A page of jobs; what is empty does not restrict."""

    before: int | None
    """Only jobs whose first rows have lower revisions."""
    limit: int
    kit_ids: tuple[int, ...]
    job_types: tuple[str, ...]
    statuses: tuple[str, ...]
    labels: Mapping[str, str]
    project: str


async def kits(connection: Connection, wanted: KitsWanted) -> Page:
    """Kits without their jobs, newest first."""
    head = await read_head(connection)
    first, before = 0, wanted.before or 2**31 - 1
    if wanted.created_after or wanted.created_before:
        times = {
            "surely_after": wanted.created_after and _stepped(wanted.created_after, -1),
            "surely_before": wanted.created_before and _stepped(wanted.created_before, 1),
        }
        ((first, last),) = await fetch(connection, "kits_around", times)
        before = min(before, last)
    asked = {
        "before": before,
        "after": first,
        "recent": min(before, head.last_kit_id) - list_texts.RECENT_KITS,
        "limit": wanted.limit + 1,
        "bytes": PAGE_BYTES,
        "project": wanted.project,
        "statuses": list(wanted.statuses) or None,
        "labels": Jsonb(dict(wanted.labels)) if wanted.labels else None,
        "contains": wanted.name_contains,
        "created_after": wanted.created_after,
        "created_before": wanted.created_before,
    }
    text = list_texts.kits(
        by_status=bool(wanted.statuses), by_search=bool(wanted.labels or wanted.name_contains)
    )
    rows, more = _cut(await fetch_planned(connection, text, asked), wanted.limit)
    found = [to_kit(row) for row in rows]
    return Page(entries=found, next_key=found[-1].kit_id if more else None, revision=head.last_id)


async def jobs(connection: Connection, wanted: JobsWanted) -> Page:
    """Jobs, newest first, each with its tasks' counts in place of its tasks."""
    head = await read_head(connection)
    asked = {
        "before": wanted.before or TOO_FAR,
        "limit": wanted.limit + 1,
        "bytes": PAGE_BYTES,
        "kit_ids": list(wanted.kit_ids) or None,
        "project": wanted.project,
        "job_types": list(wanted.job_types) or None,
        "statuses": list(wanted.statuses) or None,
        "labels": Jsonb(dict(wanted.labels)) if wanted.labels else None,
        "each_type": list(wanted.job_types or JobType),
        "each_status": list(wanted.statuses or Status),
    }
    text = list_texts.jobs(
        # Kits and labels narrow more than types and statuses do.
        by_kind=bool(wanted.job_types or wanted.statuses) and not (wanted.kit_ids or wanted.labels),
        by_project=bool(wanted.project),
    )
    rows, more = _cut(await fetch_planned(connection, text, asked), wanted.limit)
    found = [to_job(row) for row in rows]
    counts = await task_counts(connection, found)
    return Page(
        entries=[(job, counts.get(job.job_id)) for job in found],
        next_key=found[-1].first_revision if more else None,
        revision=head.last_id,
    )


async def states(connection: Connection, wanted: StateFilter, *, after: int, limit: int) -> Page:
    """Rows after a revision that a filter wants, in order; see `Store.list_states`."""
    head = await read_head(connection)
    end = head.last_id
    start = after
    if wanted.recorded_after is not None:
        near = await _revision_near(connection, wanted.recorded_after, -1)
        # Before the oldest row of the log it cannot tell when what is kept was recorded.
        start = max(after, near) if near >= head.oldest_id else after
    if wanted.recorded_before is not None:
        end = min(end, await _revision_near(connection, wanted.recorded_before, 1))
    kit_ids = await _kits_of(connection, wanted)
    if kit_ids == []:
        return Page(entries=[], next_key=None, revision=head.last_id)
    kept = start + 1 < head.oldest_id
    walked = False
    if kit_ids and not kept:
        of_kits = {"kit_ids": kit_ids}
        ((walked,),) = await fetch(
            connection, "kits_are_large", {**of_kits, "few": watch_store.FEW_ROWS}
        )
        if walked:
            ((first,),) = await fetch(connection, "kits_begin", of_kits)
            start = max(start, first - 1)
    if kept:
        through = min(end, head.oldest_id - 1)
    elif kit_ids and not walked:
        through = end
    else:
        through = min(end, start + watch_store.SCAN_ROWS)
    asked = filter_parameters(wanted) | {"kit_ids": kit_ids, "until": through}
    text = list_texts.states(kept=kept, by_kit=bool(kit_ids), walked=walked)
    rows: list[StateRow] = []
    room = METADATA_BYTES
    # The database unpacks the metadata of as many rows as may be wanted, to see how many fit. So a
    # few are read first, and then as many of their size as there is room for.
    step = min(limit, FIRST_STATES)
    while True:
        asked |= {"after": start, "limit": step + 1, "bytes": room}
        found, more = _cut(await fetch_planned(connection, text, asked), step)
        some = [to_row(row) for row in found]
        rows += some
        room -= sum(len(row.metadata_json) + len(row.reason) for row in some)
        if not more or len(some) < step or len(rows) == limit or room <= 0:
            break
        start = rows[-1].revision
        each = (METADATA_BYTES - room) // len(rows)
        step = min(limit - len(rows), max(FIRST_STATES, room // max(1, each)))
    next_key = rows[-1].revision if more else through if through < end else None
    return Page(entries=rows, next_key=next_key, revision=head.last_id)


async def task_counts(connection: Connection, jobs: Sequence[Job]) -> dict[uuid.UUID, Counts]:
    """The tasks of jobs by status, of those that have any."""
    if not jobs:
        return {}
    wanted = {
        "kit_ids": list({job.kit_id for job in jobs}),
        "job_ids": [job.job_id for job in jobs],
    }
    counts: dict[uuid.UUID, list[int]] = {}
    for job_id, status, number in await fetch(connection, "task_counts", wanted):
        counts.setdefault(job_id, [0] * len(STATUS_PLACE))[STATUS_PLACE[status]] = number
    return {job_id: to_counts(each) for job_id, each in counts.items()}


def _cut(rows: list[Row], limit: int) -> tuple[list[Row], bool]:
    """At most `limit` rows, and whether there are more; each row ends with how many were found."""
    kept = rows[:limit]
    return kept, bool(rows) and rows[0][-1] > len(kept)


async def _kits_of(connection: Connection, wanted: StateFilter) -> list[int] | None:
    """The only kits that rows wanted can be of, as the log is found by; None: any."""
    if not wanted.job_ids:
        return list(wanted.kit_ids) or None
    rows = await fetch(connection, "kits_of_jobs", {"job_ids": list(wanted.job_ids)})
    kits = {row[1] for row in rows}
    return list(kits & wanted.kit_ids if wanted.kit_ids else kits)


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
