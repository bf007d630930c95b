"""What is read the quick way is what the careful way would have read."""

from __future__ import annotations

import json
import math
import uuid

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow_services.core.errors import Violations
from vistaflow_services.registry.domain import MAX_METADATA_BYTES
from vistaflow_services.registry.messages import requests
from vistaflow_services.registry.messages.encoding import struct_bytes, struct_text
from vistaflow_services.registry.messages.quick import quick_item

TEXTS = st.text(max_size=8) | st.sampled_from(["\x00", '"\\', "é€😀", "\u2028", "\x7f", "a\tb"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
STRUCTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def struct(value: dict) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(value)
    return made


@given(STRUCTS)
@example({"zero": -0.0, "large": 1e300, "exact": 2.0**53, "tiny": 5e-324})
def test_the_text_of_a_struct_says_what_the_struct_does(value):
    text = struct_text(struct(value))
    assert json.loads(text) == json_format.MessageToDict(struct(value))


@given(STRUCTS)
@example({"long": "é" * 3000, "many": [{"a": [None, [], {}]}] * 300, "k" * 200: True})
def test_the_bytes_of_a_json_object_are_those_of_its_struct(value):
    assert struct_pb2.Struct.FromString(struct_bytes(value)) == struct(value)


def test_equal_structs_have_one_text_whatever_path_and_order_they_come_by():
    text = '{"a":[1,-1,1e+18,0,9007199254740992,0.5],"b":{"c":1,"d":true}}'
    one = {"a": [1, -1.0, 1e18, -0.0, 2**53, 0.5], "b": {"c": 1.0, "d": True}}
    other = {"b": {"d": True, "c": 1}, "a": [1.0, -1, 10**18, 0, 2.0**53, 0.5]}
    for value in (one, other):
        row = common.State(job_id=str(uuid.UUID(int=5)), status=common.STATUS_RUNNING)
        row.metadata.update(value)
        careful = requests._item(row, "states[0]", Violations(), numbers_checked=True)
        row.task_name = "t"
        quick = quick_item(row, numbers_checked=True)
        assert quick is not None
        assert (quick.metadata_json, careful.metadata_json) == (text, text)


def test_a_list_of_integers_that_is_within_the_limit_as_json_is_taken():
    row = common.State(job_id=str(uuid.UUID(int=5)), status=common.STATUS_RUNNING)
    row.metadata.update({"n": [1] * 32_000})
    found = Violations()
    assert len(requests._item(row, "states[0]", found).metadata_json) < 65_000
    row.metadata.update({"n": [1] * 33_000})
    requests._item(row, "states[0]", found)
    assert [(each.field, each.description) for each in found] == [
        ("states[0].metadata", "is larger than 64 KiB as JSON")
    ]


ROUNDED = [2**53 + 1, -(2**53) - 1, 2**60 + 1, 2**63 - 1, 1_764_496_291_123_456_789]
MEANT = [2**53 - 1, 1e18, 1.5e17, -1e19, 1e300, 1.7976931348623157e308, 5e-324, 0.1, 2.0**80]


@pytest.mark.parametrize("number", ROUNDED)
def test_a_whole_number_that_may_have_been_rounded_is_refused_under_its_path(number):
    row = common.State(job_id=str(uuid.UUID(int=5)), status=common.STATUS_RUNNING, task_name="t")
    row.metadata.update({"fine": 1, "ids": [{"x": 1}, {"hash": number}]})
    assert quick_item(row) is None
    found = Violations()
    requests._item(row, "states[0]", found)
    assert [each.field for each in found] == ["states[0].metadata.ids[1].hash"]
    assert all("send it as text" in each.description for each in found)
    checked = quick_item(row, numbers_checked=True)
    assert checked is not None
    assert json.loads(checked.metadata_json)["ids"][1]["hash"] == float(number)


@pytest.mark.parametrize("number", MEANT)
def test_a_number_that_people_measure_is_taken_and_comes_back_the_same(number):
    row = common.State(job_id=str(uuid.UUID(int=5)), status=common.STATUS_RUNNING, task_name="t")
    row.metadata.update({"x": number})
    made = quick_item(row)
    assert made is not None
    read = struct_bytes(json.loads(made.metadata_json))
    assert struct_pb2.Struct.FromString(read) == row.metadata


def test_whole_numbers_stay_whole_and_others_keep_every_digit():
    told = json.loads(struct_text(struct({"n": 17, "x": 0.1, "m": -3, "big": 2.0**60})))
    assert [(type(each), each) for each in (told["n"], told["x"], told["m"])] == [
        (int, 17),
        (float, 0.1),
        (int, -3),
    ]
    assert told["big"] == 2.0**60


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_not_is_refused(number):
    with pytest.raises(ValueError, match="JSON does not allow"):
        struct_text(struct({"a": {"b": [number]}}))


@given(
    task_name=st.sampled_from(["", "t", "x" * 100, "x" * 101, "a\nb", "é"]),
    job_id=st.sampled_from([str(uuid.UUID(int=5)), "", "no", str(uuid.UUID(int=5))[:-1] + "x"]),
    status=st.integers(-1, 8),
    job_type=st.integers(-1, 11),
    actor=TEXTS | st.sampled_from(["me", "x" * 201]),
    reason=st.sampled_from(["", "why"]),
    numbers=st.tuples(*[st.integers(-1, 3)] * 3),
    metadata=STRUCTS,
)
def test_a_quick_row_is_the_careful_one_and_what_is_wrong_is_never_quick(
    task_name, job_id, status, job_type, actor, reason, numbers, metadata
):
    state = common.State(
        job_id=job_id,
        task_name=task_name,
        status=status,
        job_type=job_type,
        actor=actor,
        reason=reason,
        kit_id=numbers[0],
        attempt=numbers[1],
        seq=numbers[2],
        metadata=struct(metadata),
    )
    found = Violations()
    careful = requests._item(state, "states[0]", found)
    quick = quick_item(state)
    if quick is None:
        return
    found.check()
    assert json.loads(quick.metadata_json or "{}") == json.loads(careful.metadata_json or "{}")
    quick.metadata_json = careful.metadata_json
    assert quick == careful


def test_an_ordinary_row_is_quick_and_one_with_large_metadata_is_not():
    state = common.State(
        job_id=str(uuid.UUID(int=5)), task_name="t", status=common.STATUS_RUNNING, seq=4
    )
    state.metadata.update({"points": 32, "note": "simulate"})
    made = quick_item(state)
    assert made is not None
    assert json.loads(made.metadata_json) == {"points": 32, "note": "simulate"}
    state.metadata.update({"note": "x" * MAX_METADATA_BYTES})
    assert quick_item(state) is None
