"""The engines that turn pieces of records into columns of tables, behind one contract.

python.py         takes the records apart in Python: exact for any input; learns the shape
columns.py        the same a column at a time, where nothing is new
arrays.py         Arrow arrays from NumPy and Python, and back
nested.py         columns of tables from records that a parser read into nested Arrow arrays
duckdb_engine.py  DuckDB as that parser
text.py           chDB as that parser, every leaf as text; text_child.py is its process
choice.py         which engine converts, and what happens when one declines a piece
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from vistaflow_services.tables.conversion import EngineName
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Shape, Table


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one table, in the order of the input."""

    table: Table
    columns: Sequence[pa.Array]
    """One array a column, as in `Table.header`: `_index` and the records' `_row` are integers, all
    others texts. A null is a value that is null or missing."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.columns[0])


class DeclinedError(Exception):
    """An engine cannot convert a piece exactly with the shape as it is; another one has to."""


class Engine(Protocol):
    """Converts pieces, each exactly or not at all.

    For one piece and shape all engines give equal rows: the same texts, null in the same places,
    in the same order.
    """

    name: EngineName
    piece_bytes: int
    """Size of pieces that suits its speed and memory."""

    def convert(self, piece: Piece, shape: Shape) -> list[Rows]:
        """The rows of a piece, of every table that has any.

        Raises:
            DeclinedError: It would not be exact, or the shape has not all that is in the piece.
            InvalidError: The piece has something that no engine converts.
        """
        ...

    def close(self) -> None:
        """Ends its process or connection, if it has one."""
        ...
