"""Requests of odd shapes: refused by their size alone, or read beside the event loop."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2
from rig import Rig
from traffic import external_job

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.messages import encoding, requests


def numbers(count: int) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made["a"] = [1.5] * count
    return made


def states(job_id: str, count: int, metadata: struct_pb2.Struct) -> list[common.State]:
    return [
        common.State(
            job_id=job_id, status=common.STATUS_RUNNING, task_name=f"t{n}", metadata=metadata
        )
        for n in range(count)
    ]


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    told = error_details_pb2.BadRequest()
    for each in status_pb2.Status.FromString(raw).details:
        if each.Unpack(told):
            return [violation.field for violation in told.field_violations]
    return []


async def acknowledged(call: Any) -> pb.StreamAck:
    """The next acknowledgement of a stream, which grants credit in between."""
    message = await call.read()
    while not message.HasField("ack"):
        message = await call.read()
    return message.ack


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which metadata was converted, one entry a Struct."""
    threads: list[int] = []
    convert = encoding.struct_text

    def noted(message: struct_pb2.Struct, *args: Any, **kwargs: Any) -> str:
        threads.append(threading.get_ident())
        return convert(message, *args, **kwargs)

    monkeypatch.setattr("vistaflow_services.registry.messages.quick.struct_text", noted)
    monkeypatch.setattr("vistaflow_services.registry.messages.translate.struct_text", noted)
    return threads


@pytest.mark.parametrize("count", [12, 40, 55], ids=["4 MB", "13 MB", "18 MB"])
async def test_an_append_that_is_too_large_is_refused_before_anything_of_it_is_converted(
    rig: Rig, converted: list[int], count: int
) -> None:
    _, job_id = await external_job(rig.stub)
    converted.clear()
    request = pb.AppendStatesRequest(states=states(job_id, count, numbers(33_000)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.AppendStates(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(caught.value) == ["states"]
    assert converted == []


async def test_a_message_of_a_stream_that_is_too_large_ends_it_unread(
    rig: Rig, converted: list[int]
) -> None:
    _, job_id = await external_job(rig.stub)
    converted.clear()
    request = pb.StreamStatesRequest(number=1, states=states(job_id, 40, numbers(33_000)))
    call = rig.stub.StreamStates()
    await call.read()
    await call.write(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await acknowledged(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert converted == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_large_append_is_converted_beside_the_event_loop_and_recorded(
    rig: Rig, converted: list[int], streamed: bool
) -> None:
    _, job_id = await external_job(rig.stub)
    converted.clear()
    rows = states(job_id, 10, numbers(10_000))
    if streamed:
        call = rig.stub.StreamStates()
        await call.read()
        await call.write(pb.StreamStatesRequest(number=1, states=rows))
        results = (await acknowledged(call)).results
        call.cancel()
    else:
        results = (await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))).results
    assert {each.verdict for each in results} == {pb.VERDICT_ACCEPTED}
    assert len(converted) == 10
    assert threading.get_ident() not in converted
    job = (await rig.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
    assert [task.metadata for task in job.tasks if task.task_name.startswith("t")] == [
        numbers(10_000)
    ] * 10


async def test_a_small_append_is_converted_where_it_came(rig: Rig, converted: list[int]) -> None:
    _, job_id = await external_job(rig.stub)
    converted.clear()
    await rig.stub.AppendStates(pb.AppendStatesRequest(states=states(job_id, 2, numbers(10))))
    assert set(converted) == {threading.get_ident()}


async def test_a_kit_of_many_dependencies_is_read_beside_the_event_loop(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    check = requests._check_names
    monkeypatch.setattr(
        requests,
        "_check_names",
        lambda *args: (threads.append(threading.get_ident()), check(*args))[1],
    )
    names = [f"j{n}" for n in range(300)]
    jobs = [
        pb.NewJob(job_type=common.JOB_TYPE_DOE, name=name, depends_on=names[:place])
        for place, name in enumerate(names)
    ]
    kit = (await rig.stub.CreateKit(pb.CreateKitRequest(name="chain", jobs=jobs))).kit
    assert [len(job.depends_on) for job in kit.jobs] == list(range(300))
    assert threads
    assert threading.get_ident() not in threads
    read = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit
    assert [list(job.depends_on) for job in read.jobs] == [names[:n] for n in range(300)]


async def test_a_kit_of_many_dependencies_is_told_the_same_again(rig: Rig) -> None:
    """What is kept for repeats holds no dependencies: the repeat has them itself."""
    names = [f"j{n}" for n in range(100)]
    jobs = [
        pb.NewJob(job_type=common.JOB_TYPE_DOE, name=name, depends_on=names[:place])
        for place, name in enumerate(names)
    ]
    request = pb.CreateKitRequest(
        request_id="00000000-0000-4000-8000-000000000007", name="chain", jobs=jobs
    )
    first = await rig.stub.CreateKit(request)
    again = await rig.stub.CreateKit(request)
    assert (first.replayed, again.replayed) == (False, True)
    again.replayed = False
    # The times of a first answer are those of its commit, too.
    assert again == first
