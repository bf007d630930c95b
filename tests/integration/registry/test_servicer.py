from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
import psycopg
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


async def refused(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code()


async def test_what_does_not_exist_is_not_found(stub: RegistryServiceStub) -> None:
    nobody = str(uuid.uuid4())
    for call in (
        stub.GetKit(pb.GetKitRequest(kit_id=9)),
        stub.CancelKit(pb.CancelKitRequest(kit_id=9)),
        stub.RetryKit(pb.RetryKitRequest(kit_id=9)),
        stub.CreateJob(pb.CreateJobRequest(kit_id=9, job=pb.NewJob(job_type=common.JOB_TYPE_DOE))),
        stub.GetJob(pb.GetJobRequest(job_id=nobody)),
        stub.CancelJob(pb.CancelJobRequest(job_id=nobody)),
        stub.RetryJob(pb.RetryJobRequest(job_id=nobody)),
    ):
        assert await refused(call) is grpc.StatusCode.NOT_FOUND


async def test_a_malformed_request_records_nothing(stub: RegistryServiceStub) -> None:
    created = await stub.CreateKit(two_jobs())
    good = state(created.kit.jobs[0].job_id, common.STATUS_RUNNING)
    bad = state("not-a-uuid", common.STATUS_RUNNING)
    code = await refused(stub.AppendStates(pb.AppendStatesRequest(states=[good, bad])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await stub.ListStates(pb.ListStatesRequest())).revision == 2


async def test_reading_waits_for_the_revision_asked_for(stub: RegistryServiceStub) -> None:
    created = await stub.CreateKit(two_jobs())
    ahead = pb.GetKitRequest(kit_id=1, min_revision=created.revision + 1)
    assert await refused(stub.GetKit(ahead, timeout=2)) is grpc.StatusCode.UNAVAILABLE
    assert await refused(stub.GetKit(pb.GetKitRequest(kit_id=1, min_revision=-1))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )

    waiting = asyncio.ensure_future(stub.GetKit(ahead, timeout=60))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    row = state(created.kit.jobs[0].job_id, common.STATUS_RUNNING)
    await stub.AppendStates(pb.AppendStatesRequest(states=[row]))
    assert (await waiting).kit.status == common.STATUS_RUNNING


async def test_lists_are_paged_and_filtered(stub: RegistryServiceStub) -> None:
    for n in range(7):
        await stub.CreateKit(
            two_jobs(
                name=f"Kit {n}",
                project="even" if n % 2 == 0 else "odd",
                labels={"team": "a" if n < 3 else "b"},
            )
        )
    await stub.CancelKit(pb.CancelKitRequest(kit_id=7, reason="enough"))

    async def kits(**filters: object) -> list[int]:
        found: list[int] = []
        token = ""
        while True:
            page = await stub.ListKits(
                pb.ListKitsRequest(page_size=2, page_token=token, **filters)  # type: ignore[arg-type]
            )
            assert len(page.kits) <= 2
            found += [kit.kit_id for kit in page.kits]
            token = page.next_page_token
            if not token:
                return found

    assert await kits() == [7, 6, 5, 4, 3, 2, 1]
    assert await kits(project="even") == [7, 5, 3, 1]
    assert await kits(labels={"team": "a"}) == [3, 2, 1]
    assert await kits(statuses=[common.STATUS_CANCELED]) == [7]
    assert await kits(name_contains="kit 3") == [4]
    assert await kits(name_contains="%") == []

    page = await stub.ListJobs(
        pb.ListJobsRequest(kit_ids=[2, 3], job_types=[common.JOB_TYPE_ML_TRAIN], page_size=1)
    )
    assert [(job.kit_id, job.name) for job in page.jobs] == [(3, "train")]
    follow = pb.ListJobsRequest(
        kit_ids=[2, 3], job_types=[common.JOB_TYPE_ML_TRAIN], page_token=page.next_page_token
    )
    page = await stub.ListJobs(follow)
    assert [(job.kit_id, job.name, page.next_page_token) for job in page.jobs] == [(2, "train", "")]

    rows = await stub.ListStates(
        pb.ListStatesRequest(filter=pb.StateFilter(labels={"team": "a"}), page_size=4)
    )
    assert [row.kit_id for row in rows.states] == [1, 1, 2, 2]
    rows = await stub.ListStates(
        pb.ListStatesRequest(
            filter=pb.StateFilter(labels={"team": "a"}), page_token=rows.next_page_token
        )
    )
    assert [row.kit_id for row in rows.states] == [3, 3]
    assert rows.next_page_token == ""


async def test_a_canceled_kit_is_retried_from_where_it_was(stub: RegistryServiceStub) -> None:
    await stub.CreateKit(two_jobs())
    canceled = await stub.CancelKit(
        pb.CancelKitRequest(kit_id=1, reason="lunch", actor="bob", request_id=str(uuid.uuid4()))
    )
    assert canceled.canceled_count == 2
    assert [(job.status, job.reason, job.actor) for job in canceled.kit.jobs] == [
        (common.STATUS_CANCELED, "lunch", "bob")
    ] * 2
    assert all(job.HasField("finished_at") for job in canceled.kit.jobs)
    again = pb.CancelKitRequest(kit_id=1)
    assert await refused(stub.CancelKit(again)) is grpc.StatusCode.FAILED_PRECONDITION

    retried = await stub.RetryKit(pb.RetryKitRequest(kit_id=1))
    assert (retried.retried_count, [job.status for job in retried.kit.jobs]) == (
        2,
        [common.STATUS_QUEUED, common.STATUS_INIT],
    )


async def test_a_job_is_added_to_a_kit_or_opens_its_own(stub: RegistryServiceStub) -> None:
    alone = await stub.CreateJob(
        pb.CreateJobRequest(job=pb.NewJob(job_type=common.JOB_TYPE_QUERY), project="p")
    )
    assert (alone.job.kit_id, alone.job.name, alone.job.current_order) == (1, "query", 1)
    added = await stub.CreateJob(
        pb.CreateJobRequest(
            kit_id=1,
            job=pb.NewJob(name="next", job_type=common.JOB_TYPE_DOE, depends_on=["query"]),
        )
    )
    assert (added.job.current_order, added.job.status) == (2, common.STATUS_INIT)
    taken = pb.CreateJobRequest(kit_id=1, job=pb.NewJob(job_type=common.JOB_TYPE_QUERY))
    assert await refused(stub.CreateJob(taken)) is grpc.StatusCode.ALREADY_EXISTS
    got = await stub.GetJob(pb.GetJobRequest(job_id=added.job.job_id))
    assert got.job == added.job


async def test_every_mutating_request_is_kept_with_its_answer(
    stub: RegistryServiceStub, database: str
) -> None:
    request_id = str(uuid.uuid4())
    created = await stub.CreateKit(two_jobs(request_id=request_id))
    await stub.CancelKit(pb.CancelKitRequest(kit_id=1, actor="bob"))
    row = state(created.kit.jobs[0].job_id, common.STATUS_RUNNING)
    await stub.AppendStates(pb.AppendStatesRequest(states=[row]))

    with psycopg.connect(database) as connection:
        kept = connection.execute(
            "SELECT method, request_id::text, data ->> 'actor', response <> ''::bytea "
            "FROM vistadb_test.request_info ORDER BY id"
        ).fetchall()
    # An append without a request_id is in the log itself.
    assert kept == [("CreateKit", request_id, "ada", True), ("CancelKit", None, "bob", True)]


async def test_an_empty_kit_can_be_made_and_read(stub: RegistryServiceStub) -> None:
    created = await stub.CreateKit(pb.CreateKitRequest(name="empty"))
    got = await stub.GetKit(pb.GetKitRequest(kit_id=created.kit.kit_id))
    assert got.kit == created.kit
    assert got.kit.status == common.STATUS_INIT


async def test_the_stage_tables_follow_the_log(stub: RegistryServiceStub, database: str) -> None:
    created = await stub.CreateKit(two_jobs())
    points = created.kit.jobs[0].job_id
    done = Struct()
    done.update({"result": {"size": 8}})
    await stub.AppendStates(
        pb.AppendStatesRequest(
            states=[
                state(points, common.STATUS_RUNNING),
                state(points, common.STATUS_FINISHED, metadata=done),
            ]
        )
    )
    with psycopg.connect(database) as connection:
        connection.execute("SET search_path TO vistadb_test")
        doe = connection.execute("SELECT id, status, data_info FROM doe_step").fetchall()
        ml = connection.execute("SELECT id, step_name, step_order, status FROM ml_step").fetchall()
    assert doe == [(1, "FINISHED", {"size": 8})]
    assert ml == [(2, "train", 3, "QUEUED")]


async def test_a_page_of_large_entries_is_short_and_not_the_last(
    stub: RegistryServiceStub,
) -> None:
    large = any_pb2.Any(type_url="a/b", value=bytes(500_000))
    for _ in range(2):
        jobs = [pb.NewJob(name=f"j{n}", job_type=common.JOB_TYPE_DOE, spec=large) for n in range(5)]
        await stub.CreateKit(pb.CreateKitRequest(name="large", jobs=jobs))
    first = await stub.ListJobs(pb.ListJobsRequest())
    rest = await stub.ListJobs(pb.ListJobsRequest(page_token=first.next_page_token))
    assert (len(first.jobs), len(rest.jobs), rest.next_page_token) == (4, 4, rest.next_page_token)
