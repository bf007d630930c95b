"""What is read from, and written to, Postgres for those who watch and those who run jobs.

The SQL lies in `sql/watch_queries.sql`. Values in and out are domain values.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.core.errors import ExpiredError
from vistaflow_services.registry.connections import Connections
from vistaflow_services.registry.connections import Row as Row
from vistaflow_services.registry.domain import (
    PROJECT_LABEL,
    Counts,
    Kit,
    Progress,
    StateFilter,
    StateRow,
)

# How much of the log one statement may read through for a filter that few rows match.
SCAN_ROWS = 200_000
# Up to so many rows of the kits wanted are found by kit and sorted for every page.
FEW_ROWS = 10_000
UNKNOWN = "?"
"""The status before of a row whose predecessor may no longer be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows read from the log."""

    rows: list[StateRow]
    """In revision order; whole appends only."""
    through: int
    """Every row that was asked for up to this revision is in it."""
    epoch: str
    """The log's name when it was read."""
    large: bool = False
    """Whether the kits asked for have many rows, which does not change any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Where the log ends and begins."""

    head: int
    oldest: int
    epoch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An attempt held by a worker."""

    job_id: uuid.UUID
    attempt: int
    worker: str
    overdue: bool = False
    """Whether the worker is alive but the attempt runs on after the job's timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job is."""

    job_id: uuid.UUID
    status: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A sign of life of one attempt, with its progress if it told any."""

    job_id: uuid.UUID
    attempt: int
    progress: Progress | None = None


class Snapshot:
    """The current rows a filter wants, as they were at one revision."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Row], queries: Mapping[str, LiteralString]
    ) -> None:
        self._connection = connection
        self._queries = queries
        self.revision = 0
        self.epoch = ""

    async def begin(self) -> None:
        """Fixes the moment."""
        cursor = await self._connection.execute(self._queries["log_ends"])
        row = await cursor.fetchone()
        assert row is not None
        self.revision, self.epoch = row[0], row[2]

    async def rows(self, wanted: StateFilter, page: int) -> AsyncIterator[list[StateRow]]:
        """The rows in revision order, a page at a time."""
        async with self._connection.cursor(name="snapshot") as cursor:
            cursor.itersize = page
            await cursor.execute(self._queries["current_rows"], filter_parameters(wanted))
            while fetched := await cursor.fetchmany(page):
                yield [to_row(row) for row in fetched]

    async def kits(self, kit_ids: Collection[int]) -> list[Kit]:
        """These kits without their jobs, as they were at the same moment."""
        cursor = await self._connection.execute(
            self._queries["kits_by_id"], {"kit_ids": list(kit_ids)}
        )
        return [to_kit(row) for row in await cursor.fetchall()]


class WatchStore:
    """The registry's tables, for watching and leasing.

    Args:
        pool: Connections whose search path is the registry's schema.
        queries: The texts of `sql/watch_queries.sql`, by name.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]],
        queries: Mapping[str, LiteralString],
    ) -> None:
        self._pool = pool
        self._connections = Connections(pool)
        self._queries = queries

    async def ends(self) -> Ends:
        """Where the log ends and begins."""
        (row,) = await self.fetch("log_ends", {})
        return Ends(head=row[0], oldest=row[1], epoch=row[2])

    async def now(self) -> datetime:
        """The database's clock."""
        ((now,),) = await self.fetch("database_now", {})
        moment: datetime = now
        return moment

    async def page(
        self, wanted: StateFilter, after: int, until: int, limit: int, *, large: bool = False
    ) -> Page:
        """The next rows of `(after, until]` that a filter wants, about `limit` of them.

        Jobs' own rows of matching kits come along whatever else the filter says. Appends are
        not split: the page ends before the first that does not fit, and one larger than the
        page comes whole.

        The rows of few kits are found by kit and sorted. But for a kit of millions of rows that
        would sort all of them for every page; then the log is walked in its own order, so much
        of it a page, from where the kit begins. Nothing needs an index by kit and revision, which
        would cost every append for the sake of this.

        Args:
            wanted: Which rows.
            after: Where the page begins, exclusive.
            until: Where it ends at the latest, inclusive; the end of an append.
            limit: About how many rows.
            large: Whether the kits are known to have many rows, from an earlier page.
        """
        name = "log_page"
        begin = after
        if wanted.kit_ids:
            kits = {"kit_ids": list(wanted.kit_ids)}
            if not large:
                ((large,),) = await self.fetch("kits_are_large", kits | {"few": FEW_ROWS})
                if large:
                    ((first,),) = await self.fetch("kits_begin", kits)
                    begin = min(max(after, first - 1), until)
            name = "log_page_walked_for_kits" if large else "log_page_of_kits"
        last = until
        if name != "log_page_of_kits":
            last = min(until, begin + SCAN_ROWS)
        parameters = filter_parameters(wanted)
        parameters |= {"after": begin, "until": last, "limit": limit + 1}
        rows = [to_row(row) for row in await self.fetch(name, parameters)]
        # Asked after the page was read: so what was dropped before that is noticed.
        epoch = await self._check_kept(after)
        if len(rows) <= limit:
            if last < until:
                # An append may lie across the end: then the page ends before it.
                next_row = await self.fetch("batch_of", {"id": last + 1})
                if next_row and next_row[0][0] <= last:
                    last = next_row[0][0] - 1
                    rows = [row for row in rows if row.revision <= last]
            return Page(rows=rows, through=last, epoch=epoch, large=large)
        cut = rows[-1].batch
        whole = [row for row in rows if row.batch != cut]
        if whole:
            return Page(rows=whole, through=cut - 1, epoch=epoch, large=large)
        batch = await self.fetch("log_batch", {"batch": cut})
        rows = [to_row(row) for row in batch]
        return Page(
            rows=[row for row in rows if row.revision > after],
            through=rows[-1].revision,
            epoch=epoch,
            large=large,
        )

    async def statuses_before(self, rows: Iterable[StateRow]) -> dict[int, str]:
        """The status of each row's job or task before it, by revision.

        Empty for the first row of a job or task; `UNKNOWN` where what was before it may be no
        longer kept.
        """
        asked = [
            {
                "id": row.revision,
                "kit_id": row.kit_id,
                "job_id": str(row.job_id),
                "task_name": row.task_name,
            }
            for row in rows
        ]
        return dict(await self.fetch("statuses_before", {"asked": json.dumps(asked)}))

    async def _check_kept(self, after: int) -> str:
        """Refuses a page from which rows may be missing, and tells the log's name.

        Raises:
            ExpiredError: Rows after this revision are no longer kept.
        """
        ends = await self.ends()
        if after + 1 < ends.oldest:
            raise ExpiredError(
                f"rows before revision {ends.oldest} are no longer kept; start again with "
                "include_snapshot",
                reason="REVISION_EXPIRED",
                metadata={"oldest_revision": str(ends.oldest)},
            )
        return ends.epoch

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """One moment of the log, held still for as long as the block lasts."""
        async with self._pool.connection() as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            try:
                async with connection.transaction():
                    snapshot = Snapshot(connection, self._queries)
                    await snapshot.begin()
                    yield snapshot
            finally:
                if not connection.closed:
                    await connection.set_isolation_level(None)

    async def labels(self, kit_ids: Collection[int]) -> dict[int, dict[str, str]]:
        """The labels of kits, with the project of each under `PROJECT_LABEL`."""
        rows = await self.fetch("labels_of_kits", {"kit_ids": list(kit_ids)})
        return {row[0]: {**row[1], PROJECT_LABEL: row[2]} for row in rows}

    async def queued_jobs(
        self, job_types: Collection[str], limit: int
    ) -> list[tuple[uuid.UUID, str]]:
        """Jobs to hand out next, with their types: kits take turns."""
        rows = await self.fetch("queued_jobs", {"job_types": list(job_types), "limit": limit})
        return [(row[0], row[1]) for row in rows]

    async def renew(
        self, worker: str, signs: Iterable[Sign], seconds: float
    ) -> set[tuple[uuid.UUID, int]]:
        """Renews the leases of a worker and keeps its progress.

        Returns:
            The attempts renewed; the others are not the worker's any more.
        """
        said = [
            {
                "job_id": str(sign.job_id),
                "attempt": sign.attempt,
                "progress": None if sign.progress is None else progress_to_json(sign.progress),
            }
            for sign in signs
        ]
        parameters = {"said": json.dumps(said), "worker": worker, "seconds": seconds}
        return {(row[0], row[1]) for row in await self.fetch("renew_leases", parameters)}

    async def extend_leases(self, seconds: float) -> None:
        """Gives every lease its full time again."""
        async with self._pool.connection() as connection:
            await connection.execute(self._queries["extend_leases"], {"seconds": seconds})

    async def expired_leases(self, grace: float, limit: int = 1000) -> list[Lease]:
        """Leases whose time is over by the database's clock, and those of overdue attempts.

        Args:
            grace: Seconds an attempt may run on after its job's timeout.
            limit: Most leases to return.
        """
        rows = await self.fetch("expired_leases", {"grace": grace, "limit": limit})
        return [Lease(job_id=row[0], attempt=row[1], worker=row[2], overdue=row[3]) for row in rows]

    async def leases_of(self, worker: str) -> list[Lease]:
        """What is leased to a worker."""
        rows = await self.fetch("leases_of_worker", {"worker": worker})
        return [Lease(job_id=row[0], attempt=row[1], worker=row[2]) for row in rows]

    async def standing(self, job_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Standing]:
        """Where jobs are. Jobs that do not exist are left out."""
        rows = await self.fetch("standing_of_jobs", {"job_ids": list(job_ids)})
        return {
            row[0]: Standing(job_id=row[0], status=row[1], attempt=row[2], reason=row[3] or "")
            for row in rows
        }

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a query that may be asked again when its connection turns out dead."""
        return await self._connections.fetch(self._queries[name], parameters)


def filter_parameters(wanted: StateFilter) -> dict[str, Any]:
    """A filter as the parameters of the queries above."""
    return {
        "kit_ids": list(wanted.kit_ids) or None,
        "job_types": list(wanted.job_types) or None,
        "statuses": list(wanted.statuses) or None,
        "job_ids": list(wanted.job_ids) or None,
        "labels": Jsonb(dict(wanted.labels)) if wanted.labels else None,
        "project": wanted.project or None,
        "recorded_after": wanted.recorded_after,
        "recorded_before": wanted.recorded_before,
    }


def to_row(row: Row) -> StateRow:
    """A row of the log as the queries above return it."""
    return StateRow(
        revision=row[0],
        batch=row[1],
        kit_id=row[2],
        job_id=row[3],
        job_type=row[4],
        task_name=row[5],
        status=row[6],
        current_order=row[7],
        attempt=row[8],
        seq=row[9],
        created_at=row[10],
        metadata_json=row[11],
        actor=row[12],
        reason=row[13],
        kit_counts=None if row[14] is None else to_counts(row[14]),
    )


def to_kit(row: Row) -> Kit:
    """A kit without its jobs."""
    return Kit(
        kit_id=row[0],
        name=row[1],
        project=row[2],
        labels=row[3],
        spec_json=row[4],
        actor=row[5],
        counts=to_counts(row[6]),
        revision=row[7],
        created_at=row[8],
        updated_at=row[9],
        paused=row[10],
        pauses=row[11],
        first_revision=row[12],
    )


def to_counts(counts: Sequence[int]) -> Counts:
    """Six numbers of the database as counts."""
    return (counts[0], counts[1], counts[2], counts[3], counts[4], counts[5])


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Progress as it is kept, without its time."""
    return {
        "phase": progress.phase,
        "completed": progress.completed,
        "total": progress.total,
        "unit": progress.unit,
        "message": progress.message,
    }


def progress_from_json(kept: Mapping[str, Any], told_at: datetime | None) -> Progress:
    """Progress as it was kept."""
    return Progress(
        phase=kept.get("phase", ""),
        completed=kept.get("completed", 0),
        total=kept.get("total", 0),
        unit=kept.get("unit", ""),
        message=kept.get("message", ""),
        updated_at=told_at,
    )
