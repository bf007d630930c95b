"""Trino's types and values as Arrow has them, and as DuckDB names them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any

import pyarrow as pa
from sqlglot import exp
from sqlglot.expressions import DType as Kind

from vistaflow_services.datasets.manifest import Column

_PLAIN: dict[Kind, tuple[str, pa.DataType]] = {
    Kind.BOOLEAN: ("BOOLEAN", pa.bool_()),
    Kind.TINYINT: ("TINYINT", pa.int8()),
    Kind.SMALLINT: ("SMALLINT", pa.int16()),
    Kind.INT: ("INTEGER", pa.int32()),
    Kind.BIGINT: ("BIGINT", pa.int64()),
    Kind.FLOAT: ("FLOAT", pa.float32()),
    Kind.DOUBLE: ("DOUBLE", pa.float64()),
    Kind.DATE: ("DATE", pa.date32()),
    Kind.TIME: ("TIME", pa.time64("us")),
    Kind.TIMESTAMP: ("TIMESTAMP", pa.timestamp("us")),
    Kind.TIMESTAMPTZ: ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", tz="UTC")),
    Kind.VARBINARY: ("BLOB", pa.binary()),
    Kind.UNKNOWN: ("INTEGER", pa.int32()),
}
"""Others are texts: intervals, UUIDs, JSON, times with zone, addresses."""


class Field:
    """A type of Trino."""

    def __init__(self, text: str) -> None:
        """Reads a type as Trino writes it, such as `array(row(x integer))`."""
        try:
            tree = exp.DataType.build(text, dialect="trino")
        except ValueError:
            tree = exp.DataType.build("VARCHAR")
        self.duckdb, self.arrow, self.convert = _field(tree)


def batch(
    rows: Sequence[Sequence[Any]], fields: Sequence[Field], schema: pa.Schema
) -> pa.RecordBatch:
    """Rows of the client as a record batch."""
    columns = [
        pa.array([field.convert(row[index]) for row in rows], type=field.arrow)
        for index, field in enumerate(fields)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def trino_type(column: Column) -> str | None:
    """The type of a hive table for a column with one of DuckDB's types; None if there is none.

    Hive has no times with zone: they are stored as times in UTC.
    """
    tree = exp.DataType.build(column.type, dialect="duckdb")
    if tree.this == Kind.TIMESTAMPTZ:
        return "TIMESTAMP(6)"
    for node in list(tree.find_all(exp.DataType)):
        if node.this not in _STORED:
            return None
        if node.this in _TIMES:
            node.set("this", Kind.TIMESTAMP)
            node.set("expressions", [exp.DataTypeParam(this=exp.Literal.number(6))])
    return tree.sql(dialect="trino")


_TIMES = (Kind.TIMESTAMP, Kind.TIMESTAMPNTZ)
_STORED = frozenset(_PLAIN) - {Kind.TIME, Kind.TIMESTAMPTZ} | {
    Kind.DECIMAL, Kind.VARCHAR, Kind.TEXT, Kind.STRUCT, Kind.ARRAY, Kind.LIST, Kind.MAP, *_TIMES
}  # fmt: skip

Converted = tuple[str, pa.DataType, Callable[[Any], Any]]


def _field(kind: Any) -> Converted:
    parts = kind.expressions
    match kind.this:
        case Kind.DECIMAL:
            precision, scale = (int(part.name) for part in parts)
            return f"DECIMAL({precision},{scale})", pa.decimal128(precision, scale), _same
        case Kind.ARRAY | Kind.LIST:
            name, arrow, convert = _field(parts[0])
            return f"{name}[]", pa.list_(arrow), functools.partial(_list, convert)
        case Kind.MAP:
            key, value = _field(parts[0]), _field(parts[1])
            arrow = pa.map_(key[1], value[1])
            return f"MAP({key[0]}, {value[0]})", arrow, functools.partial(_map, key[2], value[2])
        case Kind.STRUCT:
            return _struct(parts)
    if kind.this not in _PLAIN:
        return "VARCHAR", pa.string(), _text
    name, arrow = _PLAIN[kind.this]
    return name, arrow, _instant if kind.this == Kind.TIMESTAMPTZ else _same


def _struct(parts: Sequence[exp.Expr]) -> Converted:
    names, fields = [], []
    for index, part in enumerate(parts, start=1):
        named = isinstance(part, exp.ColumnDef)
        names.append(part.name if named else f"field{index}")
        kind: Any = part.args["kind"] if named else part
        fields.append(_field(kind))
    inner = ", ".join(
        f'"{name.replace(chr(34), chr(34) * 2)}" {field[0]}'
        for name, field in zip(names, fields, strict=True)
    )
    arrow = pa.struct([(name, field[1]) for name, field in zip(names, fields, strict=True)])
    converters = [field[2] for field in fields]
    return f"STRUCT({inner})", arrow, functools.partial(_row, names, converters)


def _same(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    return value if value is None else str(value)


def _instant(value: Any) -> Any:
    return value if value is None else value.astimezone(UTC)


def _list(convert: Callable[[Any], Any], value: Any) -> Any:
    return value if value is None else [convert(item) for item in value]


def _map(key: Callable[[Any], Any], convert: Callable[[Any], Any], value: Any) -> Any:
    return value if value is None else [(key(k), convert(v)) for k, v in value.items()]


def _row(names: Sequence[str], converters: Sequence[Callable[[Any], Any]], value: Any) -> Any:
    if value is None:
        return None
    return {
        name: convert(item) for name, convert, item in zip(names, converters, value, strict=True)
    }
