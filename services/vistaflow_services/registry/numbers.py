"""Whole numbers that may have been rounded on their way into a Struct, which holds doubles.

A double holds every whole number up to 2^53. Of those beyond it holds some: a program that puts
another one into a Struct gets the nearest, and nobody notices. What a double cannot tell is whether
it was meant: 9007199254740992 stands for 9007199254740993 as well, and 1e18 for most that put it
there. So numbers are taken for rounded where identifiers, hashes and times in nanoseconds lie, from
2^53 to 2^64, and only if they have more digits than people give to measurements.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import struct_pb2

from vistaflow_services.core.errors import Violations

_FROM, _TO = 2.0**53, 2.0**64

MAX_VIOLATIONS = 10
"""Numbers of one Struct that are named."""


class InexactError(ValueError):
    """A whole number may have been rounded."""


def may_be_rounded(number: float) -> bool:
    """Whether a number of a Struct may stand for another whole number than was meant.

    Decimals of up to 15 digits survive the way into a double and back.
    """
    return _FROM <= abs(number) < _TO and float(f"{number:.15g}") != number


def tell_rounded(struct: struct_pb2.Struct, field: str, violations: Violations) -> None:
    """Notes the numbers that may have been rounded, each under its path."""
    for count, (path, number) in enumerate(_rounded(struct, field)):
        if count == MAX_VIOLATIONS:
            return
        violations.add(
            path,
            f"{number:.0f} may be another whole number that was rounded: beyond 2^53 a Struct "
            "loses digits; send it as text, or set numbers_checked if it is meant",
        )


def _rounded(struct: struct_pb2.Struct, field: str) -> Iterator[tuple[str, float]]:
    for key, value in struct.fields.items():
        yield from _rounded_in(value, f"{field}.{key}")


def _rounded_in(value: struct_pb2.Value, path: str) -> Iterator[tuple[str, float]]:
    kind = value.WhichOneof("kind")
    if kind == "number_value" and may_be_rounded(value.number_value):
        yield path, value.number_value
    elif kind == "struct_value":
        yield from _rounded(value.struct_value, path)
    elif kind == "list_value":
        for place, item in enumerate(value.list_value.values):
            yield from _rounded_in(item, f"{path}[{place}]")
