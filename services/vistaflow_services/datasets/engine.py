"""DuckDB, confined to its files, its memory and its disk.

One engine serves one operation and has one thread: the order of rows and the bytes of files then
depend on the input alone. Memory is bounded by `memory_bytes`, above which joins, sorts and groups
spill to the scratch folder, and the spilled bytes by `disk_bytes`.

Only statements of this package are executed. They contain expressions of callers after
`expressions` has checked and rendered them again. As a second barrier the engine may read the
scratch folder and the listed files, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vistaflow_services.core.errors import ExhaustedError, field_error
from vistaflow_services.datasets.manifest import Column

MEMORY_BYTES = 512 << 20
DISK_BYTES = 64 << 30

ROW_GROUP = 122_880
"""Rows of a Parquet row group: what is in memory at once when a file is written."""

PART_GROUPS = 32
"""Row groups of a part: 3.9 million rows. Erasure writes the parts again that hold its rows."""

_WRITE = (
    "FORMAT parquet, COMPRESSION zstd, "
    # Version 2 chooses the encoding by the kind of data: a dictionary for repeated values,
    # byte-stream split for measurements, deltas for counters and times.
    f"PARQUET_VERSION v2, ROW_GROUP_SIZE {ROW_GROUP}"
)
_LOOK_SECONDS = 0.5

_TYPES = re.compile(
    r"(?<=argument types ')[^'\n]{1,100}(?=')|(?<=values of )type [^-\n]{1,100}(?= - )"
)
"""A call with the types of its arguments, or the types of what is compared."""

_LINE = re.compile(r"CSV Error on Line: (\d+)")
_COUNTS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_RECORD = re.compile(r"at byte (\d+) in (?:line|record/value) (\d+): ([a-z ]+)")


class Engine:
    """A connection to a DuckDB in memory."""

    def __init__(
        self,
        scratch: Path,
        readable: Iterable[Path] = (),
        *,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        """Opens the engine.

        Args:
            scratch: An existing folder for spilled and written files, of this operation alone.
            readable: Files that may be read besides those in `scratch`.
            memory_bytes: Memory of the engine.
            disk_bytes: Disk for what it spills.
        """
        self.scratch = scratch
        self.memory_bytes = memory_bytes
        self.step = ""
        """What it does now, for people."""

        self.stored: float | None = None
        """How much of its files is stored, from 0 to 1, once that has begun."""
        import duckdb

        self._connection = duckdb.connect(config={"threads": 1})
        settings = {
            "memory_limit": quoted(f"{memory_bytes}B"),
            "temp_directory": quoted(str(scratch / "spill")),
            "max_temp_directory_size": quoted(f"{disk_bytes}B"),
            # `fraction` needs it; nothing is printed.
            "enable_progress_bar": "true",
            "enable_progress_bar_print": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "TimeZone": "'UTC'",
            # A join then reads its left side in order and holds the right side, as it is written.
            "disabled_optimizers": "'build_side_probe_side,join_order'",
            "allowed_paths": listed(str(path) for path in readable),
            "allowed_directories": listed([str(scratch)]),
            "enable_external_access": "false",
            "lock_configuration": "true",
        }
        for name, value in settings.items():
            self._connection.execute(f"SET {name} = {value}")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def fraction(self) -> float:
        """How much of what it does is done, from 0 to 1; for another thread."""
        if self.stored is not None:
            return self.stored
        return min(1.0, max(0.0, self._connection.query_progress() / 100))

    def interrupt(self) -> None:
        """Ends the running statement with an error; for another thread."""
        self._connection.interrupt()

    @contextlib.contextmanager
    def watched(self, watch: Callable[[str, float], None]) -> Iterator[None]:
        """Calls `watch` with step and fraction, about twice a second, until the block ends."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(_LOOK_SECONDS):
                watch(self.step, self.fraction)

        thread = threading.Thread(target=look, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def schema(self, columns: Iterable[Column]) -> pa.Schema:
        """The Arrow schema of columns."""
        return self._connection.sql(f"FROM {no_rows(columns)}").to_arrow_reader(1).schema

    def rows(self, statement: str, *, field: str = "source") -> list[tuple[Any, ...]]:
        """Executes a statement; all rows of its result, which must be few.

        Raises:
            InvalidError: The data does not allow it; the message names `field`.
            ExhaustedError: It needs more memory or disk than it may use.
        """
        with failures(field):
            return self._connection.execute(statement).fetchall()

    def count(self, relation: str, *, field: str = "source") -> int:
        """Rows of a relation, an SQL text that may follow FROM."""
        return int(self.rows(f"SELECT count(*) FROM {relation}", field=field)[0][0])

    def columns(self, relation: str, *, field: str = "source") -> tuple[Column, ...]:
        """Columns of a relation."""
        described = self.rows(f"DESCRIBE SELECT * FROM {relation}", field=field)
        return tuple(Column(name=row[0], type=row[1]) for row in described)

    def write(self, query: str, name: str, *, level: int = 3, field: str = "source") -> list[Path]:
        """Writes the rows of a query, in their order, to Parquet files below the scratch folder.

        Args:
            query: The query.
            name: Of a folder that does not exist yet.
            level: Of the compression; 1 is quicker and larger, for what is rarely read.
            field: What messages are about.

        Returns:
            The files in the order of the rows; an empty one if there are no rows.
        """
        folder = self.scratch / name
        self.rows(
            f"COPY ({query}) TO {quoted(str(folder))} "
            f"({_WRITE}, COMPRESSION_LEVEL {level}, ROW_GROUPS_PER_FILE {PART_GROUPS}, "
            "FILENAME_PATTERN 'part_{i}')",
            field=field,
        )
        return sorted(folder.iterdir(), key=lambda path: int(path.stem.removeprefix("part_")))

    def stage(self, query: str, name: str, *, field: str = "source") -> Path:
        """Writes the rows of a query to one temporary Parquet file in the scratch folder."""
        path = self.scratch / name
        self.rows(
            f"COPY ({query}) TO {quoted(str(path))} (FORMAT parquet, COMPRESSION lz4_raw)",
            field=field,
        )
        return path

    def register(self, name: str, reader: pa.RecordBatchReader) -> None:
        """Makes a stream of record batches readable, once, under a name."""
        self._connection.register(name, reader)

    def batches(self, query: str, row_count: int, *, field: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query as they are computed, at most `row_count` in a batch."""
        with failures(field):
            # Not `execute`: that result is copied as a whole when it is read as Arrow.
            yield from self._connection.sql(query).to_arrow_reader(row_count)


@contextlib.contextmanager
def failures(field: str) -> Iterator[None]:
    """DuckDB's errors as those of a service; their texts contain SQL, paths and values."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise ExhaustedError(
            f"{field}: needs more memory or disk than the job may use; "
            "raise the job's memory, or use fewer or narrower columns",
            reason="ENGINE_MEMORY",
        ) from None
    except duckdb.IOException as error:
        if os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error):
            raise ExhaustedError(
                f"{field}: the disk of the service is full; free some space, then retry the job",
                reason="DISK_FULL",
            ) from None
        raise ExhaustedError(
            f"{field}: a file cannot be read or written; the disk may be full",
            reason="ENGINE_STORAGE",
        ) from None
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise field_error(field, _problem(str(error))) from None


def _problem(text: str) -> str:
    """What DuckDB says of the data, without what it quotes."""
    if line := _LINE.search(text):
        where = f"line {line[1]}"
        if counts := _COUNTS.search(text):
            return f"{where} has {counts[2]} values, not {counts[1]} as there are names"
        if "unicode" in text or "utf-8" in text:
            return f"{where} is not UTF-8; convert the file to UTF-8"
        if "unterminated quote" in text:
            return f"{where} has a quote that does not end; double the quotes inside of values"
        if "Maximum line size" in text:
            return f"{where} is longer than 2,000,000 bytes; is a quote missing at its end?"
        return f"{where} is not CSV as the lines before it; check its quotes and its encoding"
    if record := _RECORD.search(text):
        return f"is not valid JSON: {record[3].strip()} near byte {record[1]}, record {record[2]}"
    if "duplicate key" in text:
        return "has an object with one key twice; convert the file with ConvertJson first"
    if "expected records" in text:
        return "is not objects in one array or one a line; ConvertJson reads other forms of JSON"
    if "maximum_object_size" in text:
        return "has an object of more than 16 MiB; convert the file with ConvertJson first"
    if types := _TYPES.search(text):
        return (
            f"does not fit the types of its columns: {types[0].replace('_LITERAL', '')}; declare "
            "another type for the column, or write CAST(… AS …)"
        )
    if "Could not convert" in text or "Conversion Error" in text:
        return "has a value that does not fit its type; in expressions write TRY_CAST"
    return "cannot be read as declared; check its format and the types of its columns"


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(texts: Iterable[str]) -> str:
    """Texts as an SQL list."""
    return f"[{', '.join(quoted(text) for text in texts)}]"


def parquet(paths: Iterable[Path], options: str = "") -> str:
    """The relation of Parquet files."""
    # A folder called `key=value` above them is not a column.
    return f"read_parquet({listed(str(path) for path in paths)}, hive_partitioning=false{options})"


def no_rows(columns: Iterable[Column]) -> str:
    """The relation of no rows with these columns, to check expressions with."""
    nulls = ", ".join(f"CAST(NULL AS {column.type}) AS {named(column.name)}" for column in columns)
    return f"(SELECT {nulls} LIMIT 0)"
