"""Arrow arrays from NumPy and Python, and back, without pandas.

`pyarrow.array` and the NumPy view of an Arrow array import pandas where it is installed, which
costs as much time as a few megabytes of input and memory that a small conversion does not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.lib import StringBuilder


def integers(values: npt.NDArray[np.int64]) -> pa.Array:
    """The values as 64-bit integers; the array shares their memory."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def booleans(values: npt.NDArray[np.bool_]) -> pa.Array:
    """The values as booleans."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])


def texts(values: Iterable[str | None]) -> pa.Array:
    """The values as texts.

    Raises:
        UnicodeEncodeError: One has a lone surrogate.
    """
    cells = list(values)
    joined = np.frombuffer("\0".join([cell or "" for cell in cells]).encode(), np.uint8)
    ends = np.flatnonzero(joined == 0)
    if len(ends) == len(cells) - 1:  # no text has the character itself
        offsets = np.zeros(len(cells) + 1, np.int32)
        offsets[1:-1] = ends
        offsets[-1] = len(joined)
        offsets[1:] -= np.arange(len(cells), dtype=np.int32)
        bits = booleans(np.array([cell is not None for cell in cells])) if None in cells else None
        buffers = [bits.buffers()[1] if bits else None, pa.py_buffer(offsets)]
        return pa.Array.from_buffers(
            pa.string(), len(cells), [*buffers, pa.py_buffer(joined[joined != 0])]
        )
    builder = StringBuilder()
    builder.append_values(cells)
    return builder.finish()


def text(value: str) -> pa.Scalar:
    """One text, for functions that take it with a column."""
    return texts([value])[0]


def as_numpy(values: pa.Array) -> npt.NDArray[Any]:
    """Integers or booleans, none of them null; a view of the integers."""
    if pa.types.is_boolean(values.type):
        return np.from_dlpack(values.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(values)
