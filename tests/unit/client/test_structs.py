"""Python values as a Struct: no number is changed on the way."""

from __future__ import annotations

from enum import IntEnum

import pytest

from vistaflow._rpc.structs import struct_of
from vistaflow.cli.arguments import number_of
from vistaflow.errors import InvalidArgumentError
from vistaflow.models import struct_dict


class Big(IntEnum):
    ID = 2**60


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**64, 10**400, Big.ID])
def test_a_whole_number_that_a_double_may_change_is_refused_under_its_path(number: int) -> None:
    value = {"n": 1, "a": {"b": [0, {"c": number}], "d": (number,)}}
    with pytest.raises(InvalidArgumentError, match="pass it as text") as refused:
        struct_of(value, "metadata")
    fields = [each.field for each in refused.value.violations]
    assert fields == ["metadata.a.b[1].c", "metadata.a.d[0]"]


@pytest.mark.parametrize(
    "value", [0, 7, -(2**53), 2**53, 0.1, 1e18, 1e300, "9007199254740993", True, None]
)
def test_what_is_taken_comes_back_as_it_was(value: object) -> None:
    back = struct_dict(struct_of({"x": [value]}, "metadata"))["x"][0]
    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("17", 17.0),
        ("1.5e3", 1500.0),
        ("1e18", 1e18),
        ("9007199254740993", 2**53 + 1),
        ("9007199254740993.0", 2**53 + 1),
        ("1.2345678901234567e18", 1.2345678901234567e18),
        ("9007199254740993.5", 2.0**53 + 2),
        ("1e400", float("inf")),
        ("1.7976931348623157e308", 1.7976931348623157e308),
    ],
)
def test_a_number_that_was_typed_is_an_integer_where_a_double_would_change_it(
    text: str, number: float
) -> None:
    read = number_of(text)
    assert (read, isinstance(read, int)) == (number, isinstance(number, int))


@pytest.mark.parametrize("text", ["", "x", "1e", "12a"])
def test_what_is_no_number_is_told_as_such(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        number_of(text)
