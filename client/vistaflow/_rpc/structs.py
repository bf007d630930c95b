"""Python values as a protobuf Struct, whose numbers are doubles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from vistaflow.errors import FieldViolation, InvalidArgumentError, invalid

MOST_WHOLE: Final = 2**53
"""A double holds every whole number up to here; beyond, neighbours may have the same double."""


def struct_of(value: Mapping[str, Any], field: str) -> struct_pb2.Struct:
    """A mapping as a Struct.

    Args:
        value: What JSON can hold.
        field: Where it goes, for the violations, such as `metadata`.

    Raises:
        InvalidArgumentError: A whole number would be changed, or a value is none of JSON.
    """
    if not isinstance(value, Mapping):
        raise invalid(field, f"{value!r} is not a mapping of names to values")
    violations = tuple(
        FieldViolation(
            field=path,
            description=(
                f"{_shown(number)} is beyond 2**53, where numbers lose digits; pass it as text, or "
                "a measurement as a float"
            ),
        )
        for path, number in _too_large(value, field)
    )
    if violations:
        message = "; ".join(
            f"{violation.field} {violation.description}" for violation in violations[:3]
        )
        raise InvalidArgumentError(message, violations=violations)
    struct = struct_pb2.Struct()
    try:
        struct.update(dict(value))
    except (TypeError, ValueError, AttributeError) as error:
        raise invalid(field, f"JSON cannot hold it: {error}") from None
    return struct


def whole(number: float) -> int | float:
    """A number of a Struct as Python has it: whole ones as integers, where they are exact."""
    return int(number) if number.is_integer() and abs(number) <= MOST_WHOLE else number


def _too_large(value: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int) and abs(value) > MOST_WHOLE:
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _too_large(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _too_large(item, f"{path}[{place}]")


def _shown(number: int) -> str:
    # Python refuses to write very large ones.
    return str(number) if number.bit_length() < 200 else f"a number of {number.bit_length()} bits"
