"""What would keep the parser busy is refused before it, and what may be large is read apart."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.registry.messages import requests
from vistaflow_services.registry.messages.raw import (
    MAX_ENTRIES,
    SMALL_BYTES,
    Rows,
    checks,
    read_rows,
)

SERVICE = "/vistaflow.api.registry.v1.RegistryService"
JOB_ID = str(uuid.UUID(int=5))


def struct(**values: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def objects(count: int) -> dict[str, None]:
    return {f"k{number}": None for number in range(count)}


def state(**fields: Any) -> common.State:
    told = {"job_id": JOB_ID, "status": common.STATUS_RUNNING, "task_name": "t"}
    return common.State(**(told | fields))


def encode(answer: Any) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(
            pb.CreateKitRequest(labels={f"label-{n}": "" for n in range(40_000)}),
            "labels",
            id="labels-of-a-kit",
        ),
        pytest.param(
            pb.CreateKitRequest(
                jobs=[pb.NewJob(), pb.NewJob(labels={f"label-{n}": "" for n in range(40_000)})]
            ),
            "jobs[1].labels",
            id="labels-of-a-job",
        ),
        pytest.param(
            pb.CreateJobRequest(
                job=pb.NewJob(labels={f"label-{n}": "" for n in range(40_000)}),
            ),
            "job.labels",
            id="labels-of-one-job",
        ),
        pytest.param(pb.CreateKitRequest(jobs=[pb.NewJob()] * 200_000), "jobs", id="empty-jobs"),
        pytest.param(
            pb.CreateKitRequest(spec=struct(**objects(MAX_ENTRIES + 1))), "spec", id="one-object"
        ),
        pytest.param(
            pb.CreateKitRequest(spec=struct(a=[1, {"b": objects(MAX_ENTRIES + 1)}])),
            "spec",
            id="nested-object",
        ),
        pytest.param(
            pb.CreateKitRequest(spec=struct(a="x" * 2_000_000)), "spec", id="spec-too-large"
        ),
        pytest.param(
            pb.ListStatesRequest(filter=pb.StateFilter(kit_ids=[1] * 300_000)),
            "filter.kit_ids",
            id="filter",
        ),
    ],
)
def test_more_than_a_field_may_hold_is_refused_before_it_is_parsed(
    request_: Message, field: str
) -> None:
    data = request_.SerializeToString()
    assert len(data) > SMALL_BYTES
    method = f"{SERVICE}/{type(request_).__name__.removesuffix('Request')}"
    with pytest.raises(InvalidError) as caught:
        checks()[method](data)
    assert [each.field for each in caught.value.violations] == [field]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(
            pb.CreateKitRequest(
                name="k",
                spec=struct(a=[0] * 130_000),
                labels={f"label-{n}": "" for n in range(64)},
            ),
            id="kit-with-the-largest-spec",
        ),
        pytest.param(
            pb.CreateKitRequest(
                jobs=[
                    pb.NewJob(name=f"j{n}", depends_on=[f"j{m}" for m in range(n)])
                    for n in range(600)
                ]
            ),
            id="kit-of-jobs-that-wait-for-all-before",
        ),
        pytest.param(
            pb.CreateJobRequest(job=pb.NewJob(spec={"value": b"B" * 2_000_000})), id="spec-of-a-job"
        ),
    ],
)
def test_what_is_large_and_allowed_is_parsed(request_: Message) -> None:
    data = request_.SerializeToString()
    assert len(data) > SMALL_BYTES
    checks()[f"{SERVICE}/{type(request_).__name__.removesuffix('Request')}"](data)


def test_every_method_of_the_service_is_looked_at() -> None:
    assert checks().keys() == {
        f"{SERVICE}/{method.name}"
        for method in pb.DESCRIPTOR.services_by_name["RegistryService"].methods
    }


def test_a_small_append_is_parsed_as_a_whole_and_a_large_one_row_by_row() -> None:
    read = read_rows(pb.AppendStatesRequest)
    small = pb.AppendStatesRequest(request_id="r", states=[state()])
    assert read(small.SerializeToString()) == small
    rows = [state(task_name=f"t{n}", metadata=struct(a="x" * 50_000)) for n in range(9)]
    large = pb.AppendStatesRequest(request_id="r", states=rows, numbers_checked=True)
    found = read(large.SerializeToString())
    assert isinstance(found, Rows)
    assert found.head == pb.AppendStatesRequest(request_id="r", numbers_checked=True)
    assert list(found.states()) == rows


def test_a_large_append_is_the_command_that_a_small_reading_of_it_would_make() -> None:
    rows = [
        state(task_name=f"t{n}", reason="why" * (n % 2), metadata=struct(a=["x" * 9_000, n, None]))
        for n in range(40)
    ]
    whole = pb.AppendStatesRequest(request_id=str(uuid.UUID(int=9)), states=rows)
    found = read_rows(pb.AppendStatesRequest)(whole.SerializeToString())
    assert isinstance(found, Rows)
    apart, together = requests.append(found, encode), requests.append(whole, encode)
    assert apart.request is not None
    assert together.request is not None
    record = json.loads(together.request.data_json)
    # The log has the metadata: of a large append the record holds only its size.
    for row, each in zip(record["states"], whole.states, strict=True):
        row["metadata"] = {"bytes": each.metadata.ByteSize()}
    assert json.loads(apart.request.data_json) == record
    kept = apart.request.data_json
    assert apart == replace(together, request=replace(together.request, data_json=kept))
    assert apart.request is not None


def test_the_first_row_whose_metadata_is_too_large_ends_the_reading() -> None:
    sizes = [1_000, 400_000, 400_000]
    whole = pb.AppendStatesRequest(states=[state(metadata=struct(a="x" * size)) for size in sizes])
    found = read_rows(pb.AppendStatesRequest)(whole.SerializeToString())
    assert isinstance(found, Rows)
    with pytest.raises(InvalidError) as caught:
        requests.append(found, encode)
    assert [each.field for each in caught.value.violations] == ["states[1].metadata"]


def test_more_rows_than_an_append_takes_are_not_even_counted_to_the_end() -> None:
    data = pb.AppendStatesRequest(states=[common.State()] * 200_000).SerializeToString()
    with pytest.raises(InvalidError, match="more than 1,000 rows") as caught:
        read_rows(pb.AppendStatesRequest)(data)
    assert [each.field for each in caught.value.violations] == ["states"]


def test_a_row_that_is_no_row_is_refused_as_malformed() -> None:
    part = pb.AppendStatesRequest(states=[state(metadata=struct(a="x" * 60_000))] * 5)
    data = part.SerializeToString() + b"\x12\x02\xff\xff"
    found = read_rows(pb.AppendStatesRequest)(data)
    assert isinstance(found, Rows)
    with pytest.raises(InvalidError) as caught:
        requests.append(found, encode)
    assert caught.value.reason == "MALFORMED"


async def test_work_beside_the_event_loop_is_done_in_a_thread_of_its_own_in_turn() -> None:
    desk = off_loop.Desk("desk")
    threads = {await desk.do(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    with pytest.raises(ZeroDivisionError):
        await desk.do(lambda: 1 // 0)
