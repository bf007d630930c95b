"""Pauses, the past, changes by a filter and the filters of time and project, through gRPC."""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import bulk
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.upkeep.rebuild import rebuild

sys.path.insert(0, str(Path(__file__).parent))

from rig import SCHEMA, Rig, Start
from traffic import Watcher, until

SPEC = any_pb2.Any(type_url="type.googleapis.com/vistaflow.test.Spec", value=b"\x08\x01")
DOE, TRAIN = common.JOB_TYPE_DOE, common.JOB_TYPE_ML_TRAIN


def kit_of(*names: str, leased: bool = False, **fields: Any) -> pb.CreateKitRequest:
    jobs = [pb.NewJob(name=name, job_type=DOE, spec=SPEC if leased else None) for name in names]
    return pb.CreateKitRequest(name="a kit", jobs=jobs, **fields)


def at(when: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp


def state(job: common.Job, status: int, **fields: Any) -> common.State:
    return common.State(job_id=job.job_id, status=status, **fields)  # type: ignore[arg-type]


async def append(rig: Rig, *states: common.State) -> int:
    answer = await rig.stub.AppendStates(pb.AppendStatesRequest(states=states))
    assert {each.verdict for each in answer.results} == {pb.VERDICT_ACCEPTED}
    return answer.revision


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def leased(rig: Rig) -> tuple[Any, list[pb.Grant]]:
    """A worker that takes whatever it is given."""
    call = rig.stub.LeaseJobs()
    hello = pb.WorkerHello(worker="w", job_types=[DOE], capacity=10)
    await call.write(pb.LeaseJobsRequest(hello=hello))
    assert (await call.read()).HasField("welcome")
    grants: list[pb.Grant] = []

    async def listen() -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.HasField("grant"):
                grants.append(message.grant)

    return asyncio.create_task(listen()), grants


async def test_a_paused_kit_is_granted_to_nobody_until_it_is_resumed(start: Start) -> None:
    one, two = await start(), await start()
    kit = (await one.stub.CreateKit(kit_of("a", "b", leased=True))).kit
    paused = await one.stub.PauseKit(pb.PauseKitRequest(kit_id=1, reason="lunch", actor="ada"))
    assert paused.kit.paused
    assert paused.kit.revision == paused.revision == 3

    # The other replica, which knew the kit before, neither.
    listening = [await leased(rig) for rig in (one, two)]
    other = (await two.stub.CreateKit(kit_of("c", leased=True))).kit
    late = await one.stub.CreateJob(
        pb.CreateJobRequest(kit_id=kit.kit_id, job=pb.NewJob(name="d", job_type=DOE, spec=SPEC))
    )
    assert late.job.status == common.STATUS_QUEUED
    await until(lambda: any(grants for _, grants in listening))
    await asyncio.sleep(1.5)
    granted = [grant.job.kit_id for _, grants in listening for grant in grants]
    assert granted == [other.kit_id]

    await two.stub.ResumeKit(pb.ResumeKitRequest(kit_id=kit.kit_id, actor="bob"))
    await until(lambda: sum(len(grants) for _, grants in listening) == 4)
    got = (await one.stub.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit
    assert not got.paused
    assert [job.status for job in got.jobs] == [common.STATUS_RUNNING] * 3
    assert all(not job.tasks for job in got.jobs)
    for task, _ in listening:
        task.cancel()


async def test_a_replaced_job_is_seen_as_it_was_and_its_successor_everywhere(
    start: Start, database: str
) -> None:
    one, two = await start(), await start()
    jobs = [
        pb.NewJob(name="a", job_type=DOE, spec=SPEC),
        pb.NewJob(name="b", job_type=DOE, spec=SPEC, depends_on=["a"]),
    ]
    kit = (await one.stub.CreateKit(pb.CreateKitRequest(name="kit", jobs=jobs))).kit
    task, grants = await leased(two)

    async def finish(count: int) -> None:
        await until(lambda: len(grants) == count)
        job = grants[-1].job
        row = common.State(
            job_id=job.job_id, status=common.STATUS_FINISHED, attempt=job.attempt, seq=1
        )
        await two.stub.AppendStates(pb.AppendStatesRequest(states=[row]))

    await finish(1)
    await finish(2)
    before = (await one.stub.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit
    other = any_pb2.Any(type_url=SPEC.type_url, value=b"other")
    request = pb.RetryKitRequest(
        kit_id=kit.kit_id,
        request_id=str(uuid.uuid4()),
        replacements=[pb.Replacement(name="a", spec=other)],
    )
    changed = await one.stub.RetryKit(request)
    assert (await two.stub.RetryKit(request)).replayed
    await finish(3)
    await finish(4)
    after = (await two.stub.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit
    past = pb.GetKitRequest(kit_id=kit.kit_id, as_of_revision=before.revision)

    assert (changed.retried_count, before.status, after.status) == (
        2,
        common.STATUS_FINISHED,
        common.STATUS_FINISHED,
    )
    assert [(each.name, each.spec.value) for each in after.jobs] == [
        ("a", SPEC.value),
        ("a@2", b"other"),
        ("b", SPEC.value),
        ("b@2", SPEC.value),
    ]
    assert [each.job_id for each in grants[-1].inputs] == [after.jobs[1].job_id]
    assert [each.name for each in grants[-1].inputs] == ["a"]
    assert [each.name for each in (await one.stub.GetKit(past)).kit.jobs] == ["a", "b"]
    assert not any(rebuild(database, SCHEMA, check=True).values())
    task.cancel()


async def test_a_pause_is_a_row_of_the_kit_that_everyone_sees(rig: Rig) -> None:
    kit = (await rig.stub.CreateKit(kit_of("a"))).kit
    asked = pb.PauseKitRequest(
        kit_id=kit.kit_id, reason="lunch", actor="ada", request_id=str(uuid.uuid4())
    )
    first = await rig.stub.PauseKit(asked)
    again = await rig.stub.PauseKit(asked)
    assert again.replayed
    assert again.revision == first.revision
    assert (await rig.stub.GetKit(pb.GetKitRequest(kit_id=1))).kit.paused
    assert [each.paused for each in (await rig.stub.ListKits(pb.ListKitsRequest())).kits] == [True]
    resumed = await rig.stub.ResumeKit(pb.ResumeKitRequest(kit_id=1, actor="bob"))
    await rig.stub.PauseKit(pb.PauseKitRequest(kit_id=1))

    live = Watcher(rig.stub, keep_responses=True, filter=pb.StateFilter(kit_ids=[1]))
    await live.catch_up(resumed.revision + 1)
    rows = [row for each in live.responses for row in each.delta.states][1:]
    assert [(row.task_name, row.status, row.attempt, row.reason, row.actor) for row in rows] == [
        ("pause", common.STATUS_RUNNING, 1, "lunch", "ada"),
        ("pause", common.STATUS_FINISHED, 1, "resumed on request", "bob"),
        ("pause", common.STATUS_RUNNING, 2, "paused on request", ""),
    ]
    assert {row.job_id for row in rows} == {"00000000-0000-0000-0000-000000000001"}
    fresh = Watcher(rig.stub, snapshot=True)
    async for response in fresh.events():
        if response.HasField("snapshot"):
            assert [each.paused for each in response.snapshot.kits] == [True]
            assert "pause" in [row.task_name for row in response.snapshot.states]
            break


async def test_what_cannot_be_paused_or_resumed_is_refused(rig: Rig) -> None:
    kit = (await rig.stub.CreateKit(kit_of("a"))).kit
    pause, resume = pb.PauseKitRequest(kit_id=1), pb.ResumeKitRequest(kit_id=1)
    precondition = grpc.StatusCode.FAILED_PRECONDITION

    assert (await refused(rig.stub.ResumeKit(resume)))[0] is precondition
    await rig.stub.PauseKit(pause)
    assert (await refused(rig.stub.PauseKit(pause)))[0] is precondition
    await rig.stub.ResumeKit(resume)
    await rig.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id))
    assert (await refused(rig.stub.PauseKit(pause)))[0] is precondition
    missing = await refused(rig.stub.PauseKit(pb.PauseKitRequest(kit_id=9)))
    assert missing[0] is grpc.StatusCode.NOT_FOUND


async def test_the_board_is_read_as_it_was(rig: Rig, database: str) -> None:
    kit = (await rig.stub.CreateKit(kit_of("a", "b", project="tcad"))).kit
    job = kit.jobs[0]
    created = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=1))).kit
    await append(rig, state(job, common.STATUS_RUNNING))
    then = await append(rig, state(job, common.STATUS_RUNNING, task_name="t"))
    before = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=1))).kit
    await asyncio.sleep(0.01)
    between = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await append(rig, state(job, common.STATUS_FINISHED, task_name="t"))
    last = await append(rig, state(job, common.STATUS_FAILED, reason="no licence"))
    await rig.stub.RetryKit(pb.RetryKitRequest(kit_id=1))

    async def read(**fields: Any) -> pb.GetKitResponse:
        return await rig.stub.GetKit(pb.GetKitRequest(kit_id=1, **fields))

    first = await read(as_of_revision=2)
    assert first.kit == created
    assert first.revision == 2
    assert (await read(as_of_revision=then)).kit == before
    timed = await read(as_of_time=at(between))
    assert timed.kit == before
    assert timed.revision == then
    failed = (await read(as_of_revision=last)).kit
    assert (failed.status, failed.jobs[0].reason) == (common.STATUS_FAILED, "no licence")
    assert failed.jobs[0].tasks[0].status == common.STATUS_FINISHED

    async def code(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return await refused(read(**fields))

    missing, gone = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE
    assert (await code(as_of_time=at(datetime.now(UTC) - timedelta(hours=1))))[0] is missing
    assert (await code(as_of_revision=1000))[0] is gone
    assert (await code(as_of_time=at(datetime.now(UTC) + timedelta(hours=1))))[0] is gone
    both = await code(as_of_revision=2, as_of_time=at(between))
    assert both[0] is grpc.StatusCode.INVALID_ARGUMENT
    with psycopg.connect(database, application_name="vistaflow retention") as connection:
        # As retention does it.
        connection.execute(
            f"INSERT INTO {SCHEMA}.kept_states "
            f"SELECT * FROM {SCHEMA}.mlops_totalstate_table WHERE id < 4"
        )
        connection.execute(f"UPDATE {SCHEMA}.head SET oldest_id = 4")
    assert (await code(as_of_revision=3))[0] is gone
    assert (await code(as_of_time=at(datetime.now(UTC) - timedelta(hours=1))))[0] is gone
    diff = pb.DiffKitRequest(kit_id=1, from_revision=3)
    status, told = await refused(rig.stub.DiffKit(diff))
    assert status is gone
    assert "before revision 4" in told
    assert (await read(as_of_revision=4)).kit == before


async def test_a_diff_tells_what_changed_and_what_left(rig: Rig) -> None:
    kit = (await rig.stub.CreateKit(kit_of("a", "b"))).kit
    a, b = kit.jobs
    await append(rig, state(a, common.STATUS_RUNNING))
    middle = await append(rig, state(a, common.STATUS_RUNNING, task_name="t"))
    await append(rig, state(a, common.STATUS_FAILED))
    await rig.stub.RetryJob(pb.RetryJobRequest(job_id=a.job_id))
    await append(rig, state(a, common.STATUS_RUNNING))

    diff = await rig.stub.DiffKit(pb.DiffKitRequest(kit_id=1, from_revision=middle))
    assert (diff.from_revision, diff.to_revision) == (4, 7)
    assert [
        (each.before.revision, each.after.revision, each.before.task_name) for each in diff.changes
    ] == [(4, 0, "t"), (3, 7, "")]
    assert not diff.changes[0].HasField("after")
    assert diff.from_status == diff.to_status == common.STATUS_RUNNING
    assert diff.to_counts.running_count == 1

    whole = await rig.stub.DiffKit(pb.DiffKitRequest(kit_id=1, to_revision=2))
    assert [each.after.job_id for each in whole.changes] == [a.job_id, b.job_id]
    assert not any(each.HasField("before") for each in whole.changes)
    assert (whole.from_status, whole.to_status) == (0, common.STATUS_QUEUED)
    early = await refused(rig.stub.DiffKit(pb.DiffKitRequest(kit_id=1, from_revision=9)))
    assert early[0] is grpc.StatusCode.OUT_OF_RANGE
    wrong = pb.DiffKitRequest(kit_id=1, from_revision=3, to_revision=2)
    assert (await refused(rig.stub.DiffKit(wrong)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(rig.stub.DiffKit(pb.DiffKitRequest(kit_id=5))))[0] is (
        grpc.StatusCode.NOT_FOUND
    )


async def test_many_jobs_are_canceled_and_retried_by_a_filter(rig: Rig) -> None:
    for project, team in (("x", "red"), ("x", "blue"), ("y", "red")):
        await rig.stub.CreateKit(kit_of("a", "b", project=project, labels={"team": team}))
    head = rig.hub.head
    filter = pb.JobFilter(project="x", statuses=[common.STATUS_QUEUED])
    dry = await rig.stub.CancelJobs(pb.CancelJobsRequest(filter=filter, dry_run=True))
    assert (dry.canceled_count, len(dry.jobs), dry.revision) == (4, 4, 0)
    assert rig.hub.head == head

    asked = pb.CancelJobsRequest(
        filter=filter, reason="enough", actor="ada", request_id=str(uuid.uuid4())
    )
    done = await rig.stub.CancelJobs(asked)
    assert (done.canceled_count, done.revision) == (4, head + 4)
    assert [job.job_id for job in done.jobs] == [job.job_id for job in dry.jobs]
    assert {(job.status, job.reason, job.actor) for job in done.jobs} == {
        (common.STATUS_CANCELED, "enough", "ada")
    }
    again = await rig.stub.CancelJobs(asked)
    assert again.replayed
    again.replayed = False
    assert again == done
    asked.reason = "another"
    assert (await refused(rig.stub.CancelJobs(asked)))[0] is grpc.StatusCode.ALREADY_EXISTS

    red = pb.JobFilter(kit_labels={"team": "red"})
    retried = await rig.stub.RetryJobs(pb.RetryJobsRequest(filter=red))
    assert retried.retried_count == 2
    assert {job.kit_id for job in retried.jobs} == {1}
    nothing = await rig.stub.RetryJobs(pb.RetryJobsRequest(filter=pb.JobFilter(project="none")))
    assert (nothing.retried_count, nothing.revision) == (0, 0)


async def test_a_change_of_many_jobs_needs_a_filter(rig: Rig) -> None:
    for call, request in (
        (rig.stub.CancelJobs, pb.CancelJobsRequest(dry_run=True)),
        (rig.stub.RetryJobs, pb.RetryJobsRequest(filter=pb.JobFilter())),
    ):
        code, told = await refused(call(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "at least one field" in told


async def test_a_change_that_was_cut_off_goes_on_and_counts_everything(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await rig.stub.CreateKit(kit_of("a", "b"))
    monkeypatch.setattr(bulk, "KITS_AT_ONCE", 2)
    submit, done = Ledger.submit, 0

    async def submit_some(self: Ledger, command: Any, **fields: Any) -> Any:
        nonlocal done
        done += 1
        if done > 3:
            raise ConnectionResetError("killed in the middle")
        return await submit(self, command, **fields)

    asked = pb.CancelJobsRequest(filter=pb.JobFilter(job_types=[DOE]), request_id=str(uuid.uuid4()))
    monkeypatch.setattr(Ledger, "submit", submit_some)
    await refused(rig.stub.CancelJobs(asked))
    monkeypatch.setattr(Ledger, "submit", submit)
    assert 0 < rig.hub.head - 10 < 10
    # One of the kits that were done is brought back meanwhile: it is not canceled again.
    await rig.stub.RetryKit(pb.RetryKitRequest(kit_id=1))
    other = pb.CancelJobsRequest(filter=pb.JobFilter(kit_ids=[1]), request_id=asked.request_id)
    assert (await refused(rig.stub.CancelJobs(other)))[0] is grpc.StatusCode.ALREADY_EXISTS

    whole = await rig.stub.CancelJobs(asked)
    assert (whole.canceled_count, len(whole.jobs)) == (10, 10)
    assert len({job.job_id for job in whole.jobs}) == 10
    assert all(job.finished_at.ToDatetime().year < 9999 for job in whole.jobs)
    kits = (await rig.stub.ListKits(pb.ListKitsRequest())).kits
    assert [kit.status for kit in kits] == [common.STATUS_CANCELED] * 4 + [common.STATUS_QUEUED]


async def test_lists_and_watches_are_filtered_by_project_and_time(rig: Rig) -> None:
    await rig.stub.CreateKit(kit_of("a", project="x"))
    await asyncio.sleep(0.01)
    between = at(datetime.now(UTC))
    await asyncio.sleep(0.01)
    for project in ("y", "x"):
        await rig.stub.CreateKit(kit_of("a", project=project))

    async def listed(**fields: Any) -> list[int]:
        request = pb.ListStatesRequest(filter=pb.StateFilter(**fields))
        return [row.revision for row in (await rig.stub.ListStates(request)).states]

    async def watched(snapshot: bool, **fields: Any) -> list[int]:
        watcher = Watcher(
            rig.stub, filter=pb.StateFilter(**fields), snapshot=snapshot, keep_responses=True
        )
        found: list[int] = []
        async for each in watcher.events():
            found += [row.revision for row in each.delta.states or each.snapshot.states]
            if each.HasField("synced"):
                return found
        raise AssertionError

    exactly = (await rig.stub.ListStates(pb.ListStatesRequest())).states[1].created_at
    for fields, wanted in (
        # The moment itself is after, not before.
        ({"recorded_before": exactly}, [1]),
        ({"recorded_after": exactly}, [2, 3]),
        ({"project": "x"}, [1, 3]),
        ({"recorded_after": between}, [2, 3]),
        ({"recorded_before": between}, [1]),
        ({"project": "x", "recorded_after": between}, [3]),
        ({"project": "none"}, []),
    ):
        assert await listed(**fields) == wanted
        assert await watched(False, **fields) == wanted
        assert await watched(True, **fields) == wanted

    async def kits(**fields: Any) -> list[int]:
        return [kit.kit_id for kit in (await rig.stub.ListKits(pb.ListKitsRequest(**fields))).kits]

    assert await kits(created_after=between) == [3, 2]
    assert await kits(created_before=between) == [1]
    exactly = (await rig.stub.ListKits(pb.ListKitsRequest())).kits[1].created_at
    assert await kits(created_before=exactly) == [1]
    assert await kits(created_after=exactly) == [3, 2]
    assert await kits(created_after=between, project="x") == [3]
    backwards = pb.ListKitsRequest(created_after=between, created_before=between)
    assert (await refused(rig.stub.ListKits(backwards)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_live_watch_of_a_project_gets_only_its_rows(rig: Rig) -> None:
    watcher = Watcher(rig.stub, filter=pb.StateFilter(project="x"), interval=0.1)
    task = asyncio.create_task(watcher.watch_until(lambda: watcher.at >= 6))
    await until(lambda: watcher.got("synced"))
    for project in "xyxyxx":
        await rig.stub.CreateKit(kit_of("a", project=project))
    await asyncio.wait_for(task, 60)
    rows = [row.revision for message in watcher.messages for row in message.rows]
    assert rows == [1, 3, 5, 6]


async def test_the_sample_of_a_leased_jobs_progress_is_not_counted_as_a_task(rig: Rig) -> None:
    kit = (await rig.stub.CreateKit(kit_of("a", leased=True))).kit
    task, grants = await leased(rig)
    await until(lambda: bool(grants))
    attempt = {"attempt": 1}
    job = kit.jobs[0]
    await append(
        rig,
        state(job, common.STATUS_RUNNING, task_name="progress", **attempt),
        state(job, common.STATUS_FINISHED, task_name="fold", **attempt),
        state(job, common.STATUS_FINISHED, **attempt),
    )
    (got,) = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=1))).kit.jobs
    (listed,) = (await rig.stub.ListJobs(pb.ListJobsRequest())).jobs
    assert got.task_counts == listed.task_counts == common.StatusCounts(finished_count=1)
    assert len(got.tasks) == 2
    task.cancel()
