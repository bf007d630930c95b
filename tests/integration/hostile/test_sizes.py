"""Messages that are too large, too many or too deep: refused soon, and nobody else waits."""

from __future__ import annotations

import time

import grpc
import pytest
from attacking import Code, Suite, methods
from google.protobuf import any_pb2, struct_pb2
from nasty import floods
from test_fields import base_of, good

from tests.calls import CountedCalls
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.message_limits import RECEIVE_BYTES, REQUEST_BYTES

MEBIBYTE = 1024 * 1024

FLOOD, LARGE_FLOOD = 64 * 1024, 2 * MEBIBYTE
LEAST_SECONDS = 0.05
"""Processor time below which a message counts as free."""


def method(name: str):
    return next(each for each in methods() if each.name == name)


async def test_a_message_larger_than_the_limit_is_refused_by_every_service(suite: Suite) -> None:
    wrong = []
    of_each = {(each.containing_service.name, each.client_streaming): each for each in methods()}
    for each in of_each.values():
        for size, code in (
            (REQUEST_BYTES + 1, Code.INVALID_ARGUMENT),
            (RECEIVE_BYTES + 1, Code.RESOURCE_EXHAUSTED),
        ):
            outcome = await suite.call(each, b"\x7a" * size, seconds=30)
            if outcome.code is not code or outcome.bad:
                wrong.append(f"{each.name}: {outcome}")
    assert wrong == []
    await suite.smoke()


async def test_metadata_larger_than_the_limit_is_refused(suite: Suite) -> None:
    stub = RegistryServiceStub(suite.channels["RegistryService"])
    for headers in ([("x-large", "x" * 20_000)], [(f"x-{n}", "y" * 200) for n in range(200)]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=headers)
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    await suite.smoke()


async def flood(suite: Suite, size: int) -> tuple[dict[str, float], list[str]]:
    """Processor time of each list that is filled to a size, and what is bad in the answers.

    The client's part and the service's, which run in this thread.
    """
    known = good(suite)
    costs, wrong = {}, []
    for each in methods():
        for path, message in floods(base_of(each, known, suite), size):
            body = message.SerializeToString()
            begun = time.thread_time()
            outcome = await suite.call(each, body, seconds=120)
            costs[f"{each.name} {path}"] = time.thread_time() - begun
            if outcome.bad:
                wrong.append(f"{each.name} {path}: {outcome.code.name} {outcome.bad}")
    return costs, wrong


async def test_a_list_of_many_is_answered_properly(suite: Suite) -> None:
    costs, wrong = await flood(suite, FLOOD)
    assert not wrong, "\n".join(wrong)
    assert len(costs) > 60
    await suite.smoke()


@pytest.mark.slow
async def test_a_list_costs_in_proportion_to_its_length(suite: Suite) -> None:
    small, _ = await flood(suite, LARGE_FLOOD // 8)
    large, wrong = await flood(suite, LARGE_FLOOD)
    assert not wrong, "\n".join(wrong)
    # Eight times the size; a cost that grew with its square would be 64 times as much.
    ratios = {name: large[name] / max(small[name], LEAST_SECONDS) for name in large}
    assert {name: ratio for name, ratio in ratios.items() if ratio > 24} == {}
    await suite.smoke()


def nested(depth: int) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    value = made.fields["k"]
    for _ in range(depth):
        value = value.list_value.values.add()
    value.number_value = 1
    return made


def wide(mebibytes: float) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    held = made.fields["k"].list_value.values
    value = struct_pb2.Value(number_value=1)
    held.extend([value] * int(mebibytes * MEBIBYTE / 11))
    return made


@pytest.mark.parametrize("mebibytes", [4.4, pytest.param(15, marks=pytest.mark.slow)])
async def test_metadata_over_its_limit_is_refused_before_it_is_read(
    suite: Suite, mebibytes: float
) -> None:
    bomb = wide(mebibytes)
    row = common.State(job_id=suite.job_id, status=3, task_name="t", metadata=bomb)
    kit = pb.CreateKitRequest(name="a", spec=bomb)
    for name, message in (
        ("AppendStates", pb.AppendStatesRequest(states=[row])),
        ("StreamStates", pb.StreamStatesRequest(number=1, states=[row])),
        ("CreateKit", kit),
    ):
        body = message.SerializeToString()
        with CountedCalls() as counted:
            outcome = await suite.call(method(name), body, seconds=120)
        # To read it would take calls for each of its values, a hundred thousand a mebibyte.
        assert counted.count < 10_000 * mebibytes
        assert outcome.code is Code.INVALID_ARGUMENT, outcome
        assert any(field.endswith(("metadata", "spec")) for field in outcome.fields)


async def test_deep_nesting_is_refused_or_taken_and_never_the_end(suite: Suite) -> None:
    for depth in (10, 30, 45):
        row = common.State(
            job_id=suite.job_id, status=3, task_name=f"deep-{depth}", metadata=nested(depth)
        )
        request = pb.AppendStatesRequest(states=[row])
        outcome = await suite.call(method("AppendStates"), request.SerializeToString())
        assert not outcome.bad
        assert outcome.code in {Code.OK, Code.INVALID_ARGUMENT}
    inner = b"\x20\x01"
    for _ in range(10_000):  # deeper than any parser goes
        inner = b"\x32" + _varint(len(inner)) + inner
        if len(inner) > MEBIBYTE:
            break
    outcome = await suite.call(method("AppendStates"), b"\x12" + _varint(len(inner)) + inner)
    assert outcome.code is Code.INVALID_ARGUMENT
    read = await RegistryServiceStub(suite.channels["RegistryService"]).GetJob(
        pb.GetJobRequest(job_id=suite.job_id), timeout=20
    )
    assert {"deep-10", "deep-30"} <= {task.task_name for task in read.job.tasks}
    await suite.smoke()


async def test_an_answer_is_paged_before_it_is_too_large_to_send(suite: Suite) -> None:
    stub = RegistryServiceStub(suite.channels["RegistryService"])
    spec = any_pb2.Any(type_url="a/b", value=bytes(1_900_000))
    for _ in range(4):
        jobs = [pb.NewJob(name=f"j{n}", job_type=common.JOB_TYPE_QUERY, spec=spec) for n in (1, 2)]
        await stub.CreateKit(pb.CreateKitRequest(name="large", jobs=jobs), timeout=60)
    found, token, largest = 0, "", 0
    while True:
        page = await stub.ListJobs(pb.ListJobsRequest(page_size=1000, page_token=token), timeout=60)
        found += sum(job.job_type == common.JOB_TYPE_QUERY for job in page.jobs)
        largest = max(largest, page.ByteSize())
        token = page.next_page_token
        if not token:
            break
    assert found == 8
    assert largest < 4 * MEBIBYTE
    for name in ("ListKits", "ListJobs", "ListStates"):
        request = method(name).input_type._concrete_class(page_size=1_000_000)
        assert (await suite.call(method(name), request.SerializeToString())).code in {
            Code.OK,
            Code.INVALID_ARGUMENT,
        }


def _varint(number: int) -> bytes:
    made = b""
    while number > 127:
        made += bytes([number & 127 | 128])
        number >>= 7
    return made + bytes([number])
