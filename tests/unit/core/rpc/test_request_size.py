"""Requests that are too large are refused by their length, under the field that makes them so."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.message_limits import NESTING
from vistaflow_services.core.rpc.request_size import Malformed, check_size, fields, unread

SERVICE = "/vistaflow.api.registry.v1.RegistryService"


def numbers(count: int) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made["a"] = [1.5] * count
    return made


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(
            pb.AppendStatesRequest(states=[common.State(metadata=numbers(100))] * 20),
            "states",
            id="many-rows",
        ),
        pytest.param(
            pb.AppendStatesRequest(states=[common.State(), common.State(metadata=numbers(2000))]),
            "states[1].metadata",
            id="one-row",
        ),
        pytest.param(
            pb.CreateKitRequest(name="a", spec=numbers(2000), jobs=[pb.NewJob()] * 9),
            "spec",
            id="kit-spec",
        ),
        pytest.param(
            pb.CreateKitRequest(labels={str(number): "x" * 90 for number in range(99)}),
            "labels",
            id="labels",
        ),
        pytest.param(pb.CancelKitRequest(reason="x" * 9000), "reason", id="text"),
        pytest.param(
            pb.CancelJobsRequest(filter=pb.JobFilter(kit_ids=range(9000))),
            "filter.kit_ids",
            id="filter",
        ),
    ],
)
def test_a_request_that_is_too_large_is_refused_under_its_largest_field(
    request_: Message, field: str
) -> None:
    data = request_.SerializeToString()
    method = f"{SERVICE}/{type(request_).__name__.removesuffix('Request')}"
    check_size(method, data, len(data))
    with pytest.raises(InvalidError, match="are allowed: send several") as caught:
        check_size(method, data, 5000)
    assert [each.field for each in caught.value.violations] == [field]
    assert caught.value.reason == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize(
    "data", [b"\xff" * 6000, b"\x0a" * 6001, b"\x0a\xff\xff\xff\xff\x7f" * 1000, b"\x07" * 6000]
)
def test_bytes_that_are_no_message_are_refused_by_their_length_all_the_same(data: bytes) -> None:
    with pytest.raises(InvalidError):
        check_size(f"{SERVICE}/AppendStates", data, 5000)


def test_the_fields_of_a_message_are_found_without_parsing_it() -> None:
    state = common.State(job_id="j" * 200, revision=2**60, task_name="t", attempt=3)
    data = state.SerializeToString()
    by_number = {
        number: (data[begin:end], data[place:end]) for number, place, begin, end in fields(data)
    }
    assert by_number[common.State.JOB_ID_FIELD_NUMBER][0] == b"j" * 200
    assert by_number[common.State.TASK_NAME_FIELD_NUMBER][0] == b"t"
    assert len(by_number) == 2
    for content, whole in by_number.values():
        assert common.State.FromString(whole) in (
            common.State(job_id=content.decode()),
            common.State(task_name=content.decode()),
        )


def held(number: int, content: bytes) -> bytes:
    """A length-delimited field in wire form, such as no message of the library can be made of."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + content


def nested(levels: int) -> bytes:
    """A Struct of so many levels of objects."""
    value = b"\x11" + bytes(8)
    for _ in range(levels):
        struct = held(1, held(1, b"a") + held(2, value))
        value = held(5, struct)
    return struct


@pytest.mark.parametrize("levels", [34, 60, 100])
def test_what_is_nested_too_deep_to_be_parsed_is_refused_under_its_field(levels: int) -> None:
    deep = nested(levels)
    row = held(common.State.METADATA_FIELD_NUMBER, deep)
    states = pb.AppendStatesRequest.STATES_FIELD_NUMBER
    for kind, data, field in (
        (pb.AppendStatesRequest, held(states, b"") + held(states, row), "states[1].metadata"),
        (pb.CreateKitRequest, held(pb.CreateKitRequest.SPEC_FIELD_NUMBER, deep), "spec"),
    ):
        with pytest.raises(DecodeError):
            kind.FromString(data)
        refusal = unread(f"{SERVICE}/{kind.__name__.removesuffix('Request')}", data)
        assert [each.field for each in refusal.violations] == [field]
        assert f"deeper than {NESTING} levels" in refusal.violations[0].description


def test_bytes_that_are_no_message_are_refused_as_such() -> None:
    for data in (b"\x12\xff", held(1, b"\xff"), held(1, b"") * 5000 + b"\xff"):
        assert isinstance(unread(f"{SERVICE}/AppendStates", data), Malformed)
    assert isinstance(unread("/no.Service/Method", b"\x12\xff"), Malformed)
