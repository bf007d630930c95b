"""procrastinate to compare with the registry: a job queue in PostgreSQL, called as its manual says.

A job that is deferred is one durable insert with its notification, as an append of one row is. Both
use the same server with the same settings, and each has one client process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from bench import quantile
from servers import METADATA

SCHEMA = "procrastinate"
CONNECTIONS = (4, 16, 64)
"""Sizes of its pool that are tried: its default, and more. The fastest one is compared."""


@contextlib.asynccontextmanager
async def job_queue(dsn: str, connections: int) -> AsyncIterator[Any | None]:
    """A task that jobs are deferred of; None where procrastinate is not installed."""
    try:
        import procrastinate
    except ImportError:
        yield None
        return
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn,
        min_size=connections,
        max_size=connections,
        kwargs={"options": f"-c search_path={SCHEMA}"},
    )
    app = procrastinate.App(connector=connector)

    @app.task(name="note")
    async def note(**metadata: object) -> None:
        """Nobody runs it."""

    async with app.open_async():
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            cursor = await connection.execute(f"SELECT to_regclass('{SCHEMA}.procrastinate_jobs')")
            ((table,),) = await cursor.fetchall()
        if table is None:
            await app.schema_manager.apply_schema_async()
        yield note


async def defer(dsn: str, connections: int, callers: int, seconds: float) -> dict[str, float]:
    """Jobs deferred a second by so many callers, and the waits in ms."""
    waits: list[float] = []
    async with job_queue(dsn, connections) as task:
        assert task is not None

        async def call() -> None:
            while (began := time.perf_counter()) < end:
                await task.defer_async(**METADATA)
                waits.append(time.perf_counter() - began)

        begin = time.perf_counter()
        end = begin + seconds
        await asyncio.gather(*(call() for _ in range(callers)))
        spent = time.perf_counter() - begin
    return {
        "rate": len(waits) / spent,
        "p50": 1000 * quantile(waits, 0.5),
        "p99": 1000 * quantile(waits, 0.99),
    }


async def installed(dsn: str) -> bool:
    """Whether procrastinate is installed; makes its tables."""
    async with job_queue(dsn, 1) as task:
        return task is not None
