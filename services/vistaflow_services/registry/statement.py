"""A statement that one connection runs over and over, by libpq's own calls.

What psycopg does around them for every execution, such as looking for the parameters in a text of
8 kB and choosing types, costs several times what the server takes to begin.
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

    def place(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PARAMETER.sub(place, query).encode(), names


class Prepared:
    """Statements prepared on one connection, which nobody else uses at the same time.

    The event loop goes on looking at the connection between two runs: to end that and to begin it
    again took a tenth of the time of an append. Who else uses the connection calls `let_go` first.
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
            psycopg.Error: As the server says, or the connection is lost.
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
        """Ends the transaction. After psycopg's own ROLLBACK nothing would be prepared any more."""
        await self._answer(self._pgconn.send_query, b"ROLLBACK")

    def let_go(self) -> None:
        """Leaves the connection to others until the next run."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket = None

    async def _answer(self, send: Callable[..., object], *arguments: object) -> Any:
        """The result of what is sent; the connection is idle afterwards."""
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
        """Sends or reads some, and takes the results that have come by it.

        Sending may read: a server that is not read from may not take more.
        """
        if self._ended is None or self._ended.done():
            # Nobody waits: the server says goodbye, which the next run will be told.
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
            # libpq has closed the socket, whose number may soon be another's.
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
