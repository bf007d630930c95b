"""Columns of Python objects whose shape is known, a column at a time.

To take objects apart one by one costs many steps of Python for each; here a step is for all objects
at one place of the shape. Whatever the shape does not have is left to the engine that learns it.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from vistaflow_services.tables.engines import Rows
from vistaflow_services.tables.engines.arrays import integers, texts
from vistaflow_services.tables.engines.nested import child_keys
from vistaflow_services.tables.literals import Number, text_of
from vistaflow_services.tables.shape import Node, Shape, Table

NESTED = frozenset((dict, list))
"""What is no plain value."""

_MOST_EMPTY = 8
"""Most cells for each value: objects with few of many fields are quicker taken one by one."""


class UnknownError(Exception):
    """The records have something that the shape does not tell how to take apart."""


def columns_of(shape: Shape, records: list[Any], first: int) -> tuple[list[Rows], int]:
    """The rows of all tables, and how many keys the objects of the records have.

    Args:
        shape: The shape of the records, which is not changed.
        records: What `literals.decode` gave.
        first: Number of the first record.

    Raises:
        UnknownError: The records have something new, or an object keyed by ids.
        InvalidError: An array is too deep.
    """
    if shape.records.root.is_map:
        raise UnknownError
    walk = _Walk()
    ids = integers(np.arange(first, first + len(records), dtype=np.int64))
    walk.table(shape.records, records, [ids])
    return walk.rows, walk.keys


class _Walk:
    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.keys = 0

    def table(self, table: Table, elements: list[Any], keys: list[pa.Array]) -> None:
        cells: dict[int, pa.Array] = {}
        children: list[tuple[Table, list[Any]]] = []
        self._object(table.root, elements, cells, children)
        if not cells.keys() <= set(table.columns):
            raise UnknownError  # the order of new columns depends on the rows
        missing = pa.nulls(len(elements), pa.string())
        columns = [*keys, *(cells.get(slot, missing) for slot in table.columns)]
        self.rows.append(Rows(table=table, columns=columns))
        ids = keys[0].cast(pa.string())
        for child, lists in children:
            sizes = np.fromiter(map(len, lists), np.int64, len(lists))
            self.table(child, list(chain.from_iterable(lists)), child_keys(ids, sizes))

    def _object(
        self,
        node: Node,
        elements: list[Any],
        cells: dict[int, pa.Array],
        children: list[tuple[Table, list[Any]]],
    ) -> None:
        fields = node.fields
        if fields is None or {*map(type, elements)} != {dict}:
            raise UnknownError
        forms = {*map(tuple, elements)}
        count = sum(map(len, elements))
        if len(fields) * len(elements) > _MOST_EMPTY * count:
            raise UnknownError
        if not all(fields.keys() >= {*form} for form in forms):
            raise UnknownError
        if max(map(len, forms)) > node.width:  # which tells whether its keys are ids
            raise UnknownError
        self.keys += count
        always = [*set.intersection(*map(set, forms))]
        columns: dict[str, Any] = {}
        if len(always) > 1:  # all at once, while an object is in the cache
            columns = dict(
                zip(always, zip(*map(itemgetter(*always), elements), strict=True), strict=True)
            )
        for key, child in fields.items():
            values = columns.get(key) or [element.get(key) for element in elements]
            kinds = {*map(type, values)}
            kinds.discard(type(None))
            if not kinds:
                continue
            if kinds == {list}:
                values = [value or () for value in values]
                inside = {*map(type, chain.from_iterable(values))}
                if not inside:
                    continue
                if dict in inside:
                    if child.items is None or inside != {dict}:
                        raise UnknownError
                    children.append((child.items, values))
                    continue
                # An empty array is as a missing value.
                values = [text_of(value, child.depth) if value else None for value in values]
                kinds = {str}
            if kinds == {dict} and not child.is_map:
                self._object(child, [value or {} for value in values], cells, children)
            elif child.slot < 0 or not kinds.isdisjoint(NESTED):
                raise UnknownError
            else:
                cells[child.slot] = column_of(values, kinds)


def column_of(values: Any, kinds: set[type]) -> pa.Array:
    """A column of texts.

    Args:
        values: The plain values of its cells, or None.
        kinds: Their types, without that of None.
    """
    if kinds <= {str, Number}:
        return texts(values)
    if kinds <= {str, Number, int}:
        return texts([str(value) if value.__class__ is int else value for value in values])
    return texts([None if value is None else text_of(value) for value in values])
