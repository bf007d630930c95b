"""The named queries of `sql/*.sql`, and how they are run on any connection.

A line `-- name: <name>` starts a query; the comment under it describes the result.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import cache
from importlib import resources
from typing import Any, LiteralString

import psycopg

from vistaflow_services.registry.database.pool import Connection, Row

_NAME = re.compile(r"^-- name: ([a-z0-9_]+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_MIGRATION = re.compile(r"\d{4}_.+\.sql")


@cache
def load_queries(package: str) -> dict[str, LiteralString]:
    """The queries of `sql/*.sql` in `package`, by name, without their comments.

    Numbered files are migrations and left out.

    Raises:
        ValueError: Two queries share a name.
    """
    # Our own files: as safe as if the queries were literals in the code.
    queries: dict[str, LiteralString] = {}
    for file in sorted((resources.files(package) / "sql").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql") or _MIGRATION.fullmatch(file.name):
            continue
        _, *parts = _NAME.split(file.read_text("utf-8"))
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"{package}: two queries are named {name}")
            # A comment's `%` would be taken for a parameter.
            queries[name] = _COMMENT.sub("", body).strip().rstrip(";")
    return queries


def edited(text: LiteralString, part: LiteralString, by: LiteralString) -> LiteralString:
    """A query with a part replaced, which it must contain exactly once.

    Raises:
        ValueError: It does not: the query was changed, but not its variant.
    """
    count = text.count(part)
    if count != 1:
        raise ValueError(f"`{part}` is {count} times in the query, not once: {text[:200]}")
    return text.replace(part, by)


QUERIES = dict(load_queries("vistaflow_services.registry"))
# One text for two tables: the log, and the states kept of its deleted part.
QUERIES["list_kept_states"] = edited(
    QUERIES["list_states"], "mlops_totalstate_table", "kept_states"
)

SCAN_ROWS = 200_000
"""Rows of the log that one statement may read through for a filter that few rows match."""
FEW_ROWS = 10_000
"""If the kits of a filter have no more rows, these are found by kit and sorted for every page."""
ROWS_AT_ONCE = 500
"""Rows of a result that are converted before the event loop does other work."""
CHUNKS_SINCE = 170_000
"""The first version of libpq that returns several rows of a result at a time, not one or all."""


async def fetch(
    connection: Connection, name: str, parameters: Mapping[str, Any] | None = None
) -> list[Row]:
    """The rows of a named query."""
    return await rows_of(await connection.execute(QUERIES[name], parameters))


async def rows_of(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    """All rows of a cursor. The event loop does other work while they are converted."""
    rows = await cursor.fetchmany(ROWS_AT_ONCE)
    while len(rows) % ROWS_AT_ONCE == 0 and (more := await cursor.fetchmany(ROWS_AT_ONCE)):
        rows += more
        await asyncio.sleep(0)
    return rows


async def slices(
    connection: Connection, name: str, parameters: Mapping[str, Any]
) -> AsyncGenerator[list[Row], None]:
    """The rows of a named query, `ROWS_AT_ONCE` at a time, as they arrive.

    A large result takes long to receive, too, so it is not received as a whole either.
    """
    size = ROWS_AT_ONCE if psycopg.pq.version() >= CHUNKS_SINCE else 1
    rows: list[Row] = []
    async with connection.cursor() as cursor:
        async for row in cursor.stream(QUERIES[name], parameters, size=size):
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
                await asyncio.sleep(0)
    if rows:
        yield rows


async def fetch_slowly(
    connection: Connection, name: str, parameters: Mapping[str, Any]
) -> list[Row]:
    """The rows of a named query whose result may be very large; the event loop is not blocked."""
    rows: list[Row] = []
    async with aclosing(slices(connection, name, parameters)) as parts:
        async for part in parts:
            rows += part
    return rows


async def fetch_planned(
    connection: Connection, text: LiteralString, parameters: Mapping[str, Any]
) -> list[Row]:
    """The rows of a query planned at every execution: the best plan depends on the parameters."""
    return await rows_of(await connection.execute(text, parameters, prepare=False))
