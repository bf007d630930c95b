"""What every engine does, and the values it takes and returns.

    engine.validate(query)   the columns of the result; nothing is read from the tables
    engine.run(query, …)     the result as Parquet files

Both block. A caller has checked the text with `statement.parse` and converted it with
`conversion.converted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.statement import Dialect


class FileFormat(StrEnum):
    """The format of a table's files."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One local file of a table."""

    path: Path
    partition: tuple[str | None, ...] = ()
    """The values of the table's partition keys as text; None is null."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table that a query reads."""

    relation: tuple[str, ...]
    """What the converted SQL calls it, the same as in `converted`: for files one name, unique
    within the query; for a table that Trino has, its catalog, schema and name."""

    columns: tuple[Column, ...] = ()
    """The columns of the files, with DuckDB's types. Of Parquet they may be left out for DuckDB,
    which then takes those of the files; CSV and JSON files are read with these types and no
    others."""

    partitions: tuple[Column, ...] = ()
    """The partition keys, with DuckDB's types: the one declaration for both engines. They follow
    the columns."""

    format: FileFormat = FileFormat.PARQUET
    files: tuple[DataFile, ...] = ()
    """In partition order, in which they are read. Empty: no rows; then `columns` is required."""

    header: bool = True
    """Whether the first line of a CSV file has names."""

    stored: bool = False
    """Whether the engine has the table already: a table of Trino, without files."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What an engine runs."""

    sql: str
    """From `converted`, for this engine."""

    tables: tuple[SourceTable, ...] = ()
    limit: int | None = None
    """The limit that `converted` was called with: the result has at most as many rows."""

    dialect: Dialect = Dialect.TRINO
    """What the query was written in: 7/2 is 3 in Trino's dialect and 3.5 in DuckDB's."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the Parquet files carry, such as the user's SQL."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one query may use. Over `rows` or `bytes` it fails; nothing is cut silently."""

    seconds: float = 300.0
    """Wall clock."""

    memory_bytes: int = 1 << 30
    """Of the engine; it spills above that."""

    disk_bytes: int = 8 << 30
    """Of what it spills."""

    threads: int = 1
    rows: int = 100_000_000
    """Of the result."""

    bytes: int = 8 << 30
    """Of the result's files."""


DEFAULTS = Limits()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a query is."""

    phase: str
    """`queued`, `planning` or `running`."""

    rows: int = 0
    """Of the result, written so far."""

    bytes: int = 0
    """Of the result's files, written so far."""

    percent: float | None = None
    """Of the work, as the engine estimates it."""


@dataclass(frozen=True, kw_only=True)
class ResultPart:
    """One Parquet file of a result."""

    path: Path
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a query answered; the files are in the order of the rows."""

    columns: tuple[Column, ...]
    """With DuckDB's types."""

    parts: tuple[ResultPart, ...]
    """At least one; without rows it has the columns alone."""

    limited: bool
    """Whether `Query.limit` cut it."""

    plan_seconds: float
    run_seconds: float
    engine: str
    """The engine and its version, such as `duckdb 2.0.1`."""

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(part.bytes for part in self.parts)


class QueryCanceled(Exception):
    """The query was asked to stop and has stopped; it has no result."""


def never() -> bool:
    """Runs it to its end."""
    return False


def silent(progress: Progress) -> None:
    """Drops it."""


class Engine(Protocol):
    """Runs queries."""

    dialect: Dialect
    """What its SQL must be written in."""

    def validate(self, query: Query, limits: Limits = DEFAULTS) -> tuple[Column, ...]:
        """The columns of the result, without running the query.

        Raises:
            QueryError: The engine does not accept the SQL; see `lineage.located`.
            UnavailableError: The engine does not answer.
        """

    def run(
        self,
        query: Query,
        folder: Path,
        *,
        limits: Limits = DEFAULTS,
        should_stop: Callable[[], bool] = never,
        progress: Callable[[Progress], None] = silent,
    ) -> Result:
        """Runs the query and writes its result to `part-0000.parquet` and so on.

        Memory is bounded by that of the engine and one row group.

        Args:
            query: What to run.
            folder: An existing empty folder for the parts; when this raises, it is empty again.
            limits: What it may use.
            should_stop: Asked about ten times a second; the query then ends within 2 s.
            progress: Called at most ten times a second.

        Raises:
            QueryCanceled: `should_stop` said so.
            QueryError: The engine refused the SQL, or a value does not allow it.
            ExhaustedError: It needs more than a limit: reason QUERY_MEMORY, QUERY_DISK,
                RESULT_ROWS, RESULT_BYTES or STORAGE.
            TooSlowError: It took longer than `limits.seconds`; reason QUERY_TIME.
            NotFoundError: A file of a table is gone; reason SOURCE_GONE.
            UnavailableError: The engine does not answer or lost the query; reason ENGINE.
        """
