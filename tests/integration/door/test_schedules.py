"""Schedules of another project are as absent as those that never were; who asked is on record."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
from google.protobuf import any_pb2
from keys import Keys, new_kit

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow.api.schedules.v1.schedules_pb2_grpc import ScheduleServiceStub

TIMING = pb.Timing(cron="@daily")
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def adding(name: str, **kit: Any) -> pb.AddScheduleRequest:
    request = registry_pb2.CreateKitRequest(name="beam", **kit)
    return pb.AddScheduleRequest(name=name, timing=TIMING, kit=request, actor="root")


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("not refused")


async def test_schedules_are_of_their_project_alone(keys: Keys) -> None:
    mine, theirs, admin, worker = [
        keys.channel(await keys.make(role, project))
        for role, project in (
            ("EDITOR", "mine"), ("EDITOR", "theirs"), ("ADMIN", ""), ("WORKER", ""),
        )
    ]  # fmt: skip
    stub, other = ScheduleServiceStub(mine), ScheduleServiceStub(theirs)
    for caller in (stub, other):
        await caller.AddSchedule(adding("nightly"))
    await other.AddSchedule(adding("secret"))

    async def names(caller: Any) -> list[str]:
        answer = await caller.FindSchedules(pb.FindSchedulesRequest())
        return [f"{schedule.project}.{schedule.name}" for schedule in answer.schedules]

    everything = ["mine.nightly", "theirs.nightly", "theirs.secret"]
    assert await names(stub) == everything[:1]
    assert await names(ScheduleServiceStub(admin)) == ["system.weekly-cleanup", *everything]
    for method, request in (
        (stub.FindSchedules, pb.FindSchedulesRequest()),
        (stub.ChangeSchedule, pb.ChangeScheduleRequest(paused=True)),
        (stub.RemoveSchedule, pb.RemoveScheduleRequest()),
        (stub.AddFire, pb.AddFireRequest()),
    ):
        outcomes = []
        for project, name in (
            ("", "secret"),
            ("", "never"),
            ("theirs", "secret"),
            ("nowhere", "never"),
        ):
            request.project, request.name = project, name
            code, text = await refusal(method(request))
            outcomes.append((code, text.replace(name, "NAME").replace(project or "mine", "IT")))
        assert (
            outcomes[0] == outcomes[1] == (NOT_FOUND, "there is no schedule `NAME` in project `IT`")
        )
        assert outcomes[2] == outcomes[3] == (NOT_FOUND, "there is no project 'IT'")
    # Its kits are made by a service that sees every project: so what their jobs name is checked.
    job_id = (await new_kit(RegistryServiceStub(theirs))).jobs[0].job_id
    spec = any_pb2.Any(type_url="a/b", value=job_id.encode())
    job = registry_pb2.NewJob(name="q", job_type=common.JOB_TYPE_QUERY, spec=spec)
    code, text = await refusal(stub.AddSchedule(adding("spy", jobs=[job])))
    assert (code, text) == (NOT_FOUND, f"there is no job {job_id}")

    added = await stub.AddFire(pb.AddFireRequest(name="nightly"))
    start = pb.StartFireRequest(schedule_id=added.schedule_id, fire_time=added.fire.fire_time)
    fire = (await ScheduleServiceStub(worker).StartFire(start)).fire
    kit = await RegistryServiceStub(mine).GetKit(registry_pb2.GetKitRequest(kit_id=fire.kit_id))
    assert (kit.kit.project, kit.kit.actor) == ("mine", "schedule nightly")
    answer = await RegistryServiceStub(admin).ListRequests(registry_pb2.ListRequestsRequest())
    assert [
        (record.actor, record.method)
        for record in answer.requests
        if record.method != "CreateToken"
    ][:2] == [("schedule nightly", "CreateKit"), ("EDITOR of mine", "AddFire")]
    assert {record.actor for record in answer.requests if record.method == "AddSchedule"} == {
        "EDITOR of mine", "EDITOR of theirs",
    }  # fmt: skip


async def test_jobs_of_the_system_are_for_administrators(keys: Keys) -> None:
    request = registry_pb2.CreateKitRequest(
        name="mine", jobs=[registry_pb2.NewJob(name="a", job_type=common.JOB_TYPE_BACKUP)]
    )
    for role, project, denied in (
        ("EDITOR", "mine", True),
        ("EDITOR", "system", True),
        ("ADMIN", "", False),
    ):
        channel = keys.channel(await keys.make(role, project))
        kits, schedules = RegistryServiceStub(channel), ScheduleServiceStub(channel)
        add = pb.AddScheduleRequest(name=f"of-{project}", timing=TIMING, kit=request)
        for call in (kits.CreateKit(request), schedules.AddSchedule(add)):
            if denied:
                assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED
            else:
                await call
    mine = ScheduleServiceStub(keys.channel(await keys.make("EDITOR", "mine")))
    assert not (await mine.FindSchedules(pb.FindSchedulesRequest())).schedules
    remove = pb.RemoveScheduleRequest(project="system", name="weekly-cleanup")
    assert (await refusal(mine.RemoveSchedule(remove)))[0] is NOT_FOUND
