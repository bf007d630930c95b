"""What is read by a layout is what would have been read without one, to the character."""

from __future__ import annotations

import math

import pytest
from google.protobuf import struct_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from vistaflow_services.registry.messages import layouts
from vistaflow_services.registry.messages.encoding import struct_text
from vistaflow_services.registry.messages.layouts import Layouts

KEYS = st.text(max_size=6) | st.sampled_from(["a", "b", "%s", '"', "\\", "é€😀", "\x00"])
VALUES = (
    st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=6)
    | st.none()
    | st.lists(st.booleans(), max_size=2)
)
ODD = {"zero": -0.0, "one": 1, "part": 0.1, "tiny": 5e-324, "large": 2.0**53 - 1, "yes": True}


def struct(value):
    message = struct_pb2.Struct()
    message.update(value)
    return struct_pb2.Struct.FromString(message.SerializeToString())


def text_of(known, message):
    return known.text(message, message.SerializeToString())


@pytest.fixture
def eager(monkeypatch):
    """Every row without a layout gets one."""
    monkeypatch.setattr(layouts, "ROWS_A_LAYOUT", 1)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=6))
@example([ODD, {**ODD, "zero": 0.0}, {**ODD, "one": 2.0**53}, {**ODD, "yes": False}])
@example([{"s": "ab"}, {"s": "a%"}, {"s": '"\\'}, {"s": "é"}, {"s": ""}, {"s": "\x00\x01"}])
@example([{"ab": 1}, {"cd": 1}, {"ab": True, "c": ""}])
def test_a_text_by_layout_is_the_usual_one(values):
    known = Layouts()
    for value in values * 2:
        message = struct(value)
        known._missed = layouts.ROWS_A_LAYOUT
        text = text_of(known, message)
        assert text is None or text == struct_text(message, numbers_checked=False)


@pytest.mark.usefixtures("eager")
def test_rows_with_the_keys_of_an_earlier_one_are_read_by_its_layout():
    known = Layouts()
    assert text_of(known, struct({"b": 1.5, "a": "x", "c": True})) is None
    assert text_of(known, struct({"b": 17, "a": "y", "c": False})) == ('{"a":"y","b":17,"c":false}')
    assert text_of(known, struct({"b": -0.0, "a": "%", "c": True})) == '{"a":"%","b":0,"c":true}'


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2.0**53, -(2.0**60), 1e300])
def test_numbers_that_need_a_check_are_left_to_it(number):
    known = Layouts()
    text_of(known, struct({"n": 1}))
    assert text_of(known, struct({"n": 2})) == '{"n":2}'
    assert text_of(known, struct({"n": number})) is None


@pytest.mark.usefixtures("eager")
def test_unknown_fields_have_no_layout():
    # Field 15 of a Value, which this version does not know, beside a number.
    entry = b"\x0a\x01n\x12\x0b\x11" + bytes(8) + b"\x78\x01"
    message = struct_pb2.Struct.FromString(b"\x0a" + bytes([len(entry)]) + entry)
    known = Layouts()
    assert text_of(known, message) is None
    assert text_of(known, message) is None


@pytest.mark.usefixtures("eager")
def test_layouts_are_bounded():
    known = Layouts()
    for number in range(layouts.MAX_LAYOUTS + 10):
        text_of(known, struct({f"{number:03}": 1}))
    assert len(known._layouts) <= layouts.MAX_LAYOUTS


@pytest.mark.usefixtures("eager")
def test_long_metadata_has_no_layout():
    known = Layouts()
    message = struct({"long": "x" * layouts.LAYOUT_BYTES})
    text_of(known, message)
    assert not known._layouts


def test_few_of_the_rows_without_a_layout_get_one():
    known = Layouts()
    for number in range(10 * layouts.ROWS_A_LAYOUT):
        text_of(known, struct({f"{number:03}": 1}))
    assert len(known._layouts) == 10
