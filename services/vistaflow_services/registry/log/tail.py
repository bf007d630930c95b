"""Brings the rows of other replicas to the hub, and any others that the hub has missed.

Revisions are dense and assigned under the head row's lock, so the new rows are those after the
hub's head. A notification only says that there may be some: the tail also looks once a second,
which detects a connection that died silently, too. While no other replica follows the log, the
tail does not listen: all notifications would be of its own commits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from vistaflow_services.registry.database.pool import Row
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.database.rows import to_row
from vistaflow_services.registry.database.sessions import session_conninfo
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.log.hub import Hub

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
    """Revisions are missing from the log, which must never happen."""


class Tail:
    """Follows the log on a connection of its own.

    Args:
        hub: Receives the rows.
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        patience_seconds: How long an answer may take before the connection is closed.
        epoch: The log's name; empty for any.
        on_replaced: Called when the database holds another log; then the tail ends.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        conninfo: str,
        schema: str,
        patience_seconds: float = PATIENCE_SECONDS,
        epoch: str = "",
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._conninfo = conninfo
        self._schema = schema
        self._patience = patience_seconds
        self._epoch = epoch
        self._on_replaced = on_replaced
        self._listening = False
        self._polled = float("-inf")
        self._caught_up = float("-inf")
        self.reconnect_count = 0
        """How often the connection was lost."""

    def fresh(self, seconds: float) -> bool:
        """Whether the hub had all rows of the log at a moment within the last `seconds`."""
        return asyncio.get_running_loop().time() - self._caught_up <= seconds

    async def run(self) -> None:
        """Follows the log until canceled or the log is replaced; reconnects without limit."""
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
        """Waits for a notification or the next look, and reads the new rows."""
        clock = asyncio.get_running_loop().time
        wait = self._polled + POLL_SECONDS - clock()
        notified = await self._notified(connection, wait) if wait > 0 else 0
        if notified > self._hub.head:
            # Most likely it is of a commit that this process is about to publish itself.
            await asyncio.sleep(OWN_COMMIT_SECONDS)
        due = clock() >= self._polled + POLL_SECONDS or self._hub.missing.is_set()
        if due or notified > self._hub.head:
            self._hub.missing.clear()
            async with asyncio.timeout(self._patience):
                await self._catch_up(connection)
                if due:
                    await self._look_around(connection)
            self._polled = clock()

    async def _look_around(self, connection: psycopg.AsyncConnection[Row]) -> None:
        """Listens while other replicas follow the log, and only then.

        A new replica looks at once. The others look within a second, and poll until then.
        """
        cursor = await connection.execute(QUERIES["count_connections"], {"name": _NAME})
        row = await cursor.fetchone()
        assert row is not None
        if self._listening != (row[0] > 1):
            await self._listen(connection, listening=not self._listening)

    async def _listen(self, connection: psycopg.AsyncConnection[Row], *, listening: bool) -> None:
        command = sql.SQL("LISTEN {}" if listening else "UNLISTEN {}")
        await connection.execute(command.format(sql.Identifier(CHANNEL)))
        self._listening = listening

    async def _notified(self, connection: psycopg.AsyncConnection[Row], seconds: float) -> int:
        """The revision in the next notification; 0 if none comes in time."""
        # psycopg wakes up ten times a second while it waits, so it is asked when there is something
        # to read, and before for what came along with other answers.
        revision = await _received(connection)
        if not revision:
            await _readable(connection.fileno(), seconds)
            revision = await _received(connection)
        return revision

    async def _catch_up(self, connection: psycopg.AsyncConnection[Row]) -> None:
        """Brings every row up to the end of the log to the hub.

        Raises:
            ReplacedError: The database holds another log.
            GapError: A row is missing.
        """
        # Read before the log: everything up to here is committed, so a log of the same name that
        # ends earlier is an older copy.
        committed = self._hub.head
        began = asyncio.get_running_loop().time()
        ends = await self._ends(connection)
        if self._epoch and ends[2] != self._epoch:
            raise ReplacedError(f"the log's epoch is {ends[2]} now and was {self._epoch}")
        if ends[0] < committed:
            raise ReplacedError(f"the log ends at {ends[0]} now and went on to {committed} before")
        while self._hub.head < ends[0]:
            head = self._hub.head
            if head + 1 < ends[1]:
                _log.warning(
                    "rows %d to %d were dropped before this process saw them",
                    head + 1, ends[1] - 1,
                )  # fmt: skip
                self._hub.skip_to(ends[1] - 1)
                continue
            rows = await self._rows(connection, head)
            # Dense revisions: the rows must follow the head, one by one.
            first = rows[0].revision if rows else None
            if first != head + 1 or rows[-1].revision != head + len(rows):
                ends = await self._ends(connection)
                if head + 1 < ends[1]:
                    continue  # They were dropped meanwhile.
                raise GapError(f"the log has no row {head + 1}, though its head is {ends[0]}")
            self._hub.advance_to(rows)
        self._caught_up = began

    async def _ends(self, connection: psycopg.AsyncConnection[Row]) -> Row:
        """The last revision, the oldest that is kept, and the epoch."""
        cursor = await connection.execute(QUERIES["log_ends"])
        ends = await cursor.fetchone()
        assert ends is not None
        return ends

    async def _rows(
        self, connection: psycopg.AsyncConnection[Row], after: int, limit: int = 2000
    ) -> list[StateRow]:
        """The next rows of the log, in order; whole appends only."""
        parameters = {"after": after, "limit": limit + 1}
        cursor = await connection.execute(QUERIES["log_tail"], parameters)
        rows = [to_row(row) for row in await cursor.fetchall()]
        if len(rows) <= limit:
            return rows
        whole = [row for row in rows if row.batch != rows[-1].batch]
        if whole:
            return whole
        cursor = await connection.execute(QUERIES["log_batch"], {"batch": rows[-1].batch})
        return [row for row in map(to_row, await cursor.fetchall()) if row.revision > after]


async def _received(connection: psycopg.AsyncConnection[Row]) -> int:
    """The revision in the notifications that are there; 0 if there is none."""
    revision = 0
    async for notice in connection.notifies(timeout=0, stop_after=1):
        if notice.payload.isdecimal():
            revision = max(revision, int(notice.payload))
    return revision


async def _readable(socket: int, seconds: float) -> None:
    """Waits until a socket has something to read, or is closed, or the time is over."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(socket, ready.set)
    try:
        async with asyncio.timeout(seconds):
            await ready.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(socket)
