"""Record batches to Parquet part files.

In memory are the rows of one row group; what is written is counted, so that a result over its limit
ends early.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.datasets.engine import ROW_GROUP
from vistaflow_services.query.engines.contract import Limits, ResultPart

GROUP_BYTES = 64 << 20
"""About how many bytes of columns a row group has at most."""

PART_BYTES = 256 << 20
"""A part ends with the row group that exceeds this."""


def write(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    folder: Path,
    *,
    limits: Limits,
    limit: int | None,
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> tuple[tuple[ResultPart, ...], bool]:
    """Writes a result; returns its parts and whether `limit` cut it.

    Args:
        batches: The rows, in order.
        schema: Their columns, whose names differ.
        folder: Where the parts go.
        limits: Over its rows or bytes this fails.
        limit: Rows after which it stops.
        metadata: What the files carry.
        progress: Receives the rows and bytes that are written.

    Raises:
        ExhaustedError: The result is over a limit, or the disk is full.
    """
    writer = _Writer(folder, schema.with_metadata(dict(metadata)), limits, progress)
    limited = False
    try:
        for batch in batches:
            room = None if limit is None else limit - writer.rows
            if room is not None and batch.num_rows > room:
                limited = True
                batch = batch.slice(0, room)
            writer.add(batch)
            if limited:
                break
        return writer.finish(), limited
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ExhaustedError(
                "the disk for results is full; free it, or ask for fewer rows", reason="STORAGE"
            ) from None
        raise
    finally:
        writer.close()


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names that differ: one that repeats another, whatever its case, gets `_1` and so on."""
    result: list[str] = []
    taken = {name.casefold() for name in names}
    used: set[str] = set()
    for name in names:
        choice, number = name, 0
        while choice.casefold() in used or (number and choice.casefold() in taken):
            number += 1
            choice = f"{name}_{number}"
        used.add(choice.casefold())
        result.append(choice)
    return result


class _Writer:
    def __init__(
        self, folder: Path, schema: pa.Schema, limits: Limits, progress: Callable[[int, int], None]
    ) -> None:
        self.rows = 0
        self._folder = folder
        self._schema = schema
        self._limits = limits
        self._progress = progress
        self._group: list[pa.RecordBatch] = []
        self._group_rows = self._group_bytes = 0
        self._parts: list[ResultPart] = []
        self._file: Any = None
        self._path = folder
        self._part_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes rows; writes when there are enough for a row group."""
        if not batch.num_rows:
            return
        self.rows += batch.num_rows
        if self.rows > self._limits.rows:
            raise ExhaustedError(
                f"the result has more than {self._limits.rows:,} rows; add a LIMIT or a filter",
                reason="RESULT_ROWS",
            )
        self._group.append(batch)
        self._group_rows += batch.num_rows
        self._group_bytes += batch.nbytes
        if self._group_rows >= ROW_GROUP or self._group_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> tuple[ResultPart, ...]:
        """Writes the rest; all parts."""
        if self._group or not (self._parts or self._file):
            self._flush()
        self._end_part()
        return tuple(self._parts)

    def close(self) -> None:
        """Closes the file of a result that was not finished."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._sink.close()

    def _flush(self) -> None:
        if self._file is None:
            self._path = self._folder / f"part-{len(self._parts):04}.parquet"
            self._sink = self._path.open("wb")
            # Without dictionaries rows take less processor time to write, and to read as Arrow.
            self._file = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
            )
            self._part_rows = 0
        group = [
            pa.RecordBatch.from_arrays(batch.columns, schema=self._schema) for batch in self._group
        ]
        if group:
            self._file.write_table(pa.Table.from_batches(group), row_group_size=self._group_rows)
        self._part_rows += self._group_rows
        self._group, self._group_rows, self._group_bytes = [], 0, 0
        written = sum(part.bytes for part in self._parts) + self._sink.tell()
        self._progress(self.rows, written)
        if written > self._limits.bytes:
            raise ExhaustedError(
                f"the result has more than {self._limits.bytes / 2**20:,.0f} MiB; "
                "add a LIMIT, a filter or select fewer columns",
                reason="RESULT_BYTES",
            )
        if self._sink.tell() >= PART_BYTES:
            self._end_part()

    def _end_part(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._sink.close()
        self._file = None
        size = self._path.stat().st_size
        self._parts.append(ResultPart(path=self._path, rows=self._part_rows, bytes=size))
