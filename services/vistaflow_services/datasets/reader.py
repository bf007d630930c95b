"""Rows of a version as record batches.

One part is fetched and open at a time, and a part that lies wholly before the first row is not
fetched at all. Memory is that of the engine and of one batch, whose number of rows follows from
the average size of the part's rows; the disk holds one part of a store that is elsewhere.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pyarrow as pa

from vistaflow_services.core.errors import field_error
from vistaflow_services.datasets.engine import MEMORY_BYTES, Engine, named, no_rows, parquet
from vistaflow_services.datasets.manifest import (
    REJECT_COLUMNS,
    Column,
    Part,
    Table,
    find_column,
)
from vistaflow_services.datasets.parts import fetched, locations
from vistaflow_services.stores.blobs import BlobStore

BATCH_ROWS = 65_536
"""Most rows of a batch."""

BATCH_BYTES = 16 << 20
"""About how many bytes of columns a batch has at most."""


def read(
    table: Table,
    store: BlobStore,
    folder: Path,
    *,
    columns: Sequence[str] = (),
    filter: str = "",
    offset: int = 0,
    limit: int | None = None,
    rejects: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    opened: Callable[[Engine], None] = lambda _: None,
) -> Generator[pa.RecordBatch, None, None]:
    """The rows of a table, in its order.

    Mistakes of the request are raised by this call; those of the store, while iterating.

    Args:
        table: The table of a manifest.
        store: Where its parts are.
        folder: An existing folder for temporary files.
        columns: Which columns, in this order; all if empty.
        filter: An expression that the rows fulfil; all rows if empty.
        offset: How many rows that fulfil it are left out first.
        limit: How many rows there are at most.
        rejects: Whether to read the rejected rows instead.
        memory_bytes: Memory of the engine.
        opened: Gets the engine, which another thread may interrupt.

    Raises:
        InvalidError: A column or the filter does not fit the table; names the field.
        DataLossError: A part is damaged in every store.
        UnavailableError: A store does not answer.
    """
    parts = table.rejects if rejects else table.parts
    known = (*table.columns, *REJECT_COLUMNS) if rejects else table.columns
    for field, number in (("offset", offset), ("limit", limit or 0)):
        if number < 0:
            raise field_error(field, f"is {number}; it is at least 0")
    selected = _selected(table, columns, rejects=rejects)
    condition = ""
    if filter:
        from vistaflow_services.datasets.expressions import safe_sql

        condition = safe_sql(filter, known, "filter")
    if condition:
        _check_filter(known, condition, folder)
    select = f"SELECT {', '.join(named(column.name) for column in selected)}"
    return _batches(parts, store, folder, select, condition, offset, limit, memory_bytes, opened)


def schema(
    table: Table, folder: Path, *, columns: Sequence[str] = (), rejects: bool = False
) -> pa.Schema:
    """The Arrow schema of the rows that `read` yields; for tables without rows.

    Raises:
        InvalidError: A column does not fit the table.
    """
    with Engine(folder) as engine:
        return engine.schema(_selected(table, columns, rejects=rejects))


def _selected(table: Table, columns: Sequence[str], *, rejects: bool) -> Sequence[Column]:
    known = (*table.columns, *REJECT_COLUMNS) if rejects else table.columns
    return [
        find_column(known, name, f"columns[{index}]") for index, name in enumerate(columns)
    ] or known


def _check_filter(columns: Sequence[Column], condition: str, folder: Path) -> None:
    """Evaluates the filter on no rows, so that its types are checked before anything is sent."""
    with Engine(folder) as engine:
        engine.rows(f"SELECT 1 FROM {no_rows(columns)} WHERE {condition}", field="filter")


def _batches(
    parts: Sequence[Part],
    store: BlobStore,
    folder: Path,
    select: str,
    condition: str,
    offset: int,
    limit: int | None,
    memory_bytes: int,
    opened: Callable[[Engine], None],
) -> Generator[pa.RecordBatch, None, None]:
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="read-", dir=folder)))
        readable = locations(store, parts, scratch)
        engine = stack.enter_context(Engine(scratch, readable, memory_bytes=memory_bytes))
        opened(engine)
        rest = limit
        for part in parts:
            if rest == 0:
                return
            if not condition and offset >= part.row_count:
                offset -= part.row_count
                continue
            with fetched(store, [part], scratch) as paths:
                query = f"{select} FROM {parquet(paths)}"
                query += f" WHERE {condition}" if condition else ""
                if not condition:  # the engine then skips rows without decoding them
                    query += "" if rest is None else f" LIMIT {rest}"
                    query += f" OFFSET {offset}" if offset else ""
                    offset = 0
                for batch in engine.batches(query, _batch_rows(part), field="filter"):
                    skipped = min(offset, batch.num_rows)
                    offset -= skipped
                    piece = batch.slice(skipped, rest)
                    rest = None if rest is None else rest - piece.num_rows
                    if piece.num_rows:
                        yield piece
                    if rest == 0:
                        return


def _batch_rows(part: Part) -> int:
    average = max(1, part.memory_bytes // part.row_count)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // average))
