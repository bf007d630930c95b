"""A statement that one connection runs again and again, by libpq's own calls.

psycopg searches the text of 8 kB for parameters and chooses types at every execution. Here that is
done once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cache
from typing import Any, LiteralString

import psycopg
from psycopg import pq

_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_BINARY = 1


@cache
def numbered(query: LiteralString) -> tuple[bytes, list[str]]:
    """A query with `$1` for its first parameter and so on, and the parameters' names in order."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PARAMETER.sub(place, query).encode(), names


class Prepared:
    """Statements prepared on one connection, which has no other user at the same time.

    The event loop watches the socket between two runs as well, because to stop and to start that
    is expensive. So other code that uses the connection must call `let_go` first.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._pgconn: Any = connection.pgconn
        self._names: dict[str, bytes] = {}
        self._socket: int | None = None
        self._results: list[Any] = []
        self._ended: asyncio.Future[None] | None = None

    async def run(self, query: LiteralString, parameters: dict[str, Any]) -> bytes | None:
        """Runs a query with named parameters.

        Returns:
            The first field of the first row in PostgreSQL's binary format; None if there is no row.

        Raises:
            psycopg.Error: The server refuses, or the connection is lost.
        """
        text, names = numbered(query)
        prepared = self._names.get(query)
        if prepared is None:
            prepared = b"vistaflow_%d" % len(self._names)
            await self._answer(self._pgconn.send_prepare, prepared, text)
            self._names[query] = prepared
        values = [str(parameters[name]).encode() for name in names]
        result = await self._answer(
            self._pgconn.send_query_prepared, prepared, values, None, _BINARY
        )
        value: bytes | None = result.get_value(0, 0) if result.ntuples else None
        return value

    async def roll_back(self) -> None:
        """Ends the transaction. psycopg's own ROLLBACK would forget the prepared statements."""
        await self._answer(self._pgconn.send_query, b"ROLLBACK")

    def let_go(self) -> None:
        """Stops watching the socket until the next run, so that psycopg may use it."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket = None

    async def _answer(self, send: Callable[..., object], *arguments: object) -> Any:
        """Sends a command and returns its result; the connection is idle afterwards."""
        self._results = []
        self._ended = asyncio.get_running_loop().create_future()
        try:
            self._step(self._send, send, *arguments)
            await self._ended
        finally:
            self._ended = None
        (result,) = self._results
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        return result

    def _step(self, work: Callable[..., object], *arguments: object) -> None:
        """Sends or reads a part, and collects the results that have arrived.

        Results are read while sending, too: a server whose output is not read may stop reading.
        """
        if self._ended is None or self._ended.done():
            # No run is waiting, so the server closes the connection. The next run gets the error.
            self.let_go()
            return
        try:
            work(*arguments)
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._ended.set_result(None)
                    break
                self._results.append(result)
        except psycopg.Error as error:
            self._ended.set_exception(error)
        if self._pgconn.status != pq.ConnStatus.OK:
            # libpq has closed the socket, and the system may give its number to another one.
            self.let_go()

    def _send(self, send: Callable[..., object], *arguments: object) -> None:
        send(*arguments)
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = self._pgconn.socket
            loop.add_reader(self._socket, self._step, self._pgconn.consume_input)
        if self._pgconn.flush():
            loop.add_writer(self._socket, self._step, self._send_more)

    def _send_more(self) -> None:
        if not self._pgconn.flush() and self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)
