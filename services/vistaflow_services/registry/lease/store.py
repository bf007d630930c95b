"""The leases of attempts in the database (queries in `sql/watch_queries.sql`)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vistaflow_services.registry.database.pool import Connections, Pool, Row
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.database.rows import progress_to_json
from vistaflow_services.registry.domain import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """The lease of an attempt that a worker holds."""

    job_id: uuid.UUID
    attempt: int
    worker: str
    overdue: bool = False
    """Whether the worker renews it, but the attempt runs on after the job's timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentAttempt:
    """The last attempt of a job, with the status of the job and its reason."""

    job_id: uuid.UUID
    status: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A heartbeat's entry of one attempt, with its progress if that was sent."""

    job_id: uuid.UUID
    attempt: int
    progress: Progress | None = None


class LeaseStore:
    """The leases of attempts.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connections = Connections(pool)

    async def queued_jobs(
        self, job_types: Collection[str], limit: int
    ) -> list[tuple[uuid.UUID, str]]:
        """Ids and types of the jobs to grant next; kits take turns."""
        rows = await self._fetch("queued_jobs", {"job_types": list(job_types), "limit": limit})
        return [(row[0], row[1]) for row in rows]

    async def renew(
        self, worker: str, signs: Iterable[Sign], seconds: float
    ) -> set[tuple[uuid.UUID, int]]:
        """Renews the leases of a worker and stores its progress.

        Returns:
            Job and number of each attempt renewed; the others are not the worker's any more.
        """
        entries = [
            {
                "job_id": str(sign.job_id),
                "attempt": sign.attempt,
                "progress": None if sign.progress is None else progress_to_json(sign.progress),
            }
            for sign in signs
        ]
        parameters = {"said": json.dumps(entries), "worker": worker, "seconds": seconds}
        return {(row[0], row[1]) for row in await self._fetch("renew_leases", parameters)}

    async def extend_leases(self, seconds: float) -> None:
        """Gives every lease its full time again."""
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["extend_leases"], {"seconds": seconds})

    async def expired_leases(self, grace: float, limit: int = 1000) -> list[HeldLease]:
        """Leases whose time is over by the database's clock, and those of overdue attempts.

        Args:
            grace: Seconds an attempt may run on after its job's timeout.
            limit: Most leases to return.
        """
        rows = await self._fetch("expired_leases", {"grace": grace, "limit": limit})
        return [
            HeldLease(job_id=row[0], attempt=row[1], worker=row[2], overdue=row[3]) for row in rows
        ]

    async def leases_of(self, worker: str) -> list[HeldLease]:
        """The leases of a worker."""
        rows = await self._fetch("leases_of_worker", {"worker": worker})
        return [HeldLease(job_id=row[0], attempt=row[1], worker=row[2]) for row in rows]

    async def current_attempts(
        self, job_ids: Collection[uuid.UUID]
    ) -> dict[uuid.UUID, CurrentAttempt]:
        """The last attempts of jobs, by job; jobs that do not exist are left out."""
        rows = await self._fetch("standing_of_jobs", {"job_ids": list(job_ids)})
        return {
            row[0]: CurrentAttempt(
                job_id=row[0], status=row[1], attempt=row[2], reason=row[3] or ""
            )
            for row in rows
        }

    async def _fetch(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a query that may be repeated when its connection turns out dead."""
        return await self._connections.fetch(QUERIES[name], parameters)
