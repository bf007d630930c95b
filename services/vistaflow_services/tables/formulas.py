"""Cells that a spreadsheet would run as a formula, made harmless."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vistaflow_services.tables.engines.arrays import as_numpy, booleans, integers, text
from vistaflow_services.tables.engines.nested import first_bytes, text_buffers

PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""A cell that begins with a minus and is no formula."""

_FORMULA = np.zeros(256, bool)
_FORMULA[list(b"=+-@\t\r'")] = True
_QUOTED_FORMULA = r"^'+[=+\-@\t\r]"


def guarded(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The columns with `'` before each cell that a spreadsheet would run, and each ambiguous one.

    A cell that begins with apostrophes and then such a character gets one more, so that taking
    one apostrophe away always gives the cell back.
    """
    return [
        _guarded_column(column) if pa.types.is_string(column.type) else column for column in columns
    ]


def _are_negative_integers(texts: pa.Array) -> bool:
    """Whether all of some texts are a minus and digits, which is quick to see of all at once."""
    offsets, data = text_buffers(texts)
    characters = data[offsets[0] : offsets[-1]]
    minuses = data[offsets[:-1]] == ord("-")
    digits = np.count_nonzero(characters - ord("0") < 10)
    return bool(
        minuses.all() and digits == len(characters) - len(texts) and (np.diff(offsets) > 1).all()
    )


def _guarded_column(cells: pa.Array) -> pa.Array:
    suspects = np.flatnonzero(_FORMULA[first_bytes(cells)])
    if not len(suspects):
        return cells
    texts = cells.take(integers(suspects))
    if _are_negative_integers(texts):
        return cells
    first = first_bytes(texts)
    is_number = as_numpy(pc.match_substring_regex(texts, PLAIN_NUMBER))
    is_quoted = as_numpy(pc.match_substring_regex(texts, _QUOTED_FORMULA))
    changed = np.where(first == ord("'"), is_quoted, ~is_number)
    if not changed.any():
        return cells
    mask = np.zeros(len(cells), bool)
    mask[suspects[changed]] = True
    safe = pc.binary_join_element_wise(text("'"), texts.filter(booleans(changed)), text(""))
    return pc.replace_with_mask(cells, booleans(mask), safe)
