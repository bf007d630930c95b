"""DuckDB as the parser: fast, and exact where the text of a piece is as DuckDB would write it.

DuckDB leaves out fields that its schema does not have, reads `NaN`, writes `1.10` as `1.1` and
`-0` as `0`. So the text of a piece is looked at first, and the keys in it are counted against
those that DuckDB read. A piece where anything differs is declined.
"""

from __future__ import annotations

import itertools

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vistaflow_services.tables.brackets import BLOCK, has_minus_zero, has_spaced_colon
from vistaflow_services.tables.conversion import EngineName
from vistaflow_services.tables.engines import DeclinedError, Rows
from vistaflow_services.tables.engines.nested import check_shape, walk
from vistaflow_services.tables.literals import MAX_DEPTH
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Node, Shape, Table

MEMORY_LIMIT = "512MB"
"""Most memory of DuckDB itself. It may not spill to disk: the records may be secret."""

_EXACT_DIGITS = 15
"""Decimal digits that a double keeps for certain."""

_MOST_DIGITS = 200
"""Digits in a row that are counted."""

_IS_DIGIT = np.zeros(256, bool)
_IS_DIGIT[ord("0") : ord("9") + 1] = True
_BEFORE_NUMBER = np.zeros(256, bool)
_BEFORE_NUMBER[list(b":[, \t\r\n")] = True


class DuckDbEngine:
    """Converts pieces whose numbers and keys DuckDB reads without loss."""

    name = EngineName.DUCKDB
    piece_bytes = 8 << 20

    def __init__(self) -> None:
        self._connection = duckdb.connect()
        self._connection.execute(
            f"SET threads = 1; SET memory_limit = '{MEMORY_LIMIT}'; SET temp_directory = '';"
            "SET enable_progress_bar = false; SET autoinstall_known_extensions = false;"
            "SET autoload_known_extensions = false; SET preserve_insertion_order = true"
        )

    def convert(self, piece: Piece, shape: Shape) -> list[Rows]:
        """See `Engine.convert`."""
        check_shape(shape.records)
        columns = _columns(shape)
        keys = keys_with_values(piece.body)
        check_numbers(piece.body)
        try:
            relation = self._connection.sql(
                f"SELECT * FROM read_json('{piece.file.path}', format = 'array',"
                f" columns = {columns}, maximum_object_size = {_object_bytes(piece)})"
            )
            table = relation.to_arrow_table()
        except duckdb.Error as error:
            raise DeclinedError(str(error)) from None
        rows, leaves = walk(table, shape, piece)
        if leaves.keys != keys:
            raise DeclinedError("the piece has fields that the shape has not")
        return rows

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _object_bytes(piece: Piece) -> int:
    """Room for the longest record; DuckDB takes and clears several times as much for each piece."""
    return max(1 << 20, 2 * max(map(len, piece.records)))


def _columns(shape: Shape) -> str:
    """The shape as DuckDB's `columns`."""
    fields = shape.records.root.fields
    if not fields:
        raise DeclinedError("the records have no fields")
    _check_names(shape.records.root)
    text = ", ".join(f"{_quoted(key)}: {_quoted(_type(node))}" for key, node in fields.items())
    return f"{{{text}}}"


def _check_names(node: Node) -> None:
    """Refuses names that DuckDB takes for one another."""
    names = [key.casefold() for key in node.fields or {}]
    if len(set(names)) < len(names) or "" in names:
        raise DeclinedError("two fields differ in case only")


def _type(node: Node) -> str:
    if node.depth > MAX_DEPTH:
        raise DeclinedError("the shape is too deep")
    if node.items is not None:
        return f"{_struct(node.items)}[]"
    if node.entries is not None:
        return f"MAP(VARCHAR, {_struct(node.entries)})"
    if node.fields:
        _check_names(node)
        return _struct_of(node)
    return "VARCHAR"


def _struct(table: Table) -> str:
    return _type(table.root)


def _struct_of(node: Node) -> str:
    fields = ", ".join(
        f'"{key.replace(chr(34), chr(34) * 2)}" {_type(child)}'
        for key, child in (node.fields or {}).items()
    )
    return f"STRUCT({fields})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def keys_with_values(body: memoryview) -> int:
    """How many keys of objects in a JSON text have a value other than null.

    Raises:
        DeclinedError: It cannot be known without a parser.
    """
    if has_spaced_colon(body):
        raise DeclinedError("a colon is away from its key")
    data = np.frombuffer(body, np.uint8)
    count = 0
    # In blocks that stay in the cache. The last bytes of an array of objects are no key.
    for start in range(0, len(data) - 3, BLOCK):
        block = data[start : start + BLOCK + 3]
        before, colons, after = block[:-3], block[1:-2] == ord(":"), block[2:-1]
        colons &= before == ord('"')
        if (colons & (after <= 32)).any():
            after = np.where(after == ord(" "), block[3:], after)
            if (colons & (after <= 32)).any():
                raise DeclinedError("a value is away from its colon")
        colons &= after != ord("n")
        count += int(np.count_nonzero(colons))
    return count


def check_numbers(body: memoryview) -> None:
    """Refuses texts with numbers that a double changes or that DuckDB writes in another way.

    DuckDB writes the shortest text that gives the double back: 1.10 becomes 1.1, 0.00001 becomes
    1e-05, and of more digits than a double has some are lost. It writes minus zero as zero.

    Raises:
        DeclinedError: There is such a number, or a string that looks like one.
    """
    data = np.frombuffer(body, np.uint8)
    if has_minus_zero(body):
        raise DeclinedError("a number is not as DuckDB would write it")
    marks = _suspects(data, _marks(data))
    whole = _digits(data, marks, -1)
    begins = marks - whole
    before = data[begins - 1]
    negative = before == ord("-")
    before[negative] = data[(begins - 2)[negative]]
    begins -= negative
    is_number = _BEFORE_NUMBER[before]
    begins, marks, whole = begins[is_number], marks[is_number], whole[is_number]
    is_point = data[marks] == ord(".")
    digits = _digits(data, marks, 1)
    is_number = (digits > 0) | ~is_point
    begins, marks, whole = begins[is_number], marks[is_number], whole[is_number]
    is_point, digits = is_point[is_number], digits[is_number]
    ends = np.where(is_point, marks + digits + 1, marks)
    is_small = is_point & (data[marks - 1] == ord("0")) & (whole == 1) & (digits > 4)
    for place in range(1, 5):
        is_small[is_small] = data[marks[is_small] + place] == ord("0")
    has_zero = is_point & (digits > 1) & (data[ends - 1] == ord("0"))
    if is_small.any() or has_zero.any():
        raise DeclinedError("a number is not as DuckDB would write it")
    has_exponent = data[ends] | 32 == ord("e")
    before = data[begins - 1]
    is_member = np.where(before == ord(" "), data[begins - 2], before) == ord(":")
    if (has_exponent & ~is_member).any():
        # In arrays, which are texts of JSON, it writes 1e+16 as 10000000000000000.0.
        raise DeclinedError("a number is not as DuckDB would write it")
    is_long = ~has_exponent & (whole + digits > _EXACT_DIGITS)
    exponents = ends[has_exponent]
    exponents += (data[exponents + 1] == ord("-")) | (data[exponents + 1] == ord("+"))
    ends[has_exponent] = exponents + 1 + _digits(data, exponents, 1)
    texts = _texts(data, begins[is_long], ends[is_long])
    # Arrow writes the same digits, but its exponents begin elsewhere and have other forms.
    others = texts.filter(pc.not_equal(texts, texts.cast(pa.float64()).cast(pa.string())))
    exponential = _texts(data, begins[has_exponent], ends[has_exponent])
    for text in itertools.chain(others, exponential):
        number = text.as_py()
        if not number[-1].isdigit() or repr(float(number)) != number:
            raise DeclinedError("a number is not as DuckDB would write it")


def _suspects(data: npt.NDArray[np.uint8], marks: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The marks of what may be a number that is changed: most need no closer look."""
    digits = _digits(data, marks, 1)
    last = data[marks + digits]
    is_suspect = (data[marks] != ord(".")) | (data[marks + digits + 1] | 32 == ord("e"))
    is_suspect |= (digits > 1) & (last == ord("0"))
    is_suspect |= (digits > 4) & (data[marks + 1] == ord("0"))
    # So far to the left is a digit if there are more digits than a double keeps.
    far = marks - np.maximum(_EXACT_DIGITS + 1 - digits, 1)
    is_far = _IS_DIGIT[data[np.maximum(far, 0)]]
    is_suspect |= is_far & (_IS_DIGIT[data[marks - 2]] | (far > marks - 2))
    suspects: npt.NDArray[np.intp] = marks[is_suspect]
    return suspects


def _texts(
    data: npt.NDArray[np.uint8], begins: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]
) -> pa.Array:
    """Parts of a text."""
    lengths = ends - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    places = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[places])]
    return pa.Array.from_buffers(pa.string(), len(begins), buffers)


def _marks(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Where a point or the letter of an exponent follows a digit."""
    marks_of_blocks = []
    for start in range(0, len(data) - 1, BLOCK):
        block = data[start : start + BLOCK + 1]
        marks = (block[1:] == ord(".")) | (block[1:] | 32 == ord("e"))
        marks &= block[:-1] - ord("0") < 10
        marks_of_blocks.append(np.flatnonzero(marks) + (start + 1))
    return np.concatenate(marks_of_blocks)


def _digits(
    data: npt.NDArray[np.uint8], places: npt.NDArray[np.intp], step: int
) -> npt.NDArray[np.intp]:
    """How many digits there are from each place on, to the right or left."""
    counts = np.zeros(len(places), np.intp)
    rows, offsets = np.arange(len(places)), places + step
    for _ in range(_MOST_DIGITS):
        is_digit = _IS_DIGIT[data[offsets]]
        rows, offsets = rows[is_digit], offsets[is_digit] + step
        counts[rows] += 1
        if not len(rows):
            return counts
    raise DeclinedError("a number is very long")
