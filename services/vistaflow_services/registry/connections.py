"""Connections of a pool, and the retry of work whose connection is dead."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.registry.refusals import CONFLICTS, is_lost, told

TRIES: Final = 3

DRAIN_SECONDS: Final = 1.0
"""Time within which connections that are found dead died of the same incident."""

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]
Moment = Callable[[], AbstractAsyncContextManager[Connection]]
Answer = TypeVar("Answer")


class Connections:
    """Does what may be done again on another connection.

    Args:
        pool: Where the connections come from.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._drained = float("-inf")

    async def use(
        self, work: Callable[[Connection], Awaitable[Answer]], *, moment: Moment | None = None
    ) -> Answer:
        """Does some work on a connection; again, if that turns out to be dead.

        Args:
            work: Reads, or changes what may be changed twice.
            moment: How to come by a connection, such as one that sees one moment of the log.

        Raises:
            ServiceError: The database is not there, or refuses.
        """
        for last in [False] * (TRIES - 1) + [True]:
            try:
                async with (moment or self.pool.connection)() as connection:
                    return await work(connection)
            except psycopg.Error as error:
                if last or not (is_lost(error) or isinstance(error, CONFLICTS)):
                    raise told(error) from error
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
        """Lets the pool's connections go, once an incident: they are as dead as the one used."""
        now = time.monotonic()
        if now - self._drained > DRAIN_SECONDS:
            self._drained = now
            await self.pool.drain()
