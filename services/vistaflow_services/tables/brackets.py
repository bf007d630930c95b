"""Records found by their brackets and quotes, with NumPy, in text that need not be valid."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

SPACE = b" \t\r\n"
SPACES = re.compile(rb"[ \t\r\n]*")
_CLASS = np.zeros(256, np.int8)
_CLASS[[ord("{"), ord("[")]] = 1
_CLASS[[ord("}"), ord("]")]] = -1
_CLASS[ord('"')] = 3
_BEFORE_NUMBER = np.zeros(256, bool)
_BEFORE_NUMBER[list(b":[, \t\r\n")] = True
_MINUS_ZERO = re.compile(rb"[:\[, \t\r\n]-0[^.0-9]")
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_SHORT = 1_000
"""Bytes below which a regular expression is quicker than a few passes."""

BLOCK = 1 << 17
"""Bytes that stay in the cache of a core while several passes go over them."""


def count_pairs(text: bytes | memoryview, first: bytes, seconds: bytes) -> list[int]:
    """How often one byte is followed by each of some others."""
    data = np.frombuffer(text, np.uint8)
    counts = [0] * len(seconds)
    is_first, is_pair = np.empty(BLOCK, bool), np.empty(BLOCK, bool)
    for start in range(0, len(data) - 1, BLOCK):
        following = data[start + 1 : start + 1 + BLOCK]
        begins = np.equal(
            data[start : start + len(following)], first[0], out=is_first[: len(following)]
        )
        if not begins.any():
            continue
        pairs = is_pair[: len(following)]
        for number, second in enumerate(seconds):
            np.equal(following, second, out=pairs)
            counts[number] += int(np.count_nonzero(np.logical_and(pairs, begins, out=pairs)))
    return counts


def has_spaced_colon(text: bytes | memoryview) -> bool:
    """Whether a key, or a string that looks like one, has spaces before its colon."""
    data = np.frombuffer(text, np.uint8)
    blocks = (data[start : start + BLOCK + 1] for start in range(0, len(data) - 1, BLOCK))
    spaced = any(((block[1:] == ord(":")) & (block[:-1] <= 32)).any() for block in blocks)
    return spaced and _SPACED_COLON.search(text) is not None


def has_minus_zero(text: bytes | memoryview) -> bool:
    """Whether a number, or a string that looks like one, is minus zero without a fraction."""
    if len(text) < _SHORT:
        return _MINUS_ZERO.search(text) is not None
    data = np.frombuffer(text, np.uint8)
    for start in range(0, len(data) - 2, BLOCK):
        block = data[start : start + BLOCK + 2]
        is_minus_zero = block[1:-1] == ord("-")
        is_minus_zero &= block[2:] == ord("0")
        is_minus_zero &= block[:-2] - ord("0") > 9  # dates have a digit there
        places = np.flatnonzero(is_minus_zero)
        if _BEFORE_NUMBER[block[places]].any():
            return _MINUS_ZERO.search(text) is not None
    return False


def scan(window: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Positions of the brackets outside of strings, and +1 where one opens, -1 where one closes."""
    data = np.frombuffer(window, np.uint8)
    classes = _CLASS[data]
    positions = np.flatnonzero(classes)
    values = classes[positions]
    is_quote = values == 3
    if b"\\" in window:
        quotes = positions[is_quote]
        escaped = np.zeros(len(quotes), bool)
        for number in np.flatnonzero((quotes > 0) & (data[np.maximum(quotes - 1, 0)] == 92)):
            end = begin = int(quotes[number])
            while begin and window[begin - 1] == 92:
                begin -= 1
            escaped[number] = (end - begin) % 2 == 1
        keep = np.ones(len(positions), bool)
        keep[np.flatnonzero(is_quote)[escaped]] = False
        positions, values, is_quote = positions[keep], values[keep], is_quote[keep]
    outside = ~is_quote & (np.cumsum(is_quote) % 2 == 0)
    return positions[outside], values[outside]


def follow(
    window: bytes, *, in_array: bool, whole: bool
) -> tuple[list[tuple[int, int]], int, bool]:
    """The whole records of a window that begins with one.

    Args:
        window: Bytes of the input.
        in_array: Whether the first record is an element of an array.
        whole: Whether the input ends with the window.

    Returns:
        Begin and end of each record; how much of the window they take, or minus 1 minus the
        position of a byte that may not be there; whether the input is in an array behind them.
    """
    positions, steps = scan(window)
    depths = np.cumsum(steps, dtype=np.int64) + (1 if in_array else 0)
    # Only brackets that open or close a record or the array around records matter. In the array
    # a record is between the depths 1 and 2, elsewhere between 0 and 1: both are below 3.
    near = np.flatnonzero(np.minimum(depths, depths - steps) <= 1)
    spans: list[tuple[int, int]] = []
    start, end, base, after = -1, 0, 1 if in_array else 0, in_array
    for position, step, depth in zip(
        positions[near].tolist(), steps[near].tolist(), depths[near].tolist(), strict=True
    ):
        if start >= 0:
            if step < 0 and depth == base:
                spans.append((start, position + 1))
                start, end, after = -1, position + 1, base == 1
            continue
        gap = window[end:position].strip(SPACE)
        byte = window[position]
        if byte == 123 and depth == base + 1:
            follows = bool(spans) and end == spans[-1][1]
            if gap != (b"," if base and follows else b"") and not (gap == b"," and follows):
                return spans, -1 - (_first_text(window, end) if gap else position), after
            start = position
        elif byte == 91 and base == 0 and not gap:
            base, end = 1, position + 1
        elif byte == 93 and base == 1 and not gap:
            base, end = 0, position + 1
        else:
            return spans, -1 - (_first_text(window, end) if gap else position), after
    taken = spans[-1][1] if spans else 0
    if whole and start < 0 and window[end:].strip(SPACE):
        return spans, -1 - _first_text(window, end), after
    return spans, taken, after


def _first_text(window: bytes, begin: int) -> int:
    return len(window) - len(window[begin:].lstrip(SPACE + b","))
