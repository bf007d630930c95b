"""`design.parquet`: the points of a design and the results of their runs.

Columns: `row_id`, a column `x.<name>` a parameter, a column `y.<name>` a response
(null where the point was not run or failed), `failure`, `message` and `log` (null where it did not
fail; the reason, and the end of what the run printed), `seconds` (null where it was not run),
`origin` (where the row was taken from; null where the design made it). How the design was made is
kept in the file's own metadata, so that the file explains itself.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vistaflow_services.decks.space import Columns, Space

ROW_GROUP = 4096
"""Rows that a reader holds at a time."""

IMPORTED = "dataset "
"""What the origin of a row begins with that no simulator of the suite has run."""

METADATA_KEY = b"vistaflow.design"
"""Where the file's metadata says how the design was made, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of the points, in their order."""

    responses: Mapping[str, NDArray[np.float64]]
    """One array a response; not a number where the point was not run or failed."""

    failures: Sequence[str | None]
    """How a run failed, such as `TIMEOUT`; `None` where it did not."""

    messages: Sequence[str] = field(default=())
    """What the simulator said of each failed run; empty where it did not fail."""

    logs: Sequence[str] = field(default=())
    """The end of what each failed run printed."""

    seconds: NDArray[np.float64]
    """How long each run took; not a number where the point was not run."""

    cached_count: int = 0
    """Points that had been run before."""

    substituted_count: int = 0
    """Failed runs that the deck's policy gave values to."""

    origins: Sequence[str] = ()
    """Where each row was taken from; empty where the design made it."""

    @staticmethod
    def not_run(count: int, responses: Sequence[str]) -> Results:
        """The results of a design that was not run."""
        return Results(
            responses={name: np.full(count, np.nan) for name in responses},
            failures=[None] * count,
            messages=[""] * count,
            seconds=np.full(count, np.nan),
        )

    @property
    def evaluated(self) -> bool:
        """Whether any point was run."""
        return bool(np.isfinite(self.seconds).any())

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which runs failed."""
        return np.array([failure is not None for failure in self.failures], dtype=bool)


def write_table(path: Path, columns: Columns, results: Results, about: Mapping[str, Any]) -> None:
    """Writes the table at `path`."""
    metadata = json.dumps(about, sort_keys=True, allow_nan=False)
    rows = result_table(columns, results).replace_schema_metadata({METADATA_KEY: metadata.encode()})
    pq.write_table(rows, path, row_group_size=ROW_GROUP, compression="zstd")


def result_table(
    columns: Columns, results: Results, row_ids: Sequence[int] | None = None
) -> pa.Table:
    """The points and their results as the table has them.

    Args:
        columns: The points.
        results: Their results.
        row_ids: Their numbers; from 0 by default.
    """
    count = len(results.seconds)
    numbers = np.arange(count) if row_ids is None else row_ids
    named: dict[str, Any] = {"row_id": pa.array(numbers, pa.int64())}
    named |= {f"x.{name}": pa.array(column.tolist()) for name, column in columns.items()}
    named |= {
        f"y.{name}": pa.array(values, pa.float64(), from_pandas=True)
        for name, values in results.responses.items()
    }
    named["failure"] = pa.array(results.failures, pa.string())
    words = {"message": results.messages, "log": results.logs, "origin": results.origins}
    for name, texts in words.items():
        named[name] = pa.array([text or None for text in texts] or [None] * count, pa.string())
    named["seconds"] = pa.array(results.seconds, pa.float64(), from_pandas=True)
    return pa.table(named)


def read_columns(path: Path, space: Space) -> Columns:
    """The points of a table as columns, canonical as they were written."""
    table = pq.read_table(path, columns=[f"x.{name}" for name in space.names])
    columns = {name: table.column(f"x.{name}").to_pylist() for name in space.names}
    return {name: np.array(values) for name, values in columns.items()}


def read_about(path: Path) -> dict[str, Any]:
    """How the design of a table was made."""
    about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[METADATA_KEY])
    return about


def row_count(path: Path) -> int:
    """How many rows a table has."""
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def iterate_rows(path: Path, *, offset: int = 0, limit: int = 0) -> Iterator[dict[str, Any]]:
    """Rows from `offset` on, at most `limit` (0: all), holding one row group at a time."""
    remaining = limit or None
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if offset >= size:
                offset -= size
                continue
            rows = file.read_row_group(group).slice(offset, remaining).to_pylist()
            offset = 0
            yield from rows
            if remaining is not None:
                remaining -= len(rows)
                if remaining <= 0:
                    return


def iterate_csv(
    path: Path,
    *,
    offset: int = 0,
    limit: int = 0,
    chunk_bytes: int,
    cell: Callable[[Any], Any],
) -> Iterator[bytes]:
    """The rows as CSV (RFC 4180) with a header line, in chunks of at least `chunk_bytes`.

    Args:
        path: The table.
        offset: The first row.
        limit: Most rows; all if 0.
        chunk_bytes: Least bytes of a chunk that is not the last.
        cell: What is written of a value, such as text guarded against formulas.
    """
    rows = iterate_rows(path, offset=offset, limit=limit)
    return csv_of(pq.read_schema(path).names, rows, chunk_bytes=chunk_bytes, cell=cell)


def csv_of(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    chunk_bytes: int,
    cell: Callable[[Any], Any],
) -> Iterator[bytes]:
    """Rows as CSV; see `iterate_csv`."""
    # What a run printed has many lines: it is in the rows, and in the file itself.
    names = [name for name in columns if name != "log"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        writer.writerow("" if row[name] is None else cell(row[name]) for name in names)
        if text.tell() >= chunk_bytes:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    if text.tell():
        yield text.getvalue().encode()


def iterate_file(path: Path, *, chunk_bytes: int) -> Iterator[bytes]:
    """The file itself, in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk
