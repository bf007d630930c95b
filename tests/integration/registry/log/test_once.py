"""What is asked for more than once happens once; of what excludes each other one thing happens."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import any_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from rig import Rig
from traffic import AWAY, connect, external_job

DUPLICATES = 50
RACERS = 100
TERMINAL = (common.STATUS_FINISHED, common.STATUS_FAILED, common.STATUS_CANCELED)


async def insisting(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, however often the registry dies before it has told it."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in AWAY:
                    raise
            await asyncio.sleep(0.05)


async def repeated(stubs: list[Any], job_id: str, keys: int) -> dict[str, int]:
    """Sends each of many requests from all sides at once; the revision each was told."""
    told: dict[str, int] = {}
    for number in range(keys):
        name = f"task-{number}"
        request = pb.AppendStatesRequest(
            request_id=str(uuid.uuid4()),
            states=[common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name=name)],
        )
        answers = await asyncio.gather(
            *(
                insisting(lambda stub=stub, request=request: stub.AppendStates(request, timeout=60))
                for stub in (random.choice(stubs) for _ in range(DUPLICATES))
            )
        )
        revisions = {each.revision for each in answers}
        assert len(revisions) == 1, f"{name} was told {revisions}"
        assert sum(not each.replayed for each in answers) <= 1
        told[name] = revisions.pop()
    return told


async def stored(dsn: str, job_id: str) -> list[tuple[str, int]]:
    connect = psycopg.AsyncConnection.connect
    async with await connect(dsn, options="-c search_path=vistadb_test") as connection:
        cursor = await connection.execute(
            "SELECT task_name, id FROM mlops_totalstate_table"
            " WHERE job_id = %s AND task_name <> '' ORDER BY id",
            [job_id],
        )
        return await cursor.fetchall()


async def test_fifty_repeats_at_once_make_one_row_and_are_told_the_same(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    told = await repeated([rig.stub], job_id, 20)
    assert await stored(rig.dsn, job_id) == list(told.items())


@pytest.mark.slow
async def test_repeats_make_one_row_while_registries_are_killed(
    database: str, tmp_path: Path
) -> None:
    processes, stubs, channels = [], [], []
    for number in range(2):
        home = tmp_path / str(number)
        home.mkdir()
        processes.append(await RegistryProcess(database, home).start())
    for number in range(8):
        channel, stub = connect(processes[number % 2].address)
        channels.append(channel)
        stubs.append(stub)
    _, job_id = await external_job(stubs[0])
    chance, kills = random.Random(5), 0
    writing = asyncio.create_task(repeated(stubs, job_id, 1000))
    while not writing.done():
        await asyncio.wait([writing], timeout=chance.uniform(1.0, 4.0))
        process = chance.choice(processes)
        await process.kill()
        await process.start()
        kills += 1
    told = await writing
    assert await stored(database, job_id) == list(told.items())
    assert kills >= 5, f"{kills} kills: the run says nothing"
    for channel in channels:
        await channel.close()
    for process in processes:
        await process.stop()


@pytest.mark.parametrize(
    "request_id",
    [
        "x" * 3 * 1024 * 1024,
        "12",
        "é" * 36,
        "\u202e" + "0" * 35,
        " " * 36,
        "00000000-0000-4000-8000-00000000000\x00",
        "'; DROP TABLE request_info; --      ",
    ],
    ids=["3 MiB", "short", "not ASCII", "bidi", "blank", "NUL", "SQL"],
)
async def test_a_request_id_that_is_no_uuid_is_refused_and_nothing_happens(
    rig: Rig, request_id: str
) -> None:
    _, job_id = await external_job(rig.stub)
    before = rig.ledger.head
    row = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name="t")
    job = pb.NewJob(job_type=common.JOB_TYPE_DOE)
    calls = (
        rig.stub.AppendStates(pb.AppendStatesRequest(request_id=request_id, states=[row])),
        rig.stub.CreateKit(pb.CreateKitRequest(request_id=request_id, name="a", jobs=[job])),
        rig.stub.CancelKit(pb.CancelKitRequest(request_id=request_id, kit_id=1)),
        rig.stub.CancelJob(pb.CancelJobRequest(request_id=request_id, job_id=job_id)),
    )
    for call in calls:
        told = "request_id: (must be a UUID|the request is 3,145,)"
        with pytest.raises(grpc.aio.AioRpcError, match=told) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert rig.ledger.head == before


async def test_a_request_id_stands_for_one_method_and_one_body(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    request_id = str(uuid.uuid4())
    row = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name="t")
    first = await rig.stub.AppendStates(pb.AppendStatesRequest(request_id=request_id, states=[row]))
    other = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name="u")
    for call in (
        rig.stub.AppendStates(pb.AppendStatesRequest(request_id=request_id, states=[other])),
        rig.stub.AppendStates(pb.AppendStatesRequest(request_id=request_id, states=[row, row])),
        rig.stub.CancelJob(pb.CancelJobRequest(request_id=request_id, job_id=job_id)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    again = pb.AppendStatesRequest(request_id=request_id, states=[row])
    assert (await rig.stub.AppendStates(again)).revision == first.revision
    for _ in range(2):  # an id left out is nobody's
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=[other]))
    assert rig.ledger.head == first.revision + 2


async def races(rig: Rig, jobs: int) -> None:
    """100 racers end each job; exactly one of them does, and the log says which."""
    chance = random.Random(11)
    for _ in range(jobs):
        _, job_id = await external_job(rig.stub)
        statuses = [chance.choice(TERMINAL) for _ in range(RACERS)]
        answers = await asyncio.gather(
            *(
                rig.stub.AppendStates(
                    pb.AppendStatesRequest(states=[common.State(job_id=job_id, status=status)])
                )
                for status in statuses
            )
        )
        verdicts = [answer.results[0].verdict for answer in answers]
        told = Counter(verdicts)
        assert told == {pb.VERDICT_ACCEPTED: 1, pb.VERDICT_REJECTED: RACERS - 1}
        winner = verdicts.index(pb.VERDICT_ACCEPTED)
        job = (await rig.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
        assert (job.status, job.revision) == (statuses[winner], answers[winner].revision)


async def test_of_a_hundred_who_end_a_job_at_once_one_does(rig: Rig) -> None:
    await races(rig, 10)


@pytest.mark.slow
async def test_of_a_hundred_who_end_a_job_at_once_one_does_a_thousand_times(rig: Rig) -> None:
    await races(rig, 1000)


async def test_what_is_kept_of_an_answer_is_what_a_repeat_needs(rig: Rig) -> None:
    """Specs come again with a repeat; of tasks changes tell no more than their counts."""
    spec = any_pb2.Any(type_url="a/b", value=bytes(1_000_000))
    create = pb.CreateKitRequest(
        request_id=str(uuid.uuid4()),
        name="kept",
        jobs=[
            pb.NewJob(name="leased", job_type=9, spec=spec),
            pb.NewJob(name="external", job_type=2, current_order=1),
        ],
    )
    create.spec["note"] = "x" * 100_000
    made = await rig.stub.CreateKit(create)
    job = pb.CreateJobRequest(
        request_id=str(uuid.uuid4()),
        kit_id=made.kit.kit_id,
        job=pb.NewJob(name="later", job_type=9, spec=spec),
    )
    added = await rig.stub.CreateJob(job)
    job_id = next(each.job_id for each in made.kit.jobs if each.name == "external")
    rows = [common.State(job_id=job_id, status=common.STATUS_RUNNING)]
    for number in range(20):
        row = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name=f"t{number}")
        row.metadata["note"] = "x" * 60_000
        rows.append(row)
    await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    cancel = pb.CancelKitRequest(request_id=str(uuid.uuid4()), kit_id=made.kit.kit_id)
    canceled = await rig.stub.CancelKit(cancel)
    retry = pb.RetryJobRequest(request_id=str(uuid.uuid4()), job_id=job_id)
    retried = await rig.stub.RetryJob(retry)
    for answer in (canceled.kit.jobs, [retried.job]):
        assert not any(each.tasks or each.HasField("spec") for each in answer)
    assert {each.name: each.task_counts.running_count for each in canceled.kit.jobs} == {
        "external": 20, "leased": 0, "later": 0,
    }  # fmt: skip
    for call, request, answer in (
        (rig.stub.CreateKit, create, made),
        (rig.stub.CreateJob, job, added),
        (rig.stub.CancelKit, cancel, canceled),
        (rig.stub.RetryJob, retry, retried),
    ):
        again: Any = await call(request)  # type: ignore[operator]
        assert again.replayed
        again.replayed = False
        assert again == answer
    async with await psycopg.AsyncConnection.connect(
        rig.dsn, options="-c search_path=vistadb_test"
    ) as connection:
        cursor = await connection.execute("SELECT max(octet_length(response)) FROM request_info")
        ((largest,),) = await cursor.fetchall()
    assert largest < 2_000
