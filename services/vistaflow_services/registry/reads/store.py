"""Reads of the registry: kits, jobs and rows of the log. The journal writes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.registry.database.kits import read_head, read_job, read_kit
from vistaflow_services.registry.database.pool import Connection, Connections, Row
from vistaflow_services.registry.database.queries import fetch
from vistaflow_services.registry.database.sessions import session_conninfo
from vistaflow_services.registry.domain import (
    NO_COUNTS,
    Counts,
    Head,
    Job,
    JobChangeFilter,
    JobFilter,
    Kit,
    KitFilter,
    StateFilter,
    StateRow,
)
from vistaflow_services.registry.messages.filters import TreePlace
from vistaflow_services.registry.reads import listing, past
from vistaflow_services.registry.reads.history import Moment
from vistaflow_services.registry.reads.listing import Page
from vistaflow_services.registry.reads.past import (
    Comparison,
    Past,
    read_moment,
    read_revision_at,
    read_rows,
)
from vistaflow_services.registry.reads.tree_pages import PageRequest, TreePage, read_page

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Row]]

SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
MAX_WAITING = 1000
"""Reads that may wait for a connection; more are refused at once."""

Answer = TypeVar("Answer")


def make_pool(
    conninfo: str,
    *,
    schema: str = "vistadb_test",
    size: int = 10,
    max_waiting: int = MAX_WAITING,
) -> Pool:
    """A pool of connections whose search path is the schema, not yet open."""
    return AsyncConnectionPool(
        session_conninfo(
            conninfo,
            name="vistaflow registry",
            schema=schema,
            settings=SETTINGS,
            connect_timeout=5,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=2,
            tcp_user_timeout=8000,
        ),
        min_size=min(2, size),
        max_size=size,
        timeout=5.0,
        max_waiting=max_waiting,
        reconnect_timeout=2.0,
        open=False,
        name="registry",
        # Reads of several statements begin a transaction themselves. A transaction around a single
        # one would cost two more round trips to the database.
        kwargs={"autocommit": True},
    )


class Store:
    """Reads kits, jobs and rows.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connections = Connections(pool)
        self._past = Past()

    async def head(self) -> Head:
        """Where the log ends."""
        return await self.read(read_head, alone=True)

    async def kit(self, kit_id: int) -> tuple[Kit | None, int]:
        """A kit with jobs and tasks, and the revision up to which that is complete."""
        return await self.read(lambda connection: read_kit(connection, kit_id), alone=True)

    async def tree_page(
        self,
        kit_id: int,
        *,
        job_id: uuid.UUID | None = None,
        revision: int = 0,
        time: datetime | None = None,
        began_at: int = 0,
        after: TreePlace | None = None,
        size: int = 0,
    ) -> tuple[TreePage | None, int]:
        """A page of a kit, or of one job of it, and as of which revision; None: not there.

        Args:
            kit_id: The kit.
            job_id: The only job wanted.
            revision: As of when; 0: as it is.
            time: The same as a time.
            began_at: As of which revision the first page was; 0: this is the first.
            after: Where the page before ended.
            size: Most jobs and tasks; 0: as many as fit a message.
        """

        async def read(connection: Connection) -> tuple[TreePage | None, int]:
            head = await read_head(connection)
            as_of = began_at or revision or head.last_id
            if time is not None and not began_at:
                as_of = await read_revision_at(connection, time, head)
            request = PageRequest(
                kit_id=kit_id,
                job_id=job_id,
                revision=as_of,
                past=bool(revision or time),
                after=after,
                size=size,
            )
            return await read_page(connection, request, head, self._past), as_of

        return await self.read(read)

    async def kit_of(self, job_id: uuid.UUID) -> int | None:
        """The kit of a job; None if there is no such job."""
        rows = await self.fetch("kits_of_jobs", {"job_ids": [job_id]})
        return rows[0][1] if rows else None

    async def kit_at(
        self, kit_id: int, *, revision: int = 0, time: datetime | None = None
    ) -> tuple[Moment | None, int]:
        """A kit as it was at a revision or a time, and the revision; None: not there yet."""

        async def read(connection: Connection) -> tuple[Moment | None, int]:
            head = await read_head(connection)
            as_of = revision if time is None else await read_revision_at(connection, time, head)
            return await read_moment(connection, kit_id, as_of, head), as_of

        return await self.read(read)

    async def comparison(self, kit_id: int, first: int, last: int) -> tuple[Comparison | None, int]:
        """What differs between two revisions of a kit, and the later revision.

        Args:
            kit_id: The kit.
            first: The earlier; 0: before there was anything.
            last: The later; 0: now.
        """

        async def read(connection: Connection) -> tuple[Comparison | None, int]:
            head = await read_head(connection)
            end = last or head.last_id
            return await self._past.comparison(connection, kit_id, first, end, head), end

        return await self.read(read)

    async def rows(self, ids: Sequence[int], limit: int) -> dict[int, StateRow]:
        """Rows of the log by their revisions: the first of those asked for, about so many bytes."""
        return await self.read(lambda connection: read_rows(connection, ids, limit), alone=True)

    async def count_jobs(self, chosen: JobChangeFilter) -> int:
        """How many jobs match a filter."""
        return await self.read(lambda connection: past.count_jobs(connection, chosen), alone=True)

    async def jobs_by_kit(
        self, chosen: JobChangeFilter, *, after: int, limit: int
    ) -> list[tuple[int, tuple[uuid.UUID, ...]]]:
        """The jobs that match a filter, of the next `limit` kits after one, in their order."""
        return await self.read(
            lambda connection: past.jobs_by_kit(connection, chosen, after=after, limit=limit),
            alone=True,
        )

    async def jobs_in_short(self, job_ids: Sequence[uuid.UUID]) -> list[tuple[Job, Counts]]:
        """Jobs without specs, results and tasks, with their tasks' counts."""

        async def read(connection: Connection) -> list[tuple[Job, Counts]]:
            jobs = await past.jobs_in_short(connection, job_ids)
            counts = await listing.task_counts(connection, jobs)
            return [(job, counts.get(job.job_id, NO_COUNTS)) for job in jobs]

        return await self.read(read)

    async def is_answered(self, request_id: uuid.UUID) -> bool:
        """Whether a request was answered before."""
        return bool(await self.fetch("answers", {"request_ids": [request_id]}))

    async def parts_of_request(
        self, request_id: uuid.UUID
    ) -> list[tuple[int, str, bytes, datetime]]:
        """The parts of a request that are done: kit, hash of the body, answer, time."""
        return await self.read(
            lambda connection: past.parts_of_request(connection, request_id), alone=True
        )

    async def job(self, job_id: uuid.UUID) -> tuple[Job | None, int]:
        """A job with its tasks, and the revision up to which that is complete."""

        async def read(connection: Connection) -> tuple[Job | None, int]:
            head = await read_head(connection)
            return await read_job(connection, job_id), head.last_id

        return await self.read(read)

    async def list_kits(self, chosen: KitFilter, *, before: int | None, limit: int) -> Page:
        """Kits without their jobs, newest first, with ids below `before`."""
        return await self.read(
            lambda connection: listing.kits(connection, chosen, before=before, limit=limit)
        )

    async def list_jobs(self, chosen: JobFilter, *, before: int | None, limit: int) -> Page:
        """Jobs, newest first, each with its tasks' counts in place of its tasks.

        `before`: only jobs whose first rows have lower revisions.
        """
        return await self.read(
            lambda connection: listing.jobs(connection, chosen, before=before, limit=limit)
        )

    async def project_of_kit(self, kit_id: int) -> str | None:
        """The project of a kit; None if there is no such kit."""
        return _only(await self.fetch("project_of_kit", {"kit_id": kit_id}))

    async def project_of_job(self, job_id: uuid.UUID) -> str | None:
        """The project of a job; None if there is no such job."""
        return _only(await self.fetch("project_of_job", {"job_id": job_id}))

    async def list_states(self, chosen: StateFilter, *, after: int, limit: int) -> Page:
        """Rows after a revision that match a filter, in order.

        A filter that few rows match may bring a short page, or an empty one, that is not the
        last: one statement reads only so much of the log. Of what retention dropped, the rows
        that were kept come first.
        """
        return await self.read(
            lambda connection: listing.states(connection, chosen, after=after, limit=limit)
        )

    async def ping(self) -> bool:
        """Whether the database answers."""
        await self.head()
        return True

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a named query."""
        return await self.read(lambda connection: fetch(connection, name, parameters), alone=True)

    async def read(
        self, read: Callable[[Connection], Awaitable[Answer]], *, alone: bool = False
    ) -> Answer:
        """Reads at one moment of the log; reads again if the connection was lost.

        Args:
            read: Reads.
            alone: Whether it runs a single statement, which sees one moment without a transaction.
        """
        return await self._connections.use(read, moment=None if alone else self._snapshot)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with self._pool.connection() as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            try:
                async with connection.transaction():
                    yield connection
            finally:
                if not connection.closed:
                    await connection.set_isolation_level(None)


def _only(rows: Sequence[Row]) -> str | None:
    """The one value that a query found, if it found any."""
    return rows[0][0] if rows else None
