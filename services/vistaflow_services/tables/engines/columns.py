"""Columns of records whose shape is known, a column at a time.

To take objects apart one by one costs many steps of Python for each; here the decoder makes objects
with the fields of the shape, and a step is for all objects at one place of it. Whatever the shape
does not have is left to the engine that learns it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import UNSET, Struct, UnsetType

from vistaflow_services.tables.brackets import has_minus_zero
from vistaflow_services.tables.engines import Rows
from vistaflow_services.tables.engines.arrays import integers, texts
from vistaflow_services.tables.engines.nested import child_keys
from vistaflow_services.tables.literals import Number, text_of
from vistaflow_services.tables.shape import Node, Shape, Table

NESTED = frozenset((dict, list))
"""What is no plain value."""

_PLAIN = frozenset((str, Number, int, bool))

_MOST_EMPTY = 8
"""Most cells for each value: objects with few of many fields are quicker taken one by one."""

_MOST_FIELDS = 8
"""Most fields that the objects of a text may have together, for each byte of it."""


class UnknownError(Exception):
    """The records have something that the shape does not tell how to take apart."""


class Columns:
    """Takes records of one shape apart, as long as the shape is as it was.

    Args:
        shape: The shape of the records, which is not changed.
    """

    def __init__(self, shape: Shape) -> None:
        self.of = shape, shape.version
        self._widest = 0
        self._types: dict[Node, type[Struct]] = {}
        self._decode: Callable[[bytes], list[Struct]] | None = None
        try:
            record = self._type(shape.records.root)
        except (UnknownError, ValueError):  # `ValueError`: a name that the decoder does not take
            return
        self._decode = msgspec.json.Decoder(list[record], float_hook=Number).decode  # type: ignore[valid-type]

    def rows(self, text: bytes, first: int) -> tuple[list[Rows], int]:
        """The rows of all tables, and how many keys the objects of the records have.

        Args:
            text: An array of records.
            first: Number of the first record.

        Raises:
            UnknownError: The records have something new, something wrong, or an object keyed by
                ids.
            InvalidError: An array is too deep.
        """
        if self._decode is None or self._widest * text.count(b"{") > _MOST_FIELDS * len(text):
            raise UnknownError
        if has_minus_zero(text):
            raise UnknownError
        try:
            records = self._decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UnknownError from None
        walk = _Walk(self._types)
        ids = integers(np.arange(first, first + len(records), dtype=np.int64))
        walk.table(self.of[0].records, records, [ids])
        return walk.rows, walk.keys

    def _type(self, node: Node) -> type[Struct]:
        if node.is_map or node.entries is not None or node.fields is None:
            raise UnknownError
        names = {f"f{number}": key for number, key in enumerate(node.fields)}
        self._widest = max(self._widest, len(names))
        members = [
            (name, self._annotation(child), UNSET)
            for name, child in zip(names, node.fields.values(), strict=True)
        ]
        structure = msgspec.defstruct(
            "Object", members, rename=names, forbid_unknown_fields=True, gc=False
        )
        self._types[node] = structure
        return structure

    def _annotation(self, node: Node) -> Any:
        if node.is_map or node.entries is not None:
            raise UnknownError
        annotation: Any = None
        # An empty object among plain values is rare: it alone is taken another way.
        if node.fields or (node.fields is not None and node.slot < 0):
            annotation |= self._type(node)
        if node.items is not None:
            element: Any = self._type(node.items.root)
            annotation |= list[element]
        return annotation or Any


class _Walk:
    def __init__(self, types: dict[Node, type[Struct]]) -> None:
        self.rows: list[Rows] = []
        self.keys = 0
        self._types = types

    def table(self, table: Table, elements: list[Struct], keys: list[pa.Array]) -> None:
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
            if sizes.any():
                self.table(child, list(chain.from_iterable(lists)), child_keys(ids, sizes))

    def _object(
        self,
        node: Node,
        elements: list[Struct],
        cells: dict[int, pa.Array],
        children: list[tuple[Table, list[Any]]],
    ) -> None:
        kind = self._types[node]
        names, count = kind.__struct_fields__, len(elements)
        if not names:
            return
        # All columns at once, while an object is in the cache.
        values = map(attrgetter(*names), elements)
        columns: Any = zip(*values, strict=True) if len(names) > 1 else [tuple(values)]
        sizes = np.full(count, len(names))
        for child, column in zip((node.fields or {}).values(), columns, strict=True):
            kinds = {*map(type, column)}
            if UnsetType in kinds:
                sizes -= np.fromiter(map(is_, column, repeat(UNSET)), np.bool_, count)
                column = [None if value is UNSET else value for value in column]
            kinds -= {UnsetType, type(None)}
            if kinds:
                self._column(child, column, kinds, cells, children)
        present = int(sizes.sum())
        self.keys += present
        # The width of a node tells whether its keys are ids.
        if count * len(names) > _MOST_EMPTY * present or sizes.max() > node.width:
            raise UnknownError

    def _column(
        self,
        node: Node,
        values: Any,
        kinds: set[type],
        cells: dict[int, pa.Array],
        children: list[tuple[Table, list[Any]]],
    ) -> None:
        kind = self._types.get(node)
        if kind is not None and kinds == {kind}:
            empty = kind()
            self._object(node, [value or empty for value in values], cells, children)
            return
        if kinds == {list}:
            values = [value or () for value in values]
            if node.items is not None:
                children.append((node.items, values))
                return
            if any(dict in {*map(type, value)} for value in values):
                raise UnknownError
            # An empty array is as a missing value.
            values = [text_of(value, node.depth) if value else None for value in values]
            kinds = {str}
            if values.count(None) == len(values):
                return
        if node.slot < 0 or not kinds <= _PLAIN:
            raise UnknownError
        cells[node.slot] = column_of(values, kinds)


def column_of(values: Any, kinds: set[type]) -> pa.Array:
    """A column of texts.

    Args:
        values: The plain values of its cells, or None.
        kinds: Their types, without that of None.
    """
    if kinds <= {str, Number}:
        return texts(values)
    if kinds == {int} and None not in values:
        with contextlib.suppress(OverflowError):
            return integers(np.fromiter(values, np.int64, len(values))).cast(pa.string())
    if kinds <= {str, Number, int}:
        return texts([str(value) if value.__class__ is int else value for value in values])
    return texts([None if value is None else text_of(value) for value in values])
