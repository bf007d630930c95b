"""What is read from the database for watches (queries in `sql/watch_queries.sql`)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from vistaflow_services.core.errors import ExpiredError
from vistaflow_services.registry.database import queries
from vistaflow_services.registry.database.pool import Connection, Connections, Pool, Row
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.database.rows import filter_parameters, to_kit, to_row
from vistaflow_services.registry.domain import PROJECT_LABEL, Kit, StateFilter, StateRow

UNKNOWN = "?"
"""Stands for the status before a row whose predecessor may have been deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Rows read from the log."""

    rows: list[StateRow]
    """In revision order; whole appends only."""
    through: int
    """Every matching row up to this revision is in it."""
    epoch: str
    """The log's name when it was read."""
    large: bool = False
    """Whether the kits of the filter have many rows, which does not change any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Where the log ends and begins."""

    head: int
    oldest: int
    epoch: str


class Snapshot:
    """The current rows that match a filter, as they were at one revision."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.revision = 0
        self.epoch = ""

    async def begin(self) -> None:
        """Begins the transaction's snapshot, and reads its revision."""
        cursor = await self._connection.execute(QUERIES["log_ends"])
        row = await cursor.fetchone()
        assert row is not None
        self.revision, self.epoch = row[0], row[2]

    async def rows(self, matching: StateFilter, page: int) -> AsyncIterator[list[StateRow]]:
        """The rows in revision order, `page` at a time."""
        async with self._connection.cursor(name="snapshot") as cursor:
            cursor.itersize = page
            await cursor.execute(QUERIES["current_rows"], filter_parameters(matching))
            while fetched := await cursor.fetchmany(page):
                yield [to_row(row) for row in fetched]

    async def kits(self, kit_ids: Collection[int]) -> list[Kit]:
        """These kits without their jobs, as they were at the same moment."""
        cursor = await self._connection.execute(QUERIES["kits_by_id"], {"kit_ids": list(kit_ids)})
        return [to_kit(row) for row in await cursor.fetchall()]


class WatchStore:
    """The registry's tables, for watches.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connections = Connections(pool)

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
        self, matching: StateFilter, after: int, until: int, limit: int, *, large: bool = False
    ) -> LogPage:
        """The next rows of `(after, until]` that match a filter, about `limit` of them.

        Jobs' own rows of matching kits come along whatever else the filter says. Appends are
        not split: the page ends before the first that does not fit, and one larger than the
        page comes whole.

        ============================  =====================================================
        filter                        rows are found
        ============================  =====================================================
        names no kits                 in the order of the log, `SCAN_ROWS` of it a page
        names kits with few rows      by kit, then sorted
        names kits with many rows     in the order of the log, from the first row of the kits
        ============================  =====================================================

        Without the last way, every page of a kit of millions of rows would sort all of them. An
        index by kit and revision would avoid that, too, but every append would pay for it.

        Args:
            matching: Which rows.
            after: Where the page begins, exclusive.
            until: Where it ends at the latest, inclusive; the end of an append.
            limit: About how many rows.
            large: Whether the kits are known to have many rows, from an earlier page.

        Raises:
            ExpiredError: Rows after this revision are no longer kept.
        """
        if not matching.kit_ids:
            rows, last = await self._walk("log_page", matching, after, until, limit)
        elif large:
            rows, last = await self._walk("log_page_walked_for_kits", matching, after, until, limit)
        elif await self._have_many_rows(matching.kit_ids):
            large = True
            begin = min(max(after, await self._first_revision(matching.kit_ids) - 1), until)
            rows, last = await self._walk("log_page_walked_for_kits", matching, begin, until, limit)
        else:
            rows = await self._find("log_page_of_kits", matching, after, until, limit)
            last = until
        # Read after the rows: so partitions that were dropped before or meanwhile are noticed.
        epoch = await self._check_kept(after)
        if len(rows) > limit:
            rows, last = await self._whole_appends(rows, after)
        elif last < until:
            rows, last = await self._end_with_append(rows, last)
        return LogPage(rows=rows, through=last, epoch=epoch, large=large)

    async def _walk(
        self, query: str, matching: StateFilter, after: int, until: int, limit: int
    ) -> tuple[list[StateRow], int]:
        """Reads through a part of the log in its own order.

        Returns:
            One more than `limit` matching rows, or all there are up to the second value.
        """
        last = min(until, after + queries.SCAN_ROWS)
        return await self._find(query, matching, after, last, limit), last

    async def _find(
        self, query: str, matching: StateFilter, after: int, until: int, limit: int
    ) -> list[StateRow]:
        """The matching rows of `(after, until]`; one more than `limit` if there are more."""
        parameters = filter_parameters(matching)
        parameters |= {"after": after, "until": until, "limit": limit + 1}
        return [to_row(row) for row in await self.fetch(query, parameters)]

    async def _have_many_rows(self, kit_ids: Collection[int]) -> bool:
        """Whether these kits have too many rows to be sorted for every page."""
        parameters = {"kit_ids": list(kit_ids), "few": queries.FEW_ROWS}
        ((large,),) = await self.fetch("kits_are_large", parameters)
        return bool(large)

    async def _first_revision(self, kit_ids: Collection[int]) -> int:
        """The revision of the first row of these kits."""
        ((first,),) = await self.fetch("kits_begin", {"kit_ids": list(kit_ids)})
        return int(first)

    async def _end_with_append(self, rows: list[StateRow], last: int) -> tuple[list[StateRow], int]:
        """The rows up to the last end of an append before or at `last`, and that end."""
        following = await self.fetch("batch_of", {"id": last + 1})
        if following and following[0][0] <= last:
            # This append lies across `last`: the page ends before it.
            last = following[0][0] - 1
            rows = [row for row in rows if row.revision <= last]
        return rows, last

    async def _whole_appends(self, rows: list[StateRow], after: int) -> tuple[list[StateRow], int]:
        """The rows without those of the last append, which may be cut; and where they end.

        If all rows are of one append, it is read whole, however large it is.
        """
        cut = rows[-1].batch
        whole = [row for row in rows if row.batch != cut]
        if whole:
            return whole, cut - 1
        rows = [to_row(row) for row in await self.fetch("log_batch", {"batch": cut})]
        return [row for row in rows if row.revision > after], rows[-1].revision

    async def statuses_before(self, rows: Iterable[StateRow]) -> dict[int, str]:
        """The status of each row's job or task before it, by revision.

        Empty for the first row of a job or task; `UNKNOWN` where the row before may have been
        deleted.
        """
        keys = [
            {
                "id": row.revision,
                "kit_id": row.kit_id,
                "job_id": str(row.job_id),
                "task_name": row.task_name,
            }
            for row in rows
        ]
        return dict(await self.fetch("statuses_before", {"asked": json.dumps(keys)}))

    async def _check_kept(self, after: int) -> str:
        """Refuses a page from which rows may be missing; returns the log's name.

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
        """The log at one moment, in a transaction that lasts as long as the block."""
        async with self._pool.connection() as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            try:
                async with connection.transaction():
                    snapshot = Snapshot(connection)
                    await snapshot.begin()
                    yield snapshot
            finally:
                if not connection.closed:
                    await connection.set_isolation_level(None)

    async def labels(self, kit_ids: Collection[int]) -> dict[int, dict[str, str]]:
        """The labels of kits, with the project of each under `PROJECT_LABEL`."""
        rows = await self.fetch("labels_of_kits", {"kit_ids": list(kit_ids)})
        return {row[0]: {**row[1], PROJECT_LABEL: row[2]} for row in rows}

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a query that is repeated if its connection is dead."""
        return await self._connections.fetch(QUERIES[name], parameters)
