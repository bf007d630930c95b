"""Datasets, their versions, tables and columns as frozen values, and how they are shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow import _html
from vistaflow._rows import Rows, short_repr
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.errors import NotFoundError

ValueT = TypeVar("ValueT")

BARS: Final = "▁▂▃▄▅▆▇█"
"""Bars of a histogram by height; a bin without rows is a space."""


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A version of a dataset; it never changes."""

    version: int
    """Its number, from 1."""
    created_at: datetime | None
    rows: int
    """Accepted rows of all tables."""
    rejected_rows: int
    size_bytes: int
    source: str
    """What it was made from."""
    job_id: str
    """The job that made it."""
    parent: int
    """The version that it was made from; 0: none."""
    pinned: bool
    """Whether retention never removes it."""
    aliases: tuple[str, ...]
    digest: str
    """SHA-256 of its content: equal for equal tables."""
    pb: datasets_pb2.DatasetVersion = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "version", "rows", "rejected_rows", "aliases", "source")


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A dataset of a list."""

    project: str
    name: str
    latest: DatasetVersion | None
    """The latest version; None if there is none."""
    version_count: int
    size_bytes: int
    """Of all versions; what they share counts once."""
    aliases: Mapping[str, int]
    """The versions that have a name."""
    quota_bytes: int
    """Most bytes of all versions; 0: what its project has left."""
    max_versions: int
    """Most versions, the oldest go first; 0: all are kept."""
    max_age: timedelta | None
    """Versions older than this go; None: none."""
    labels: Mapping[str, str]
    description: str
    created_at: datetime | None
    pb: datasets_pb2.Dataset = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "project", "name", "latest", "version_count", "description")


@dataclass(frozen=True, kw_only=True)
class DatasetColumn:
    """A column of a table; the figures are there if the version has a profile."""

    name: str
    type: str
    """As DuckDB writes it, such as BIGINT."""
    null_count: int
    distinct_count: int
    """Approximate."""
    minimum: str
    maximum: str
    bounds: tuple[float, ...]
    """Upper bounds, inclusive, of the bins of a histogram; of numbers only."""
    counts: tuple[int, ...]
    """Rows of each bin."""
    pb: datasets_pb2.DatasetColumn = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class DatasetTable:
    """A table of a version, and what became of the rows of its source."""

    name: str
    columns: Rows[DatasetColumn]
    primary_key: tuple[str, ...]
    references: tuple[str, ...]
    """Such as `user_id -> user.id`."""
    rows: int
    """Accepted rows."""
    read_rows: int
    """Rows of the source: accepted, rejected and dropped ones."""
    rejected: Mapping[str, int]
    """Rejected rows by the first rule that they violate."""
    dropped_rows: int
    """Duplicates that were not recorded."""
    orphans: Mapping[str, int]
    """Accepted rows that refer to no row, by reference."""
    size_bytes: int
    profiled: bool
    """Whether the columns have figures."""
    pb: datasets_pb2.DatasetTable = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "name", "rows", "rejected", "primary_key", "references")

    @property
    def rejected_rows(self) -> int:
        """Rejected rows by all rules."""
        return sum(self.rejected.values())


class DatasetFigures:
    """A version of a dataset, seen as one of its tables.

    Args:
        answer: What the registry knows.
        table: The table; empty for the first or only one.
        rejects: Whether its rows are the rejected ones.
    """

    def __init__(
        self, answer: datasets_pb2.GetDatasetResponse, table: str = "", *, rejects: bool = False
    ) -> None:
        if not answer.HasField("version"):
            raise NotFoundError(f"dataset {full_name(answer.dataset)} has no version yet")
        self.pb = answer
        self.summary = summary_of(answer.dataset)
        self.version = version_of(answer.version)
        self.tables: Rows[DatasetTable] = Rows(map(table_of, answer.tables))
        self.is_rejects = rejects
        """Whether its rows are the rejected ones."""
        names = [entry.name for entry in self.tables]
        if table and table not in names:
            raise NotFoundError(
                f"dataset {self.name} has no table {table}; it has {', '.join(names)}"
            )
        # A table with very many columns does not fit the answer.
        first = self.tables[0] if self.tables else table_of(datasets_pb2.DatasetTable())
        self._table = self.tables[names.index(table)] if table else first

    @property
    def name(self) -> str:
        """Its name with its version, such as `whisky@3`, by which the services find it."""
        return f"{full_name(self.pb.dataset)}@{self.version.version}"

    @property
    def table_name(self) -> str:
        """The table that is read."""
        return self._table.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the table's columns, in order."""
        return tuple(column.name for column in self._table.columns)

    @property
    def rows(self) -> int:
        """The rows of the table."""
        return self._table.rejected_rows if self.is_rejects else self._table.rows

    @property
    def document(self) -> dict[str, Any]:
        """All that is known, for programs: `dataset`, `version` and `tables`."""
        return {"dataset": self.summary, "version": self.version, "tables": self.tables}

    @property
    def report(self) -> Rows[dict[str, Any]]:
        """What the rules did: a mapping for each table, with the rows by what became of them."""
        return Rows(
            {
                "table": table.name,
                "read": table.read_rows,
                "accepted": table.rows,
                "dropped": table.dropped_rows,
                **{f"rejected.{rule}": count for rule, count in table.rejected.items()},
                **{f"orphans.{name}": count for name, count in table.orphans.items()},
            }
            for table in self.tables
        )

    @property
    def profile(self) -> Rows[DatasetColumn]:
        """The columns of the table with their figures; none if the version has no profile."""
        return self._table.columns if self._table.profiled else Rows()

    def __repr__(self) -> str:
        rejects = ", rejects" if self.is_rejects else ""
        return f"{type(self).__name__}({self.name}, {self.table_name}: {self.rows:,} rows{rejects})"

    def _repr_html_(self) -> str:
        tables = [
            (table.name, f"{table.rows:,}", f"{table.rejected_rows:,}", _mapped(table.orphans))
            for table in self.tables
        ]
        columns = [
            (
                column.name,
                column.type,
                *((column.null_count, column.distinct_count) if self._table.profiled else ("", "")),
                f"{column.minimum} … {column.maximum}" if column.minimum else "",
                bars(column.counts),
            )
            for column in self._table.columns
        ]
        headings = (self.table_name, "type", "nulls", "distinct", "range", "histogram")
        return (
            _html.heading(f"dataset {self.name}", self.summary.description)
            + _html.table(("table", "rows", "rejected", "orphans"), tables)
            + _html.table(headings, columns)
        )


def bars(counts: Sequence[int], most_bins: int = 20) -> str:
    """The bins of a histogram as text, a bar for each; neighbours are merged if there are more."""
    width = -(-len(counts) // most_bins) or 1
    merged = [sum(counts[start : start + width]) for start in range(0, len(counts), width)]
    most = max(merged, default=0)
    # Rounded up, so that a single row among millions is seen.
    return "".join(BARS[-(-count * 8 // most) - 1] if count else " " for count in merged)


def summary_of(message: datasets_pb2.Dataset) -> DatasetSummary:
    """The dataset of a message."""
    latest = version_of(message.latest) if message.HasField("latest") else None
    limits = message.limits
    return _value(
        DatasetSummary,
        message,
        latest=latest,
        quota_bytes=limits.quota_bytes,
        max_versions=limits.max_versions,
        max_age=limits.max_age.ToTimedelta() if limits.HasField("max_age") else None,
    )


def version_of(message: datasets_pb2.DatasetVersion) -> DatasetVersion:
    """The version of a message."""
    return _value(DatasetVersion, message)


def table_of(message: datasets_pb2.DatasetTable) -> DatasetTable:
    """The table of a message."""
    return _value(
        DatasetTable,
        message,
        columns=Rows(_value(DatasetColumn, column) for column in message.columns),
        # The order of a map of a message is random.
        rejected=dict(sorted(message.rejected.items(), key=lambda entry: (-entry[1], entry[0]))),
        references=tuple(
            f"{','.join(part.columns)} -> {part.table}.{','.join(part.key)}"
            for part in message.references
        ),
    )


def _value(kind: type[ValueT], message: Any, **changed: Any) -> ValueT:
    """A dataclass object with the fields of a message."""
    build: Any = kind
    fields = dataclasses.fields(build)
    names = [entry.name for entry in fields if entry.name not in ("pb", *changed)]
    value: ValueT = build(pb=message, **changed, **{name: _plain(message, name) for name in names})
    return value


def _plain(message: Any, name: str) -> Any:
    value = getattr(message, name)
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC) if message.HasField(name) else None
    if isinstance(value, str | int | float):
        return value
    return dict(value) if isinstance(value, Mapping) else tuple(value)


def full_name(dataset: datasets_pb2.Dataset | DatasetSummary) -> str:
    """`PROJECT.NAME`; `NAME` alone is looked up in the default project."""
    is_default = dataset.project in ("", "default")
    return dataset.name if is_default else f"{dataset.project}.{dataset.name}"


def _mapped(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())
