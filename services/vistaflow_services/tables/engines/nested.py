"""Columns of tables from records that a parser read into nested Arrow arrays.

The parser gives one struct a record, with a text for every plain value, a struct for an object, a
list for an array of objects, a map for an object keyed by ids. Most of the work is to follow
offsets: child rows are the flattened list, without a copy. A parser writes arrays of plain values
as text; these texts are made compact here, as the Python engine writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.brackets import count_pairs
from vistaflow_services.tables.engines import DeclinedError, Rows
from vistaflow_services.tables.engines.arrays import as_numpy, booleans, integers, text, texts
from vistaflow_services.tables.literals import MalformedError, decode, has_object, text_of
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Node, Shape, Table

_ESCAPED_BRACKET = re.compile(rb"\\u00(?:5[bB]|7[bB])")
_IN_ARRAY = np.zeros(256, bool)
_IN_ARRAY[list(b' \t\r\n[]{"-0123456789tfn')] = True
"""What may follow the first bracket of an array."""


@dataclass
class Leaves:
    """What a walk over the nested arrays finds beside the rows."""

    keys: int = 0
    """Keys of objects whose value is not null."""

    bracketed: list[tuple[Node, list[pa.Array], int]] = field(default_factory=list)
    """Columns with cells that begin with a bracket, and where these columns are."""


def is_plain(node: Node) -> bool:
    """Whether nothing but plain values and nulls was ever at a node."""
    return not node.fields and node.items is None and node.entries is None


def check_shape(table: Table) -> None:
    """Refuses shapes where one path holds values of several kinds.

    Raises:
        DeclinedError: There is such a path.
    """
    live = set(table.columns)
    nodes = [table.root]
    while nodes:
        node = nodes.pop()
        kinds = (node.slot in live, bool(node.fields), node.items, node.entries)
        if sum(map(bool, kinds)) > 1:
            raise DeclinedError("a path holds values of several kinds")
        nodes.extend((node.fields or {}).values())
        for child in (node.items, node.entries):
            if child is not None:
                check_shape(child)


def walk(parsed: pa.Table, shape: Shape, piece: Piece) -> tuple[list[Rows], Leaves]:
    """The rows of all tables, and what is found beside them.

    Args:
        parsed: One row a record.
        shape: Their shape.
        piece: The records.

    Raises:
        DeclinedError: The arrays may not be exactly what the text is.
    """
    count = len(piece.records)
    if len(parsed) != count:
        raise DeclinedError("the parser read another number of records")
    leaves = Leaves()
    rows: list[tuple[Table, list[pa.Array]]] = []
    ids = integers(np.arange(piece.first_record, piece.first_record + count, dtype=np.int64))
    chunks = parsed.to_struct_array().chunks
    records = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    _table(shape.records, records, [ids], leaves, rows)
    _tidy_brackets(leaves, piece)
    return [
        Rows(table=table, columns=columns) for table, columns in rows if len(columns[0])
    ], leaves


def _table(
    table: Table,
    elements: pa.Array,
    keys: list[pa.Array],
    leaves: Leaves,
    rows: list[tuple[Table, list[pa.Array]]],
) -> None:
    place: dict[int, pa.Array] = {}
    children: list[tuple[Table, pa.Array]] = []
    _node(table, table.root, elements, place, children, leaves)
    count = len(elements)
    columns = [*keys]
    for slot in table.columns:
        cells = place.get(slot)
        columns.append(pa.nulls(count, pa.string()) if cells is None else cells)
    rows.append((table, columns))
    for slot in place:
        if slot not in table.columns:
            raise DeclinedError("a column appears")
    nodes = _nodes_by_slot(table)
    for number, slot in enumerate(table.columns, len(keys)):
        if _begins_with_bracket(columns[number]):
            leaves.bracketed.append((nodes[slot], columns, number))
    ids = keys[0].cast(pa.string())
    for child, lists in children:
        _child(child, lists, ids, leaves, rows)


def _nodes_by_slot(table: Table) -> dict[int, Node]:
    nodes, by_slot = [table.root], {}
    while nodes:
        node = nodes.pop()
        by_slot[node.slot] = node
        nodes.extend((node.fields or {}).values())
    return by_slot


def _node(
    table: Table,
    node: Node,
    values: pa.Array,
    place: dict[int, pa.Array],
    children: list[tuple[Table, pa.Array]],
    leaves: Leaves,
) -> None:
    if node.items is not None:
        children.append((node.items, values))
    elif node.entries is not None:
        children.append((node.entries, values))
    elif node.fields:
        # `flatten` hides the fields of a struct that is null.
        for child, cells in zip(node.fields.values(), values.flatten(), strict=True):
            leaves.keys += len(cells) - cells.null_count
            _node(table, child, cells, place, children, leaves)
    elif values.null_count < len(values):
        if node.slot < 0:
            raise DeclinedError("a column appears")
        place[node.slot] = values


def _child(
    table: Table,
    lists: pa.Array,
    parents: pa.Array,
    leaves: Leaves,
    rows: list[tuple[Table, list[pa.Array]]],
) -> None:
    if table.kind == "entries":
        names, elements = _entries(lists)
    else:
        names, elements = None, lists.flatten()
        if elements.null_count:
            raise DeclinedError("an array has null among its objects")
    sizes = _sizes(lists)
    keys = child_keys(parents, sizes)
    if names is not None:
        owner = np.repeat(np.arange(len(sizes)), sizes)
        codes = as_numpy(names.dictionary_encode().indices)
        if len(np.unique(owner * (len(codes) + 1) + codes)) < len(codes):
            raise DeclinedError("an object has a key twice")
        keys.append(names)
        leaves.keys += len(elements) - elements.null_count
    _table(table, elements, keys, leaves, rows)


def child_keys(parents: pa.Array, sizes: npt.NDArray[np.int64]) -> list[pa.Array]:
    """The columns `_row`, `_parent` and `_index` of the rows of a child table.

    Args:
        parents: The `_row` of each parent, as text.
        sizes: How many rows each has.
    """
    owner = np.repeat(np.arange(len(sizes)), sizes)
    index = np.arange(1, len(owner) + 1) - (np.cumsum(sizes) - sizes)[owner]
    parent = parents.take(integers(owner))
    number = integers(index.astype(np.int64))
    row = pc.binary_join_element_wise(parent, number.cast(pa.string()), text("#"))
    return [row, parent, number]


def _sizes(lists: pa.Array) -> npt.NDArray[np.int64]:
    sizes = np.diff(as_numpy(lists.offsets))
    if lists.null_count:
        sizes[as_numpy(lists.is_null())] = 0
    return sizes.astype(np.int64)


def _entries(maps: pa.MapArray) -> tuple[pa.Array, pa.Array]:
    offsets = as_numpy(maps.offsets)
    if maps.null_count and np.diff(offsets)[as_numpy(maps.is_null())].any():
        raise DeclinedError("a null map has entries")
    begin, count = int(offsets[0]), int(offsets[-1] - offsets[0])
    return maps.keys.slice(begin, count), maps.items.slice(begin, count)


def first_bytes(cells: pa.Array) -> npt.NDArray[np.uint8]:
    """The first byte of each cell; 0 for an empty or null one."""
    offsets, data = text_buffers(cells)
    if not len(data):
        return np.zeros(len(cells), np.uint8)
    begins, ends = offsets[:-1], offsets[1:]
    first: npt.NDArray[np.uint8] = data.take(begins, mode="clip")
    first *= ends > begins
    if cells.null_count:
        first *= as_numpy(cells.is_valid())
    return first


def text_buffers(cells: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Where each text begins, with one more offset for the end of the last, and their bytes."""
    _, offsets, data = cells.buffers()
    if offsets is None or data is None or not data.size:
        return np.zeros(len(cells) + 1, np.int64), np.zeros(0, np.uint8)
    wide = pa.types.is_large_string(cells.type)
    begins: npt.NDArray[np.int64] = np.frombuffer(offsets, np.int64 if wide else np.int32)
    return (
        begins[cells.offset : cells.offset + len(cells) + 1],
        np.frombuffer(data, np.uint8),
    )


def _begins_with_bracket(cells: pa.Array) -> bool:
    first = first_bytes(cells)
    return bool(((first == 91) | (first == 123)).any())


def _tidy_brackets(leaves: Leaves, piece: Piece) -> None:
    """Makes the texts of arrays compact, where it is sure that they are arrays.

    A cell that begins with a bracket is an array, or a string that begins so. It is sure that all
    that are JSON are arrays if as many cells are no JSON as quotes in the input are followed by a
    bracket. Otherwise the strings that begin so are counted: none of them may be inside an array.
    """
    if not leaves.bracketed:
        return
    body = piece.body
    if piece.has_unicode_escape and _ESCAPED_BRACKET.search(body):
        raise DeclinedError("a bracket is written as an escape")
    braces = no_json = total = 0
    compacted = []
    for node, columns, number in leaves.bracketed:
        cells = columns[number]
        first = first_bytes(cells)
        braces += int((first == 123).sum())
        where = np.flatnonzero(first == 91)
        total += len(where)
        may_be_array = _may_be_arrays(cells, where)
        no_json += len(where) - int(may_be_array.sum())
        where = where[may_be_array]
        if not len(where):
            continue
        encoded = cells.take(integers(where)).dictionary_encode()
        counts = np.bincount(as_numpy(encoded.indices), minlength=len(encoded.dictionary))
        before = encoded.dictionary.to_pylist()
        after = [_compact(text, node.depth) for text in before]
        no_json += sum(int(size) for size, text in zip(counts, after, strict=True) if text is None)
        compacted.append((columns, number, where, encoded.indices, before, after))
    arrays = [
        text
        for *_, before, after in compacted
        for text, new in zip(before, after, strict=True)
        if new is not None
    ]
    if braces and (any('"{' in text for text in arrays) or _strings(body, b"{") != braces):
        raise DeclinedError("a plain value may be an object")
    if not arrays:
        return
    if count_pairs(body, b'"', b"[") != [no_json]:
        strings = -1 if any('"[' in text for text in arrays) else _strings(body, b"[")
        if strings == total:
            return
        if strings != no_json:
            raise DeclinedError("a text may be an array or a string")
    for columns, number, where, indices, before, compact in compacted:
        # An empty array is as a missing value.
        after = [
            text if new is None else None if new == "[]" else new
            for text, new in zip(before, compact, strict=True)
        ]
        if after != before:
            cells = columns[number]
            mask = np.zeros(len(cells), bool)
            mask[where] = True
            replacement = texts(after).take(indices)
            columns[number] = pc.replace_with_mask(
                cells.cast(pa.string()), booleans(mask), replacement
            )


def _strings(body: memoryview, bracket: bytes) -> int:
    """How many strings in the text begin with a bracket and are no keys."""
    pattern = rb'(?<!\\)"%b[^"\\]*+(?:\\.[^"\\]*+)*+"(?!\s*:)' % re.escape(bracket)
    return sum(1 for _ in re.finditer(pattern, body, re.DOTALL))


def _may_be_arrays(cells: pa.Array, where: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether cells that begin with `[` may be JSON, by their second and their last byte."""
    offsets, data = text_buffers(cells)
    begin, last = offsets[where], offsets[where + 1] - 1
    second = data[np.minimum(begin + 1, last)]
    may_be: npt.NDArray[np.bool_] = (data[last] == ord("]")) & _IN_ARRAY[second]
    return may_be


def _compact(text: str, depth: int) -> str | None:
    """The compact text of an array; None if the text is no JSON."""
    try:
        value = decode(text.encode())
    except (MalformedError, InvalidError):
        return None
    if has_object(value):
        raise DeclinedError("an array has objects")
    try:
        return text_of(value, depth)
    except InvalidError:
        raise DeclinedError("an array is too deep") from None
