"""A token for one project: there is no other."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import psycopg
import pytest
from keys import Keys, new_kit

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.__main__ import Registry, limits
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.upkeep import checks

BESIDE = {
    "add_lineage", "applied_migrations", "backup_age", "begin_outbox", "count_connections",
    "data_jobs", "database_health", "ended_kits", "expired_leases", "expired_versions",
    "extend_leases", "head", "lease_count", "log_end", "log_ends", "log_growth", "log_guard",
    "long_transactions", "move_outbox", "outbox_health", "overdue_blobs", "queued_jobs",
    "take_changes", "token_by_id", "waiting_work",
}  # fmt: skip
"""Queries of what goes on behind the calls: all that a registry without calls makes."""

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


@pytest.mark.parametrize("name", ["secret plan", "another"], ids=["the same", "another body"])
async def test_a_request_id_that_another_project_used_is_as_good_as_a_new_one(
    keys: Keys, name: str
) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    request_id = str(uuid.uuid4())
    request = pb.CreateKitRequest(request_id=request_id, name="secret plan")
    first = await theirs.CreateKit(request)

    made = await mine.CreateKit(pb.CreateKitRequest(request_id=request_id, name=name))

    assert (made.replayed, made.kit.project) == (False, "mine")
    again = await theirs.CreateKit(request)
    assert (again.replayed, again.kit.kit_id) == (True, first.kit.kit_id)
    code, told = await refused(
        theirs.CreateKit(pb.CreateKitRequest(request_id=request_id, name="third"))
    )
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "request_id was used for another CreateKit" in told


async def test_the_registry_tells_a_project_nothing_of_who_watches_another(
    keys: Keys, guarded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = await keys.stub("EDITOR", "theirs"), await keys.stub("VIEWER", "mine")
    watch = theirs.WatchStates(pb.WatchStatesRequest())
    await watch.read()
    # Whichever look comes last: the registry has a loop of its own.
    behind = "9 rows behind: token 'EDITOR of theirs' of project theirs"
    monkeypatch.setattr(checks, "slowest", lambda lags: behind)
    await guarded.upkeep.look()

    narrow = await mine.GetServerInfo(pb.GetServerInfoRequest())
    wide = await (await keys.stub("ADMIN")).GetServerInfo(pb.GetServerInfoRequest())
    told, whole = narrow.limits, wide.limits

    assert wide.findings
    assert not narrow.findings
    assert "theirs" in whole["watches.slowest"]
    assert {name for name in whole if name.startswith("check.")}
    assert set(told) == set(limits(Config()))
    watch.cancel()


def about(kit_id: int, job_id: str) -> dict[str, Any]:
    """Requests that name a kit or a job, by method."""
    job = pb.NewJob(job_type=2)
    return {
        "GetKit": pb.GetKitRequest(kit_id=kit_id, min_revision=10**9),
        "DiffKit": pb.DiffKitRequest(kit_id=kit_id, from_revision=-1),
        "GetLineage": pb.GetLineageRequest(kit_id=kit_id),
        "GetLineage of a job": pb.GetLineageRequest(job_id=job_id),
        "CancelKit": pb.CancelKitRequest(kit_id=kit_id, reason="\x00"),
        "RetryKit": pb.RetryKitRequest(kit_id=kit_id),
        "PauseKit": pb.PauseKitRequest(kit_id=kit_id),
        "ResumeKit": pb.ResumeKitRequest(kit_id=kit_id),
        "CreateJob": pb.CreateJobRequest(kit_id=kit_id, job=job),
        "GetJob": pb.GetJobRequest(job_id=job_id, min_revision=10**9),
        "CancelJob": pb.CancelJobRequest(job_id=job_id),
        "RetryJob": pb.RetryJobRequest(job_id=job_id),
        "ListJobs": pb.ListJobsRequest(kit_ids=[kit_id]),
        "ListStates": pb.ListStatesRequest(filter=pb.StateFilter(kit_ids=[kit_id])),
        "ListStates of jobs": pb.ListStatesRequest(filter=pb.StateFilter(job_ids=[job_id])),
        "CancelJobs": pb.CancelJobsRequest(filter=pb.JobFilter(kit_ids=[kit_id])),
        "RetryJobs": pb.RetryJobsRequest(filter=pb.JobFilter(kit_ids=[kit_id])),
        "AppendStates": pb.AppendStatesRequest(
            states=[common.State(job_id=job_id, status=3, seq=1, task_name="t")]
        ),
    }


async def test_what_is_of_another_project_is_answered_as_what_never_was_by_the_same_queries(
    keys: Keys, guarded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = await keys.stub("EDITOR", "theirs"), await keys.stub("EDITOR", "mine")
    kit = await new_kit(theirs)
    job_id = kit.jobs[0].job_id
    await theirs.AppendStates(running(kit))
    rows = [common.State(job_id=job_id, status=3, seq=seq, task_name="t") for seq in range(1, 9)]
    await theirs.AppendStates(pb.AppendStatesRequest(states=rows))
    await theirs.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))  # held in memory from here on
    asked: list[str] = []
    texts = {text: name for name, text in QUERIES.items()}
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        if (name := texts.get(query)) and name not in BESIDE:
            asked.append(name)
        return await execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)

    async def answer(name: str, request: Any, *ids: str) -> tuple[Any, list[str]]:
        outcomes: list[Any] = []
        for _ in range(2):  # the second time, as whatever is remembered shows then
            asked.clear()
            try:
                told = str(await getattr(mine, name.partition(" ")[0])(request, timeout=60))
            except grpc.aio.AioRpcError as error:
                told = f"{error.code()} {error.details()}"
            told = told.replace(f"kit {ids[0]}", "kit").replace(ids[1], "JOB")
            outcomes.append((told, list(asked)))
        return outcomes  # type: ignore[return-value]

    never = ("987654", "00000000-0000-4000-8000-000000000000")
    there = (str(kit.kit_id), job_id)
    for (name, foreign), absent in zip(
        about(kit.kit_id, job_id).items(), about(int(never[0]), never[1]).values(), strict=True
    ):
        absent_told = await answer(name, absent, *never)
        foreign_told = await answer(name, foreign, *there)
        assert [told for told, _ in foreign_told] == [told for told, _ in absent_told], name
        assert [each for _, each in foreign_told] == [each for _, each in absent_told], name


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
    answer = await mine.AppendStates(request)
    assert (answer.replayed, answer.results[0].verdict) == (False, pb.VERDICT_REJECTED)
    assert answer.results[0].detail == f"there is no job {row.job_id}"
