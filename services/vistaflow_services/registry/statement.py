"""A statement that one connection runs over and over, by libpq's own calls.

What psycopg does around them for every execution, such as looking for the parameters in a text of
8 kB and choosing types, costs several times what the server takes to begin.
"""

from __future__ import annotations

import asyncio
import re
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
    """Statements prepared on one connection, which nobody else uses at the same time."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._pgconn: Any = connection.pgconn
        self._names: dict[str, bytes] = {}

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
            self._pgconn.send_prepare(prepared, text)
            await self._result()
            self._names[query] = prepared
        values = [str(parameters[name]).encode() for name in names]
        self._pgconn.send_query_prepared(prepared, values, result_format=_BINARY)
        result = await self._result()
        value: bytes | None = result.get_value(0, 0) if result.ntuples else None
        return value

    async def roll_back(self) -> None:
        """Ends the transaction. After psycopg's own ROLLBACK nothing would be prepared any more."""
        self._pgconn.send_query(b"ROLLBACK")
        await self._result()

    async def _result(self) -> Any:
        """The result of what was sent; the connection is idle afterwards."""
        pgconn, loop = self._pgconn, asyncio.get_running_loop()
        socket = pgconn.socket
        ready = asyncio.Event()
        loop.add_reader(socket, ready.set)
        writing = False
        try:
            while pgconn.flush():
                if not writing:
                    writing = True
                    loop.add_writer(socket, ready.set)
                await ready.wait()
                ready.clear()
                # Or both sides could wait for the other to read.
                pgconn.consume_input()
            if writing:
                loop.remove_writer(socket)
                writing = False
            results: list[Any] = []
            while True:
                while pgconn.is_busy():
                    await ready.wait()
                    ready.clear()
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    break
                results.append(result)
        finally:
            loop.remove_reader(socket)
            if writing:
                loop.remove_writer(socket)
        (result,) = results
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        return result
