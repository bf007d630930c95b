"""Spans of time as people say them."""

from __future__ import annotations

_UNITS = ((86_400, "d", 2), (3_600, "h", 2), (60, "min", 2))
"""Seconds of a unit, its sign, and from how many of them it is used."""


def span_text(seconds: float) -> str:
    """A span with one unit and two digits at most, such as `6 d`, `90 min`, `0.4 s` or `20 ms`.

    Less than a millisecond is `1 ms`, as nobody waits for it.
    """
    for size, unit, least in _UNITS:
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    if 0 < seconds < 0.095:
        return f"{max(1, round(seconds * 1000))} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
