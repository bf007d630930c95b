"""The result of a query, fetched in chunks as it is needed."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vistaflow._rows import check_pandas, python_values
from vistaflow.api.query.v1 import query_pb2
from vistaflow.errors import MissingPackageError, UnavailableError, invalid

if TYPE_CHECKING:
    import pandas
    import pyarrow

FORMATS: Final = {
    "arrow": query_pb2.RESULT_FORMAT_ARROW,
    "csv": query_pb2.RESULT_FORMAT_CSV,
    "json": query_pb2.RESULT_FORMAT_JSON_OBJECTS,
    "json-arrays": query_pb2.RESULT_FORMAT_JSON_ARRAYS,
    "parquet": query_pb2.RESULT_FORMAT_PARQUET,
}

TRIES: Final = 6
"""How often a download that broke off is continued where nothing arrived in between."""

_RESUMABLE: Final = ("csv", "json", "json-arrays")
"""Formats whose messages say which rows end in them."""

CHUNK_ROWS: Final = 65_536
"""Rows of a chunk, unless the caller asks for another number."""

Fetch = Callable[[query_pb2.FetchResultRequest], AsyncIterator[query_pb2.FetchResultResponse]]


class AsyncQueryResult:
    """A finished query and its rows, which stay in the service until they are fetched.

    Args:
        query: The query.
        fetch: Streams rows.
        reused: Whether it is an earlier query, whose result is reused.
    """

    def __init__(self, query: query_pb2.Query, fetch: Fetch, *, reused: bool = False) -> None:
        self.query = query
        self.reused = reused
        self._fetch = fetch

    @property
    def query_id(self) -> str:
        """The id of the query."""
        return self.query.query_id

    def __len__(self) -> int:
        return self.query.row_count

    def __repr__(self) -> str:
        limited = ", limited=True" if self.query.limited else ""
        return f"QueryResult({self.query_id!r}, rows={self.query.row_count}{limited})"

    async def chunks(
        self, rows: int = CHUNK_ROWS, *, offset: int = 0, limit: int = 0
    ) -> AsyncIterator[pyarrow.RecordBatch]:
        """The rows as record batches, each fetched when it is needed.

        Args:
            rows: Most rows of one.
            offset: Rows to leave out first.
            limit: Most rows; 0 for all.
        """
        if rows < 1:
            raise invalid("rows", f"{rows!r} is not at least 1")
        arrow = _pyarrow()
        end = min(self.query.row_count, offset + limit) if limit else self.query.row_count
        while offset < end:
            data = await self._again(offset, min(rows, end - offset))
            with arrow.ipc.open_stream(data) as reader:
                batch = reader.read_all().combine_chunks()
            offset += batch.num_rows
            for piece in batch.to_batches():
                yield piece
            if not batch.num_rows:
                return

    async def read(self, format: str, *, offset: int = 0, limit: int = 0) -> bytes:
        """Rows in a format: `arrow`, `csv`, `json`, `json-arrays` or `parquet`.

        Args:
            format: The format.
            offset: Rows to leave out first.
            limit: Most rows; 0 for all, which have to fit into memory.
        """
        blocks = [block async for block in self.blocks(format, offset, limit)]
        return b"".join(blocks)

    async def save(self, path: str | os.PathLike[str], format: str = "") -> Path:
        """Writes all rows to a file, which appears once it is complete.

        Args:
            path: The file; one that is there is replaced.
            format: As of `read`; by the end of the path if empty, and CSV if that says nothing.
        """
        target = Path(path)
        format = format or (target.suffix[1:] if target.suffix[1:] in FORMATS else "csv")
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            try:
                with await asyncio.to_thread(temporary.open, "xb") as file:
                    async for block in self.blocks(format, 0, 0):
                        await asyncio.to_thread(file.write, block)
                await asyncio.to_thread(os.replace, temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise invalid("path", f"{target} cannot be written: {error.strerror}") from error
        return target

    async def to_arrow(self) -> pyarrow.Table:
        """All rows as a table of Arrow, with exact types."""
        batches = [batch async for batch in self.chunks(CHUNK_ROWS * 16)]
        if batches:
            return _pyarrow().Table.from_batches(batches)
        with _pyarrow().ipc.open_stream(await self.read("arrow")) as reader:
            return reader.read_all()

    async def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame."""
        check_pandas()
        return (await self.to_arrow()).to_pandas()

    async def to_numpy(self) -> dict[str, Any]:
        """All rows as an array for each column, by its name."""
        table = await self.to_arrow()
        return {
            name: column.to_numpy()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }

    async def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows as tuples of Python's values."""
        return _tuples(await self.to_arrow())

    async def to_sqlite(self, path: str | os.PathLike[str], table: str) -> int:
        """Writes all rows to a table of an SQLite database; a table of that name is replaced.

        Whole numbers, floats, texts and bytes stay what they are; decimals, times and whole
        numbers of more than 64 bits become text, lists and structs their JSON.

        Args:
            path: The database, which is made if it is not there.
            table: The table.

        Returns:
            How many rows there are.
        """
        if not table or "\0" in table:
            raise invalid("table", f"{table!r} is no name of a table")
        name, columns = _quoted(table), [column.name for column in self.query.columns]
        try:
            # Written by one thread after another, never by two at once.
            with closing(
                sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            ) as db:
                db.execute("BEGIN")
                db.execute(f"DROP TABLE IF EXISTS {name}")
                db.execute(f"CREATE TABLE {name} ({', '.join(map(_quoted, _distinct(columns)))})")
                insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})"
                async for batch in self.chunks():
                    rows = [tuple(map(_for_sqlite, row)) for row in _tuples(batch)]
                    await asyncio.to_thread(db.executemany, insert, rows)
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise invalid("path", f"{os.fspath(path)} cannot be written: {error}") from error
        return len(self)

    async def first(self, rows: int) -> list[list[Any]]:
        """The first rows as JSON has them, for people to read.

        Args:
            rows: Most rows.
        """
        text = await self.read("json-arrays", limit=rows)
        return [json.loads(line) for line in text.splitlines()]

    async def blocks(self, format: str, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """Rows in a format, in blocks of at most 1 MiB; see `read`."""
        if format not in FORMATS:
            raise invalid("format", f"{format!r} is none of {', '.join(FORMATS)}")
        request = query_pb2.FetchResultRequest(
            query_id=self.query_id, format=FORMATS[format], offset=offset, limit=limit
        )
        tries, header = 0, format == "csv" and not offset
        end = offset + limit
        while True:
            # Of rows that have not come to their end, nothing is passed on.
            rows: list[bytes] = []
            request.header = header
            try:
                async for message in self._fetch(request):
                    if format not in _RESUMABLE:
                        yield message.data
                        continue
                    rows.append(message.data)
                    if message.next_offset or header:
                        tries, header = 0, False
                        request.offset = message.next_offset or request.offset
                        request.limit = max(0, end - request.offset) if limit else 0
                        for block in rows:
                            yield block
                        rows = []
                return
            except UnavailableError:
                if format not in _RESUMABLE or tries == TRIES:
                    raise
                if limit and not request.limit:
                    return
                tries += 1
                await asyncio.sleep(0.1 * 2**tries)

    async def _again(self, offset: int, limit: int) -> bytes:
        """Rows as an Arrow stream, asked for again while the service is away."""
        for tried in range(1, TRIES + 1):
            try:
                return await self.read("arrow", offset=offset, limit=limit)
            except UnavailableError:
                await asyncio.sleep(0.1 * 2**tried)
        return await self.read("arrow", offset=offset, limit=limit)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            "this needs pyarrow: pip install pyarrow", reason="MISSING_PACKAGE"
        ) from error
    return pyarrow


def _tuples(table: Any) -> list[tuple[Any, ...]]:
    columns = [python_values(column) for column in table.columns]
    return list(zip(*columns, strict=True)) if columns else []


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _distinct(names: list[str]) -> list[str]:
    """Names that differ in more than case, as SQLite wants them."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def _for_sqlite(value: Any) -> Any:
    if value is None or isinstance(value, float | str | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
