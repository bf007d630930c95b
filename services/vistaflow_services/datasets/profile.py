"""Profiles: nulls, distinct values, ranges and histograms of columns, in two passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from vistaflow_services.core.errors import cut
from vistaflow_services.datasets.engine import Engine, named
from vistaflow_services.datasets.manifest import Column, ColumnProfile, TableProfile

BINS = 20
MAX_TEXT = 200
_AT_ONCE = 100
"""Columns of one query."""

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")


def profile_table(
    engine: Engine, name: str, relation: str, columns: Sequence[Column]
) -> TableProfile:
    """The profile of a relation's rows.

    Args:
        engine: The engine.
        name: The table's.
        relation: An SQL text that may follow FROM.
        columns: Its columns.
    """
    count = engine.count(relation)
    profiles = itertools.chain.from_iterable(
        _profiles(engine, relation, columns[start : start + _AT_ONCE], count)
        for start in range(0, len(columns), _AT_ONCE)
    )
    return TableProfile(table=name, row_count=count, columns=tuple(profiles))


def _profiles(
    engine: Engine, relation: str, columns: Sequence[Column], row_count: int
) -> Iterator[ColumnProfile]:
    figures = ", ".join(
        f"count(*) - count({value}), approx_count_distinct({value}), "
        f"CAST(min({finite}) AS VARCHAR), CAST(max({finite}) AS VARCHAR)"
        for value, finite in ((named(column.name), _finite(column)) for column in columns)
    )
    row = engine.rows(f"SELECT {figures} FROM {relation}")[0]
    ranges = [tuple(row[index : index + 4]) for index in range(0, len(row), 4)]
    bounds = [
        _bounds(column, low, high) for column, (*_, low, high) in zip(columns, ranges, strict=True)
    ]
    histograms = iter(_histograms(engine, relation, columns, bounds))
    for column, (nulls, distinct, low, high), edges in zip(columns, ranges, bounds, strict=True):
        yield ColumnProfile(
            name=column.name,
            type=column.type,
            null_count=nulls,
            # The estimate may be above what is possible.
            distinct_count=min(distinct, row_count - nulls),
            minimum=None if low is None else cut(low, MAX_TEXT),
            maximum=None if high is None else cut(high, MAX_TEXT),
            bounds=edges,
            counts=next(histograms) if edges else (),
        )


def _histograms(
    engine: Engine,
    relation: str,
    columns: Sequence[Column],
    bounds: Sequence[tuple[float, ...]],
) -> list[tuple[int, ...]]:
    """Rows of each bin, of the columns that have bins."""
    figures = [
        f"histogram(CAST({_finite(column)} AS DOUBLE), {list(edges)}::DOUBLE[])"
        for column, edges in zip(columns, bounds, strict=True)
        if edges
    ]
    if not figures:
        return []
    row: Sequence[dict[float, int]] = engine.rows(f"SELECT {', '.join(figures)} FROM {relation}")[0]
    every = (edges for edges in bounds if edges)
    return [
        tuple(int(bins.get(edge, 0)) for edge in edges)
        for bins, edges in zip(row, every, strict=True)
    ]


def _bounds(column: Column, low: Any, high: Any) -> tuple[float, ...]:
    """Upper bounds of equal bins from the smallest to the largest value."""
    if low is None or not _is_number(column):
        return ()
    first, last = float(low), float(high)
    # Weighted, because the difference of the two may be infinite.
    parts = (index / BINS for index in range(1, BINS))
    inner = sorted({first * (1 - part) + last * part for part in parts})
    return (*(edge for edge in inner if first < edge < last), last)


def _is_number(column: Column) -> bool:
    return column.type.startswith((*_NUMBERS, *_UNSIGNED)) and "[" not in column.type


def _finite(column: Column) -> str:
    """A column's values without NaN and infinities, which are no range."""
    name = named(column.name)
    if column.type in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isfinite({name}) THEN {name} END"
    if column.type.startswith(("STRUCT", "MAP", "UNION")) or "[" in column.type:
        return f"CAST({name} AS VARCHAR)"
    return name
