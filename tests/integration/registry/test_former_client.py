"""A client and a worker that know only a former contract, at the registry of today.

`former_protos.binpb` is the FileDescriptorSet of that contract: before kits could be paused, rows
streamed and calls carried tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    json_format,
    message_factory,
)
from google.protobuf.descriptor import Descriptor

from vistaflow.api.registry.v1 import registry_pb2

PACKAGE = "vistaflow.api.registry.v1"
SERVICE = f"{PACKAGE}.RegistryService"
KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, True): "stream_stream",
}


def former() -> descriptor_pool.DescriptorPool:
    """A pool that holds the former contract and nothing newer."""
    pool = descriptor_pool.DescriptorPool()
    file = Path(__file__).with_name("former_protos.binpb")
    for each in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
        pool.Add(each)
    return pool


POOL = former()
STATUSES = POOL.FindEnumTypeByName("vistaflow.api.common.v1.Status").values_by_name
FINISHED = STATUSES["STATUS_FINISHED"].number


def message(kind: str, /, **fields: Any) -> Any:
    """A message of the former contract, from JSON names."""
    made = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{kind}"))()
    return json_format.ParseDict(fields, made, descriptor_pool=POOL)


class Former:
    """The former stub."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        for method in POOL.FindServiceByName(SERVICE).methods:
            kind = KINDS[method.client_streaming, method.server_streaming]
            answer = message_factory.GetMessageClass(method.output_type)
            call = getattr(self.channel, kind)(
                f"/{SERVICE}/{method.name}",
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the former contract has no {name}")


@pytest.fixture
async def stub(registry: str) -> AsyncIterator[Former]:
    made = Former(registry)
    yield made
    await made.channel.close()


async def test_a_former_client_and_worker_run_a_kit_to_its_end(stub: Former) -> None:
    spec = any_pb2.Any()
    spec.Pack(duration_pb2.Duration(seconds=3))
    packed = {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}
    created = await stub.CreateKit(
        message(
            "CreateKitRequest",
            requestId="0b0e7b2c-90d5-4b7a-9a44-6f1d0f3a2c11",
            name="kit",
            labels={"team": "a"},
            jobs=[
                {"name": "design", "jobType": "JOB_TYPE_DOE", "spec": packed},
                {"name": "own", "jobType": "JOB_TYPE_ML_TRAIN", "dependsOn": ["design"]},
            ],
        )
    )
    design, own = created.kit.jobs
    watch = stub.WatchStates(
        message("WatchStatesRequest", afterRevision="0", filter={"kitIds": [1]})
    )
    seen: list[Any] = []

    async def watching() -> None:
        async for event in watch:
            if event.WhichOneof("event") == "delta":
                seen.extend(event.delta.states)

    listening = asyncio.create_task(watching())

    lease = stub.LeaseJobs()
    await lease.write(
        message(
            "LeaseJobsRequest",
            hello={"worker": "former", "jobTypes": ["JOB_TYPE_DOE"], "capacity": 1},
        )
    )
    assert (await lease.read()).WhichOneof("message") == "welcome"
    grant = (await lease.read()).grant
    assert (grant.job.job_id, grant.job.attempt) == (design.job_id, 1)
    assert grant.job.spec.value == spec.value
    held = {"jobId": design.job_id, "attempt": 1}
    progress = {"phase": "p", "completed": "1", "total": "2"}
    await lease.write(
        message("LeaseJobsRequest", heartbeat={"attempts": [{**held, "progress": progress}]})
    )
    done = await stub.AppendStates(
        message(
            "AppendStatesRequest",
            states=[
                {**held, "seq": "1", "taskName": "t", "status": "STATUS_RUNNING"},
                {**held, "seq": "2", "taskName": "t", "status": "STATUS_FINISHED"},
                {
                    **held,
                    "seq": "3",
                    "status": "STATUS_FINISHED",
                    "metadata": {"result": {"size": 3}},
                },
            ],
        )
    )
    assert [each.verdict for each in done.results] == [1, 1, 1]
    for status in ("RUNNING", "FINISHED"):
        await stub.AppendStates(
            message(
                "AppendStatesRequest",
                states=[{"jobId": own.job_id, "status": f"STATUS_{status}"}],
            )
        )
    async with asyncio.timeout(120):
        while not seen or (seen[-1].job_id, seen[-1].status) != (own.job_id, FINISHED):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    lease.cancel()
    watch.cancel()
    await asyncio.gather(listening, return_exceptions=True)

    kit = (await stub.GetKit(message("GetKitRequest", kitId=1))).kit
    assert [each.result.fields["size"].number_value for each in kit.jobs[:1]] == [3]
    assert {kit.status, *(each.status for each in kit.jobs)} == {FINISHED}
    listed = (await stub.ListStates(message("ListStatesRequest", pageSize=100))).states
    assert [each.revision for each in seen] == [each.revision for each in listed]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CancelKit(message("CancelKitRequest", kitId=1))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_nothing_of_the_former_contract_is_gone_or_means_something_else() -> None:
    now = registry_pb2.DESCRIPTOR.pool
    file = Path(__file__).with_name("former_protos.binpb")
    ours = [
        each
        for each in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file
        if each.package.startswith("vistaflow.")
    ]
    checked = 0

    def same(before: Descriptor, after: Descriptor) -> None:
        nonlocal checked
        for field in before.fields:
            kept = after.fields_by_name[field.name]
            assert (kept.number, kept.type, kept.is_repeated) == (
                (field.number, field.type, field.is_repeated)
            ), f"{before.full_name}.{field.name}"
            checked += 1
        for inner in before.nested_types:
            same(inner, after.nested_types_by_name[inner.name])

    for each in ours:
        for named in each.message_type:
            full = f"{each.package}.{named.name}"
            same(POOL.FindMessageTypeByName(full), now.FindMessageTypeByName(full))
        for enum in each.enum_type:
            after = now.FindEnumTypeByName(f"{each.package}.{enum.name}")
            for value in enum.value:
                assert after.values_by_name[value.name].number == value.number
        for service in each.service:
            methods = now.FindServiceByName(f"{each.package}.{service.name}").methods_by_name
            for method in service.method:
                kept = methods[method.name]
                assert f".{kept.input_type.full_name}" == method.input_type
                assert f".{kept.output_type.full_name}" == method.output_type
                assert (kept.client_streaming, kept.server_streaming) == (
                    (method.client_streaming, method.server_streaming)
                )
    assert checked > 100
