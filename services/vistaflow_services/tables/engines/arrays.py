"""Arrow arrays from NumPy and Python, and back, without pandas.

`pyarrow.array` and the NumPy view of an Arrow array import pandas where it is installed, which
costs as much time as a few megabytes of input and memory that a small conversion does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def texts(values: Sequence[str | None]) -> pa.Array:
    """The values as texts.

    Raises:
        UnicodeEncodeError: One has a lone surrogate.
    """
    bits = None
    try:
        joined = "\0".join(values)  # type: ignore[arg-type]
    except TypeError:
        joined = "\0".join([value or "" for value in values])
        bits = booleans(np.array([value is not None for value in values])).buffers()[1]
    data = np.frombuffer(joined.encode(), np.uint8)
    is_end = data == 0
    ends = np.flatnonzero(is_end)
    if len(ends) == len(values) - 1:  # no text has the character itself
        offsets = np.zeros(len(values) + 1, np.int32)
        offsets[1:-1] = ends
        offsets[-1] = len(data)
        offsets[1:] -= np.arange(len(values), dtype=np.int32)
        buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(data[~is_end])]
        return pa.Array.from_buffers(pa.string(), len(values), buffers)
    builder = StringBuilder()
    builder.append_values(values)
    return builder.finish()


def text(value: str) -> pa.Scalar:
    """One text, for functions that take it with a column."""
    return texts([value])[0]


def as_numpy(values: pa.Array) -> npt.NDArray[Any]:
    """Integers or booleans, none of them null; a view of the integers."""
    if pa.types.is_boolean(values.type):
        return np.from_dlpack(values.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(values)
