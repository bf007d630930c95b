"""The exact engine: takes the records apart in Python, learns their shape on the way.

It is the reference for the others, and the only one that changes a shape. Objects with the same
keys are taken apart by the same plan, so that the work per record is a few calls in C.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.brackets import count_pairs, has_spaced_colon
from vistaflow_services.tables.conversion import EngineName
from vistaflow_services.tables.engines import Rows
from vistaflow_services.tables.engines.arrays import integers, texts
from vistaflow_services.tables.engines.columns import NESTED, Columns, UnknownError, column_of
from vistaflow_services.tables.literals import (
    MAX_DEPTH,
    MalformedError,
    decode,
    has_object,
    text_of,
    too_deep,
)
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Node, Shape, Table

BATCH_BYTES = 1 << 19
"""Bytes of records that are Python objects at once; these take about nine times as much."""

_Row = tuple[Any, ...]
_Children = list[tuple[Table, Any]]


class _Plan(NamedTuple):
    """How to take an object with certain keys apart."""

    values: Callable[[dict[str, Any]], _Row]
    """The values of the keys where no object or array was ever seen."""

    names: tuple[str, ...]
    slots: tuple[int, ...]
    nested: tuple[tuple[str, Node], ...]


class _Batch:
    """Rows of one table, not yet columns."""

    def __init__(self) -> None:
        self.elements: list[Any] = []
        self.rows: list[_Row] = []
        self.slots: list[tuple[int, ...]] = []
        """For each row, the slots of its cells behind the keys."""


class PythonEngine:
    """Converts any valid piece."""

    name = EngineName.PYTHON
    piece_bytes = 2 << 20

    def __init__(self) -> None:
        self._keys = 0
        self._columns: Columns | None = None

    def convert(self, piece: Piece, shape: Shape) -> list[Rows]:
        """See `Engine.convert`; it never declines, and adds to the shape what is new."""
        piece.check_utf8()
        # The batch makes many containers and no cycles: collections in between free nothing.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            batches = [
                self._convert(piece, first, raws, shape) for first, raws in _batches(piece.records)
            ]
        finally:
            if was_enabled:
                gc.enable()
        return batches[0] if len(batches) == 1 else _joined(batches)

    def close(self) -> None:
        """Has nothing to end."""

    def _convert(
        self, piece: Piece, first: int, raws: list[msgspec.Raw], shape: Shape
    ) -> list[Rows]:
        text = b"[" + b",".join(raws) + b"]"
        if self._columns is None or self._columns.of != (shape, shape.version):
            self._columns = Columns(shape)
        try:
            rows, self._keys = self._columns.rows(text, piece.first_record + first)
        except (UnknownError, InvalidError):
            rows = self._learn(piece, first, raws, text, shape)
        # A decoder keeps the last of two equal keys, so they show in the number of keys. A colon
        # after a quote inside a string counts as well: then the batch is read again, slowly.
        if has_spaced_colon(text) or count_pairs(text, b'"', b":") != [self._keys]:
            _refuse_duplicate_keys(piece, first, raws)
        return rows

    def _learn(
        self, piece: Piece, first: int, raws: list[msgspec.Raw], text: bytes, shape: Shape
    ) -> list[Rows]:
        """The rows of records, one by one; what is new in them is added to the shape."""
        try:
            records = decode(text)
        except (MalformedError, InvalidError) as error:
            raise _culprit(piece, first, raws, error) from None
        batches: dict[Table, _Batch] = {}
        self._keys = 0
        number = piece.first_record + first
        for position, record in enumerate(records, first):
            if record.__class__ is not dict:
                raise piece.fault(position, "records must be JSON objects", "NOT_AN_OBJECT")
            try:
                self._row(shape, batches, shape.records, record, (number,))
                if shape.wide:
                    shape.look_for_maps()
            except InvalidError as error:
                raise piece.fault(position, error.message, error.reason) from None
            number += 1
        return [_columns(table, batch) for table, batch in batches.items()]

    def _row(
        self,
        shape: Shape,
        batches: dict[Table, _Batch],
        table: Table,
        value: Any,
        head: _Row,
    ) -> None:
        children: _Children = []
        if value.__class__ is dict:
            node = table.root
            if node.is_map and table is shape.records:
                values, slots = self._entries(shape, table, node, value, children)
            else:
                values, slots = self._object(shape, table, node, value, children)
        elif value is None or value == []:
            values, slots = (), ()
        else:
            values, slots = (text_of(value, table.root.depth),), (table.slot_of(table.root),)
        batch = batches.get(table)
        if batch is None:
            batch = batches[table] = _Batch()
        batch.elements.append(value)
        batch.rows.append(head + values)
        batch.slots.append(slots)
        row = head[0]
        for child, elements in children:
            if child.kind == "items":
                for index, element in enumerate(elements, 1):
                    self._row(shape, batches, child, element, (f"{row}#{index}", str(row), index))
            else:
                for index, (key, element) in enumerate(elements.items(), 1):
                    head = (f"{row}#{index}", str(row), index, key)
                    self._row(shape, batches, child, element, head)

    def _entries(
        self, shape: Shape, table: Table, node: Node, value: dict[str, Any], children: _Children
    ) -> tuple[_Row, tuple[int, ...]]:
        self._keys += len(value)
        if value:
            children.append((shape.child(table, node, "entries"), value))
        return (), ()

    def _object(
        self, shape: Shape, table: Table, node: Node, value: dict[str, Any], children: _Children
    ) -> tuple[_Row, tuple[int, ...]]:
        keys = tuple(value)
        plan = node.plans.get(keys) or self._plan(shape, table, node, value)
        self._keys += len(keys)
        values = plan.values(value)
        if not NESTED.isdisjoint(map(type, values)):
            # An object or array where there were only plain values: from now on these keys are
            # looked at one by one.
            for key in plan.names:
                if value[key].__class__ in NESTED and node.fields is not None:
                    node.fields[key].is_nested = True
            self._keys -= len(keys)
            node.plans.clear()
            return self._object(shape, table, node, value, children)
        slots = plan.slots
        for key, child in plan.nested:
            element = value[key]
            kind = element.__class__
            if element is None:
                continue
            if kind is dict:
                if child.is_map:
                    self._entries(shape, table, child, element, children)
                    continue
                more, more_slots = self._object(shape, table, child, element, children)
                values += more
                slots += more_slots
                continue
            if kind is list:
                if not element:
                    continue
                if has_object(element):
                    children.append((shape.child(table, child, "items"), element))
                    continue
            values += (text_of(element, child.depth) if kind is list else element,)
            slots += (table.slot_of(child),)
        return values, slots

    def _plan(self, shape: Shape, table: Table, node: Node, value: dict[str, Any]) -> _Plan:
        if node.depth > MAX_DEPTH:
            raise too_deep()
        node.width = max(node.width, len(value))
        if node.fields is None:
            node.fields = {}
            shape.version += 1
        names, nested = [], []
        for key, element in value.items():
            child = shape.field(table, node, key)
            child.is_nested = child.is_nested or element.__class__ in NESTED
            if child.is_nested:
                nested.append((key, child))
            else:
                names.append(key)
                table.slot_of(child)
        fields = node.fields
        if len(names) > 1:
            values: Callable[[dict[str, Any]], _Row] = itemgetter(*names)
        elif names:
            only = names[0]
            values = lambda record: (record[only],)  # noqa: E731
        else:
            values = lambda record: ()  # noqa: E731
        plan = _Plan(
            values, tuple(names), tuple(fields[name].slot for name in names), tuple(nested)
        )
        node.plans[tuple(value)] = plan
        return plan


def _batches(records: list[msgspec.Raw]) -> Iterator[tuple[int, list[msgspec.Raw]]]:
    """The records in batches of about `BATCH_BYTES`, each with the position of its first one."""
    first = size = 0
    for position, record in enumerate(records):
        size += len(record)
        # The first one is small: what is new shows in few records, which are taken one by one.
        if size >= (BATCH_BYTES if first else BATCH_BYTES >> 3):
            yield first, records[first : position + 1]
            first, size = position + 1, 0
    if first < len(records):
        yield first, records[first:]


def _columns(table: Table, batch: _Batch) -> Rows:
    """The columns of a batch; slots that get their first value become columns."""
    width = len(table.keys)
    count = width + len(table.slots)
    arranged = _arranged(batch, width, count)
    cells: list[_Row] = list(zip(*arranged, strict=True))
    fresh: dict[int, list[int]] = {}
    for slot in set(range(len(table.slots))).difference(table.columns):
        column = cells[width + slot]
        if column.count(None) < len(column):
            first = next(row for row, cell in enumerate(column) if cell is not None)
            fresh.setdefault(first, []).append(slot)
    for row, slots in sorted(fresh.items()):
        order = list(_slots_of(table.root, batch.elements[row]))
        for slot in sorted(slots, key=order.index):
            table.add_column(slot)
    keys = [
        integers(np.array(cells[0], np.int64)) if width == 1 else texts(cells[0]),
        *([texts(cells[1]), integers(np.array(cells[2], np.int64))] if width > 1 else ()),
        *([texts(cells[3])] if width > 3 else ()),
    ]
    return Rows(table=table, columns=[*keys, *(_column(cells[width + s]) for s in table.columns)])


def _slots_of(node: Node, value: Any) -> Iterator[int]:
    """The slots of the values of an element, in its order."""
    if value.__class__ is dict:
        fields = node.fields or {}
        for key, element in value.items():
            if key in fields:
                yield from _slots_of(fields[key], element)
    elif node.slot >= 0:
        yield node.slot


def _arranged(batch: _Batch, width: int, count: int) -> list[_Row]:
    """The rows with their cells in the order of the slots, None where there is none."""
    orders: dict[tuple[int, ...], Callable[[_Row], _Row] | None] = {}
    arranged = []
    straight = tuple(range(count - width))
    for row, slots in zip(batch.rows, batch.slots, strict=True):
        if slots == straight:
            arranged.append(row)
            continue
        order = orders.get(slots)
        if order is None:
            places = [len(row)] * count
            places[:width] = range(width)
            for place, slot in enumerate(slots, width):
                places[width + slot] = place
            order = orders[slots] = itemgetter(*places) if count > 1 else lambda cells: cells[:1]
        arranged.append(order((*row, None)))
    return arranged


def _column(cells: _Row) -> pa.Array:
    return column_of(cells, {*map(type, cells)} - {type(None)})


def _joined(batches: list[list[Rows]]) -> list[Rows]:
    """The rows of consecutive batches as one; earlier ones lack the columns of later ones."""
    tables: dict[Table, list[Rows]] = {}
    for batch in batches:
        for rows in batch:
            tables.setdefault(rows.table, []).append(rows)
    joined = []
    for table, parts in tables.items():
        count = len(table.keys) + len(table.columns)
        columns = [
            pa.concat_arrays(
                [
                    part.columns[number]
                    if number < len(part.columns)
                    else pa.nulls(part.count, pa.string())
                    for part in parts
                ]
            )
            for number in range(count)
        ]
        joined.append(Rows(table=table, columns=columns))
    return joined


def _culprit(piece: Piece, first: int, raws: list[msgspec.Raw], error: Exception) -> InvalidError:
    """The error of a batch as the error of the record that causes it."""
    for position, raw in enumerate(raws, first):
        try:
            decode(bytes(raw))
        except InvalidError as cause:
            return piece.fault(position, cause.message, cause.reason)
        except MalformedError as cause:
            return piece.fault(position, str(cause), "BROKEN_JSON")
    return piece.fault(first, str(error), "BROKEN_JSON")


def _refuse_duplicate_keys(piece: Piece, first: int, raws: list[msgspec.Raw]) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _DuplicateKeyError(twice)

    for position, raw in enumerate(raws, first):
        try:
            json.loads(bytes(raw), object_pairs_hook=check, parse_int=str)
        except _DuplicateKeyError as error:
            raise piece.fault(
                position,
                f"an object has the key {error.key[:100]!r} twice; which value counts is not "
                "defined",
                "DUPLICATE_KEY",
            ) from None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key
