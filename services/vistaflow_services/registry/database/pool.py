"""Connections of a pool, and the retry of work whose connection is dead."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.registry.database.refusals import CONFLICTS, error_for, is_lost

TRIES: Final = 3

DRAIN_SECONDS: Final = 1.0
"""Seconds within which dead connections count as one incident."""

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]
Moment = Callable[[], AbstractAsyncContextManager[Connection]]
Answer = TypeVar("Answer")


class Connections:
    """Runs work that may be repeated on another connection.

    Args:
        pool: The connections.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._drained = float("-inf")

    async def use(
        self, work: Callable[[Connection], Awaitable[Answer]], *, moment: Moment | None = None
    ) -> Answer:
        """Runs work on a connection; repeats it on another if the connection is dead.

        Args:
            work: Reads, or writes that may happen twice.
            moment: Opens the connection, for example with a snapshot of the log.

        Raises:
            ServiceError: The database does not answer, or refuses.
        """
        for last in [False] * (TRIES - 1) + [True]:
            try:
                async with (moment or self.pool.connection)() as connection:
                    return await work(connection)
            except psycopg.Error as error:
                if last or not (is_lost(error) or isinstance(error, CONFLICTS)):
                    raise error_for(error) from error
                if is_lost(error):
                    await self._drain()
        raise AssertionError

    async def fetch(self, text: LiteralString, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a query."""

        async def work(connection: Connection) -> list[Row]:
            cursor = await connection.execute(text, parameters)
            return await cursor.fetchall()

        return await self.use(work)

    async def _drain(self) -> None:
        """Closes the pool's connections, once an incident: most likely they are dead, too."""
        now = time.monotonic()
        if now - self._drained > DRAIN_SECONDS:
            self._drained = now
            await self.pool.drain()
