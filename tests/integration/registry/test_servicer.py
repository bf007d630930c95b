from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.struct_pb2 import Struct

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub


@pytest.fixture
async def stub(registry: str) -> AsyncIterator[RegistryServiceStub]:
    async with grpc.aio.insecure_channel(registry) as channel:
        yield RegistryServiceStub(channel)


def spec() -> any_pb2.Any:
    return any_pb2.Any(type_url="type.googleapis.com/x.Y", value=b"12")


def two_jobs(**changes: object) -> pb.CreateKitRequest:
    fields: dict[str, object] = {
        "name": "a kit",
        "actor": "ada",
        "jobs": [
            pb.NewJob(name="points", job_type=common.JOB_TYPE_DOE),
            pb.NewJob(name="train", job_type=common.JOB_TYPE_ML_TRAIN, depends_on=["points"]),
        ],
    }
    return pb.CreateKitRequest(**(fields | changes))  # type: ignore[arg-type]


def state(job_id: str, status: int, **fields: object) -> common.State:
    return common.State(job_id=job_id, status=status, **fields)  # type: ignore[arg-type]


async def test_a_kit_of_external_jobs_runs_to_its_end(stub: RegistryServiceStub) -> None:
    created = await stub.CreateKit(two_jobs())
    points, train = created.kit.jobs
    assert [job.status for job in created.kit.jobs] == [common.STATUS_QUEUED, common.STATUS_INIT]

    result = Struct()
    result.update({"result": {"size": 8}})
    appended = await stub.AppendStates(
        pb.AppendStatesRequest(
            states=[
                state(points.job_id, common.STATUS_RUNNING),
                state(points.job_id, common.STATUS_RUNNING, task_name="simulate"),
                state(points.job_id, common.STATUS_FINISHED, task_name="simulate"),
                state(points.job_id, common.STATUS_FINISHED, metadata=result),
            ]
        )
    )
    assert [each.verdict for each in appended.results] == [pb.VERDICT_ACCEPTED] * 4

    got = await stub.GetKit(pb.GetKitRequest(kit_id=1, min_revision=appended.revision))
    points, train = got.kit.jobs
    assert (points.status, points.attempt, dict(points.result)) == (
        common.STATUS_FINISHED,
        1,
        {"size": 8.0},
    )
    assert [(task.task_name, task.status) for task in points.tasks] == [
        ("simulate", common.STATUS_FINISHED)
    ]
    assert (train.status, train.reason) == (
        common.STATUS_QUEUED,
        "all it depends on is finished",
    )
    assert got.kit.status == common.STATUS_RUNNING
    assert got.revision == 7

    listed = await stub.ListStates(pb.ListStatesRequest())
    assert [each.revision for each in listed.states] == list(range(1, 8))


async def test_what_is_created_is_what_is_read(stub: RegistryServiceStub) -> None:
    asked = two_jobs(labels={"team": "a"}, project="tcad", request_id=str(uuid.uuid4()))
    asked.jobs[0].spec.CopyFrom(spec())
    asked.jobs[0].timeout.seconds = 90
    asked.jobs[0].labels["x"] = "y"
    asked.spec.update({"design": {"size": 8}})

    created = await stub.CreateKit(asked)
    got = await stub.GetKit(pb.GetKitRequest(kit_id=created.kit.kit_id))

    assert got.kit == created.kit
    assert not got.kit.jobs[0].external
    assert got.kit.jobs[1].external


async def test_a_repeated_request_gets_the_first_answer(stub: RegistryServiceStub) -> None:
    asked = two_jobs(request_id=str(uuid.uuid4()))

    first = await stub.CreateKit(asked)
    second = await stub.CreateKit(asked)
    assert second.replayed
    second.replayed = False
    assert second == first

    asked.name = "another kit"
    with pytest.raises(grpc.aio.AioRpcError, match="choose a new one") as caught:
        await stub.CreateKit(asked)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
