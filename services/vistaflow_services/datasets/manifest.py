"""Versions and what they consist of, and the one place that writes and reads them as JSON.

A version is immutable. Its manifest names every Parquet file by the SHA-256 of its content, so
equal imports have equal digests, and versions share the files that did not change.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from vistaflow_services.core.errors import cut, field_error

FORMAT = 1
"""Version of the JSON form."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    name: str
    type: str
    """As DuckDB writes it: `BIGINT`, `VARCHAR`, `STRUCT(a INTEGER)`."""


REJECT_COLUMNS = (
    Column(name="_rule", type="VARCHAR"),
    Column(name="_row", type="BIGINT"),
    Column(name="_value", type="VARCHAR"),
)
"""What rejected rows have after a table's own columns: the name of the rule, the number of the row
in the source from 0, and the value that does not fit its type."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One Parquet file."""

    sha256: str
    size_bytes: int
    row_count: int
    memory_bytes: int
    """Of its columns, decoded from compression."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Columns whose values are those of another table's columns."""

    columns: tuple[str, ...]
    table: str
    """A table of the same dataset."""

    key: tuple[str, ...]
    """Its columns, in the order of `columns`."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{','.join(self.columns)} -> {self.table}.{','.join(self.key)}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a dataset, with its rejected rows."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    parts: tuple[Part, ...] = ()
    """In the order of the rows."""

    rejects: tuple[Part, ...] = ()
    """Rejected rows, with `REJECT_COLUMNS`."""

    @property
    def row_count(self) -> int:
        """Accepted rows."""
        return sum(part.row_count for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a version."""

    tables: tuple[Table, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """The files, each hash once."""
        every = [part for table in self.tables for part in (*table.parts, *table.rejects)]
        return iter({part.sha256: part for part in every}.values())

    @property
    def size_bytes(self) -> int:
        """Of the files, each hash once."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def digest(self) -> str:
        """SHA-256 of the content: equal for equal tables."""
        text = json.dumps(to_json(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            InvalidError: There is no such table.
        """
        for table in self.tables:
            if table.name == name:
                return table
        names = ", ".join(table.name for table in self.tables)
        raise field_error("table", f"there is no table `{name}`; tables are {names}")


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What the rules did to one table; `read_count` = accepted + rejected + dropped."""

    table: str
    read_count: int
    accepted_count: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rejected rows by the first rule that they violate, among them `duplicate`."""

    dropped_count: int = 0
    """Duplicates that were not recorded, by the request's choice."""

    orphans: Mapping[str, int] = field(default_factory=dict)
    """Accepted rows that refer to no row of the other table, by reference."""


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """What the rules did."""

    tables: tuple[TableReport, ...]


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """Figures of a column."""

    name: str
    type: str
    null_count: int
    distinct_count: int
    """Approximate."""

    minimum: str | None = None
    """As text, so that large numbers stay exact; cut at 200 characters, as `maximum` is."""

    maximum: str | None = None
    bounds: tuple[float, ...] = ()
    """Upper bounds, inclusive, of the histogram's bins; only of numbers."""

    counts: tuple[int, ...] = ()
    """Rows of each bin."""


@dataclass(frozen=True, kw_only=True)
class TableProfile:
    """Figures of a table's accepted rows."""

    table: str
    row_count: int
    columns: tuple[ColumnProfile, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Figures of a version."""

    tables: tuple[TableProfile, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """One version of a dataset."""

    project: str
    name: str
    version: int
    """From 1, given by the registry."""

    created_at: datetime
    manifest: Manifest
    parent: int | None = None
    """The version it was made from."""

    source: str = ""
    """What it was made from, as the caller named it."""

    job_id: str = ""
    report: QualityReport | None = None
    profile: Profile | None = None
    pinned: bool = False
    aliases: tuple[str, ...] = ()


def find_column(columns: Iterable[Column], name: str, where: str) -> Column:
    """A column by name; case does not matter, as in SQL.

    Raises:
        InvalidError: There is no such column; `where` is the field that names it.
    """
    known = list(columns)
    for column in known:
        if column.name.casefold() == name.casefold():
            return column
    names = ", ".join(column.name for column in known)
    raise field_error(where, f"there is no column `{cut(name, 60)}`; columns are {cut(names, 500)}")


def to_json(value: Any) -> Any:
    """A dataclass of this module as what `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [entry.name for entry in dataclasses.fields(value)]
        document = {name: to_json(getattr(value, name)) for name in names}
        return {"format": FORMAT, **document} if isinstance(value, Manifest) else document
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def to_text(value: Any) -> str:
    """The same as JSON text without blanks, as it travels."""
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"))


def from_json(kind: type[Value], document: Any) -> Value:
    """The dataclass that `to_json` wrote.

    Raises:
        InvalidError: The document is not of that kind; names the field.
    """
    value: Value = _read(kind, document, kind.__name__)
    return value


def _read(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(arguments[0], value, path)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, path)
    if origin is tuple:
        items = _of(list, value, path)
        return tuple(_read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        entries = _of(dict, value, path)
        return {key: _read(arguments[1], item, f"{path}.{key}") for key, item in entries.items()}
    if kind is datetime:
        try:
            return datetime.fromisoformat(_of(str, value, path))
        except ValueError:
            raise field_error(path, "is no time in ISO 8601") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _of(kind, value, path)


def _read_dataclass(kind: Any, value: Any, path: str) -> Any:
    document = dict(_of(dict, value, path))
    if kind is Manifest and (written := document.pop("format", None)) != FORMAT:
        raise field_error(f"{path}.format", f"is {written}; this version reads {FORMAT}")
    hints, required = _fields(kind)
    if unknown := sorted(set(document) - set(hints)):
        raise field_error(
            f"{path}.{unknown[0]}", "is no field; a newer version may have written it"
        )
    if absent := sorted(required - set(document)):
        raise field_error(f"{path}.{absent[0]}", "is missing")
    return kind(
        **{name: _read(hints[name], item, f"{path}.{name}") for name, item in document.items()}
    )


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of a dataclass's fields, and which of them have no default."""
    required = {
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    return typing.get_type_hints(kind), frozenset(required)


def _of(kind: type[Value], value: Any, path: str) -> Value:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise field_error(path, f"is {type(value).__name__}, must be {kind.__name__}")
    return value
