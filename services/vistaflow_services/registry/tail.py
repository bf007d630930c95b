"""Brings what other replicas wrote, and whatever else the hub has missed.

Revisions are dense and given under the head row's lock, so what is new is simply what
comes after the hub's head. A notification is only a hint that there is something: the
tail looks once a second anyway, which also shows it a connection that has died silently.
While no other replica follows the log it does not listen: it would only hear its own commits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from vistaflow_services.core.postgres import session_conninfo
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.hub import Hub
from vistaflow_services.registry.watch_store import Row, to_row

_log = logging.getLogger(__name__)

CHANNEL = "totalstate"
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
# A commit of this process is published a moment after its notification arrives.
OWN_COMMIT_SECONDS = 0.005
_NAME = "vistaflow registry tail"
_KEEPALIVE: Mapping[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}


class ReplacedError(Exception):
    """The database holds another log, such as a restored backup."""


class GapError(Exception):
    """Revisions are missing from the log, which must never be."""


class Tail:
    """A connection of its own on which the log is followed.

    Args:
        hub: What is kept up to date.
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        queries: The texts of `sql/watch_queries.sql`, by name.
        patience_seconds: How long an answer may take before the connection is given up.
        epoch: The log's name; empty: whichever it is.
        on_replaced: Called when the database turns out to hold another log, which ends the tail.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        conninfo: str,
        schema: str,
        queries: Mapping[str, LiteralString],
        patience_seconds: float = PATIENCE_SECONDS,
        epoch: str = "",
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._conninfo = conninfo
        self._schema = schema
        self._queries = queries
        self._patience = patience_seconds
        self._epoch = epoch
        self._on_replaced = on_replaced
        self._listening = False
        self._polled = float("-inf")
        self._caught_up = float("-inf")
        self.reconnect_count = 0
        """How often the connection was lost."""

    def fresh(self, seconds: float) -> bool:
        """Whether the hub held all of the log at some moment of the last `seconds`."""
        return asyncio.get_running_loop().time() - self._caught_up <= seconds

    async def run(self) -> None:
        """Follows the log until canceled or the log is replaced, reconnecting for ever."""
        pause = 0.1
        while True:
            connection: psycopg.AsyncConnection[Row] | None = None
            try:
                async with asyncio.timeout(2 * self._patience):
                    connection = await self._connect()
                pause = 0.1
                while True:
                    await self._round(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self.reconnect_count += 1
                _log.warning("lost the tail of the log, trying again: %s", error or "no answer")
            except ReplacedError as error:
                _log.critical("%s", error)
                self._caught_up = float("-inf")
                self._on_replaced()
                return
            except GapError as error:
                _log.critical("%s", error)
            finally:
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        connection = await psycopg.AsyncConnection.connect(
            session_conninfo(self._conninfo, name=_NAME, schema=self._schema, **_KEEPALIVE),
            autocommit=True,
        )
        try:
            await self._listen(connection, listening=True)
        except BaseException:
            await connection.close()
            raise
        self._polled = float("-inf")
        return connection

    async def _round(self, connection: psycopg.AsyncConnection[Row]) -> None:
        """Waits for a hint or the next look, and brings what is new."""
        clock = asyncio.get_running_loop().time
        wait = self._polled + POLL_SECONDS - clock()
        heard = await self._heard(connection, wait) if wait > 0 else 0
        if heard > self._hub.head:
            await asyncio.sleep(OWN_COMMIT_SECONDS)
        due = clock() >= self._polled + POLL_SECONDS or self._hub.missing.is_set()
        if due or heard > self._hub.head:
            self._hub.missing.clear()
            async with asyncio.timeout(self._patience):
                await self._catch_up(connection)
                if due:
                    await self._look_around(connection)
            self._polled = clock()

    async def _look_around(self, connection: psycopg.AsyncConnection[Row]) -> None:
        """Listens from when others follow the log until they are gone.

        Whoever comes looks around at once; whoever was there does so within a second, and until
        then polls.
        """
        cursor = await connection.execute(self._queries["count_connections"], {"name": _NAME})
        row = await cursor.fetchone()
        assert row is not None
        if self._listening != (row[0] > 1):
            await self._listen(connection, listening=not self._listening)

    async def _listen(self, connection: psycopg.AsyncConnection[Row], *, listening: bool) -> None:
        command = sql.SQL("LISTEN {}" if listening else "UNLISTEN {}")
        await connection.execute(command.format(sql.Identifier(CHANNEL)))
        self._listening = listening

    async def _heard(self, connection: psycopg.AsyncConnection[Row], seconds: float) -> int:
        """The revision told by the next notification; 0 if none comes in time."""
        heard = 0
        async for notice in connection.notifies(timeout=seconds, stop_after=1):
            if notice.payload.isdecimal():
                heard = max(heard, int(notice.payload))
        return heard

    async def _catch_up(self, connection: psycopg.AsyncConnection[Row]) -> None:
        committed = self._hub.head
        began = asyncio.get_running_loop().time()
        ends = await self._ends(connection)
        if self._epoch and ends[2] != self._epoch:
            raise ReplacedError(f"the log's epoch is {ends[2]} now and was {self._epoch}")
        if ends[0] < committed:
            raise ReplacedError(f"the log ends at {ends[0]} now and went on to {committed} before")
        while self._hub.head < ends[0]:
            known = self._hub.head
            if known + 1 < ends[1]:
                _log.warning(
                    "rows %d to %d were dropped before this process saw them",
                    known + 1, ends[1] - 1,
                )  # fmt: skip
                self._hub.skip_to(ends[1] - 1)
                continue
            rows = await self._rows(connection, known)
            first = rows[0].revision if rows else None
            if first != known + 1 or rows[-1].revision != known + len(rows):
                ends = await self._ends(connection)
                if known + 1 < ends[1]:
                    continue  # They were dropped meanwhile.
                raise GapError(f"the log has no row {known + 1}, though its head is {ends[0]}")
            self._hub.advance_to(rows)
        self._caught_up = began

    async def _ends(self, connection: psycopg.AsyncConnection[Row]) -> Row:
        """The last revision, the oldest that is kept, and the epoch."""
        cursor = await connection.execute(self._queries["log_ends"])
        ends = await cursor.fetchone()
        assert ends is not None
        return ends

    async def _rows(
        self, connection: psycopg.AsyncConnection[Row], after: int, limit: int = 2000
    ) -> list[StateRow]:
        """The next rows of the log, in order; whole appends only."""
        parameters = {"after": after, "limit": limit + 1}
        cursor = await connection.execute(self._queries["log_tail"], parameters)
        rows = [to_row(row) for row in await cursor.fetchall()]
        if len(rows) <= limit:
            return rows
        whole = [row for row in rows if row.batch != rows[-1].batch]
        if whole:
            return whole
        cursor = await connection.execute(self._queries["log_batch"], {"batch": rows[-1].batch})
        return [row for row in map(to_row, await cursor.fetchall()) if row.revision > after]
