"""A token for one project: there is no other."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from keys import Keys, new_kit

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

NOT_FOUND, DENIED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def running(kit: pb.Kit) -> pb.AppendStatesRequest:
    state = common.State(job_id=kit.jobs[0].job_id, status=common.STATUS_RUNNING)
    return pb.AppendStatesRequest(states=[state])


async def test_what_names_no_project_is_made_in_the_tokens(keys: Keys) -> None:
    mine = await keys.stub("EDITOR", "mine")

    kit = await new_kit(mine)
    job = (await mine.CreateJob(pb.CreateJobRequest(job=pb.NewJob(job_type=2)))).job

    assert kit.project == "mine"
    assert kit.actor == "EDITOR of mine"
    assert (await mine.GetKit(pb.GetKitRequest(kit_id=job.kit_id))).kit.project == "mine"


async def test_nothing_can_be_made_in_another_project(keys: Keys) -> None:
    mine = await keys.stub("EDITOR", "mine")

    refusals = [
        await refused(mine.CreateKit(pb.CreateKitRequest(name="a", project="theirs"))),
        await refused(
            mine.CreateJob(pb.CreateJobRequest(project="theirs", job=pb.NewJob(job_type=2)))
        ),
    ]

    assert [code for code, _ in refusals] == [DENIED, DENIED]


async def test_lists_hold_the_tokens_project_and_an_administrators_all(keys: Keys) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    admin, viewer = await keys.stub("ADMIN"), await keys.stub("VIEWER", "mine")
    kits = [await new_kit(each) for each in (mine, theirs, mine)]

    seen = {
        name: (
            sorted(kit.kit_id for kit in (await stub.ListKits(pb.ListKitsRequest())).kits),
            sorted(job.kit_id for job in (await stub.ListJobs(pb.ListJobsRequest())).jobs),
            [row.kit_id for row in (await stub.ListStates(pb.ListStatesRequest())).states]
            if name != "worker"
            else [],
        )
        for name, stub in (("mine", mine), ("theirs", theirs), ("viewer", viewer), ("admin", admin))
    }

    ids = [kit.kit_id for kit in kits]
    assert seen == {
        "mine": ([ids[0], ids[2]],) * 3,
        "viewer": ([ids[0], ids[2]],) * 3,
        "theirs": ([ids[1]],) * 3,
        "admin": (ids,) * 3,
    }


async def test_a_filter_that_names_another_project_finds_no_such_project(keys: Keys) -> None:
    mine = await keys.stub("VIEWER", "mine")
    theirs = pb.StateFilter(project="theirs")

    refusals = [
        await refused(mine.ListKits(pb.ListKitsRequest(project="theirs"))),
        await refused(mine.ListStates(pb.ListStatesRequest(filter=theirs))),
        await refused(mine.WatchStates(pb.WatchStatesRequest(filter=theirs)).read()),
    ]

    assert refusals == [(NOT_FOUND, "there is no project 'theirs'")] * 3


async def test_a_row_for_a_job_of_another_project_is_rejected_as_for_a_job_that_never_was(
    keys: Keys,
) -> None:
    theirs = await new_kit(await keys.stub("EDITOR", "theirs"))
    mine = await keys.stub("EDITOR", "mine")
    kit = await new_kit(mine)
    request = running(theirs)
    request.states.extend(running(kit).states)

    results = (await mine.AppendStates(request)).results

    assert [each.verdict for each in results] == [pb.VERDICT_REJECTED, pb.VERDICT_ACCEPTED]
    assert results[0].detail == f"there is no job {theirs.jobs[0].job_id}"


async def test_another_projects_request_id_does_not_bring_its_answer(keys: Keys) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    request = pb.CreateKitRequest(request_id=str(uuid.uuid4()), name="secret plan")
    await theirs.CreateKit(request)

    code, _ = await refused(mine.CreateKit(request))

    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert (await theirs.CreateKit(request)).replayed


@pytest.mark.parametrize("snapshot", [False, True], ids=["from the log", "from a snapshot"])
async def test_a_watch_brings_the_rows_of_the_tokens_project_past_and_new(
    keys: Keys, snapshot: bool
) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    past = [await new_kit(each) for each in (theirs, mine, theirs)]
    watcher = await keys.stub("VIEWER", "mine")

    call = watcher.WatchStates(
        pb.WatchStatesRequest(
            filter=pb.StateFilter(kit_ids=[kit.kit_id for kit in past] if snapshot else []),
            include_snapshot=snapshot,
        )
    )
    rows: list[tuple[int, int]] = []
    counted: set[int] = set()
    synced = False
    async with asyncio.timeout(60):
        while len(rows) < 3:
            message = await call.read()
            part = message.snapshot if message.HasField("snapshot") else message.delta
            rows += [(row.kit_id, row.status) for row in part.states]
            counted |= {each.kit_id for each in message.delta.kit_counts}
            counted |= {each.kit_id for each in message.snapshot.kits}
            if message.HasField("synced") and not synced:
                synced = True
                for kit, stub in zip(past, (theirs, mine, theirs), strict=True):
                    await stub.AppendStates(running(kit))
                await mine.CancelKit(pb.CancelKitRequest(kit_id=past[1].kit_id))
    call.cancel()

    kit_id = past[1].kit_id
    assert rows == [
        (kit_id, common.STATUS_QUEUED),
        (kit_id, common.STATUS_RUNNING),
        (kit_id, common.STATUS_CANCELED),
    ]
    assert counted == {kit_id}


async def test_rows_of_tasks_are_kept_within_the_project_however_they_are_sent(keys: Keys) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    kit = await new_kit(theirs)
    await theirs.AppendStates(running(kit))
    row = common.State(job_id=kit.jobs[0].job_id, status=common.STATUS_RUNNING, task_name="t")

    async def stream(stub: Any) -> pb.AppendResult:
        call = stub.StreamStates()
        await call.read()
        await call.write(pb.StreamStatesRequest(number=1, states=[row]))
        while not (answer := await call.read()).HasField("ack"):
            pass
        call.cancel()
        return answer.ack.results[0]

    told = [
        (await mine.AppendStates(pb.AppendStatesRequest(states=[row]))).results[0],
        await stream(mine),
    ]
    assert [each.verdict for each in told] == [pb.VERDICT_REJECTED] * 2
    assert all("there is no job" in each.detail for each in told)
    assert (await stream(theirs)).verdict == pb.VERDICT_ACCEPTED
    states = (await theirs.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit.jobs[0].tasks
    assert [state.actor for state in states] == ["EDITOR of theirs"]


async def test_changes_of_many_jobs_and_differences_end_at_the_project(keys: Keys) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    kits = [await new_kit(mine), await new_kit(theirs)]
    every = pb.JobFilter(kit_ids=[kit.kit_id for kit in kits])

    canceled = await mine.CancelJobs(pb.CancelJobsRequest(filter=every))
    empty = await refused(mine.CancelJobs(pb.CancelJobsRequest()))
    elsewhere = pb.JobFilter(project="theirs")
    named = await refused(mine.CancelJobs(pb.CancelJobsRequest(filter=elsewhere)))
    other = pb.DiffKitRequest(kit_id=kits[1].kit_id)
    paused = pb.PauseKitRequest(kit_id=kits[1].kit_id)

    assert canceled.canceled_count == 1
    assert [job.kit_id for job in canceled.jobs] == [kits[0].kit_id]
    assert empty[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert named[0] is NOT_FOUND
    assert (await refused(mine.DiffKit(other)))[0] is NOT_FOUND
    assert (await refused(mine.PauseKit(paused)))[0] is NOT_FOUND
    held = (await theirs.GetKit(pb.GetKitRequest(kit_id=kits[1].kit_id))).kit
    assert (held.jobs[0].status, held.paused) == (common.STATUS_QUEUED, False)


async def test_another_projects_append_is_not_told_again_though_it_is_repeated_to_the_letter(
    keys: Keys,
) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    kit = await new_kit(theirs)
    row = common.State(job_id=kit.jobs[0].job_id, status=common.STATUS_RUNNING)
    request = pb.AppendStatesRequest(request_id=str(uuid.uuid4()), states=[row])
    assert (await theirs.AppendStates(request)).results[0].verdict == pb.VERDICT_ACCEPTED

    assert (await theirs.AppendStates(request)).replayed
    code, _ = await refused(mine.AppendStates(request))
    assert code is grpc.StatusCode.ALREADY_EXISTS
