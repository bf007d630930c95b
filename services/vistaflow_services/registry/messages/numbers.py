"""Whole numbers that may have been rounded in a Struct, which holds doubles.

A double holds every whole number up to 2^53. Beyond that it holds only some of them: a program that
puts another one into a Struct gets the nearest, without an error. The double does not show whether
it was rounded: 9007199254740992 may be the result of 9007199254740993, while 1e18 is usually exact.
So numbers count as rounded only from 2^53 to 2^64, the range of identifiers, hashes and times in
nanoseconds, and only if they have more digits than measurements have.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import struct_pb2

from vistaflow_services.core.errors import Violations

_FROM, _TO = 2.0**53, 2.0**64

MAX_VIOLATIONS = 10
"""Most numbers of one Struct that are reported."""


class InexactError(ValueError):
    """A whole number may have been rounded."""


def may_be_rounded(number: float) -> bool:
    """Whether a number of a Struct may be another whole number that was rounded.

    Decimals of up to 15 digits survive the conversion to a double and back.
    """
    return _FROM <= abs(number) < _TO and float(f"{number:.15g}") != number


def tell_rounded(struct: struct_pb2.Struct, field: str, violations: Violations) -> None:
    """Adds a violation for each number that may have been rounded, under its path."""
    for count, (path, number) in enumerate(_rounded(struct, field)):
        if count == MAX_VIOLATIONS:
            return
        violations.add(
            path,
            f"{number:.0f} may be another whole number that was rounded: beyond 2^53 a Struct "
            "loses digits; send it as text, or set numbers_checked if it is exact",
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
