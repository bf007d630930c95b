"""Changes of many jobs: in pieces, between which others write, and brought to their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from itertools import pairwise
from pathlib import Path

import grpc
import psycopg
import pytest
from process import RegistryProcess
from rig import Rig
from traffic import connect, external_job, until

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import MAX_REASON
from vistaflow_services.registry.log.draft import PIECE_JOBS, piece_jobs

REASON = "\U0001f600" * MAX_REASON
"""The longest reason there is: four bytes a character."""

JOBS = 300


async def kit_of(stub, count: int, name: str = "many") -> pb.Kit:
    jobs = [pb.NewJob(job_type=common.JOB_TYPE_DOE, name=f"j{n}") for n in range(count)]
    return (await stub.CreateKit(pb.CreateKitRequest(name=name, jobs=jobs), timeout=60)).kit


def rows(dsn: str, kit_id: int, status: str) -> list[tuple[int, int]]:
    """The revision and the append of each row of a kit's jobs that tells a status."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT id, batch FROM vistadb_test.mlops_totalstate_table "
            "WHERE kit_id = %s AND status = %s AND task_name = '' ORDER BY id",
            [kit_id, status],
        ).fetchall()


def left(dsn: str) -> int:
    """How many changes are unfinished."""
    with psycopg.connect(dsn) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM vistadb_test.unfinished_changes")
    return int(count)


async def test_a_change_of_as_many_jobs_as_one_commit_takes_is_one_commit(rig: Rig) -> None:
    kit = await kit_of(rig.stub, PIECE_JOBS)
    before = rig.ledger.commits
    answer = await rig.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id, reason="enough"))
    assert (answer.canceled_count, rig.ledger.commits - before) == (PIECE_JOBS, 1)
    made = rows(rig.dsn, kit.kit_id, "CANCELED")
    assert (len(made), len({batch for _, batch in made})) == (PIECE_JOBS, 1)


async def test_others_write_between_the_pieces_of_a_larger_change(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    _, job_id = await external_job(rig.stub)
    before = rig.ledger.commits
    cancel = asyncio.ensure_future(
        rig.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id, reason=REASON), timeout=60)
    )
    others = []
    while not cancel.done():
        state = common.State(
            job_id=job_id, task_name=f"t{len(others)}", status=common.STATUS_RUNNING
        )
        answer = await rig.stub.AppendStates(pb.AppendStatesRequest(states=[state]))
        others.append(answer.revision)
    answer = await cancel
    made = rows(rig.dsn, kit.kit_id, "CANCELED")
    pieces = len({batch for _, batch in made})
    assert pieces == -(-JOBS // piece_jobs(REASON)) > 1
    assert rig.ledger.commits - before >= pieces
    # The answer is of the whole: all jobs, and the last row.
    assert (answer.canceled_count, answer.revision) == (JOBS, made[-1][0])
    assert answer.kit.job_counts.canceled_count == JOBS
    gaps = {range(one[0] + 1, other[0]) for one, other in pairwise(made) if other[1] != one[1]}
    assert sum(revision in gap for revision in others for gap in gaps) >= 1
    assert left(rig.dsn) == 0


async def test_a_repeat_of_a_change_in_pieces_is_told_the_answer_of_the_first(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    request = pb.CancelKitRequest(
        request_id=str(uuid.uuid4()), kit_id=kit.kit_id, reason=REASON, actor="ana"
    )
    answers = await asyncio.gather(*(rig.stub.CancelKit(request, timeout=60) for _ in range(3)))
    assert {(each.canceled_count, each.revision) for each in answers} == {
        (JOBS, rows(rig.dsn, kit.kit_id, "CANCELED")[-1][0])
    }
    assert sorted(each.replayed for each in answers)[0] is False
    request.actor = "bob"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.CancelKit(request)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_another_body_under_the_id_of_a_change_that_is_under_way_is_refused(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    request = pb.CancelKitRequest(
        request_id=str(uuid.uuid4()), kit_id=kit.kit_id, reason=REASON, actor="ana"
    )
    first = asyncio.ensure_future(rig.stub.CancelKit(request, timeout=60))
    await until(lambda: left(rig.dsn) == 1 or first.done())
    request.actor = "bob"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.CancelKit(request)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert (await first).canceled_count == JOBS


async def test_a_change_whose_caller_went_is_made_to_its_end(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    call = rig.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id, reason=REASON), timeout=60)
    await until(lambda: len(rows(rig.dsn, kit.kit_id, "CANCELED")) > 0)
    call.cancel()
    await until(lambda: len(rows(rig.dsn, kit.kit_id, "CANCELED")) == JOBS, seconds=120)
    await until(lambda: left(rig.dsn) == 0)


async def test_each_job_has_one_turn_in_a_retry_whatever_happens_to_it_meanwhile(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    await rig.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id))
    retry = asyncio.ensure_future(
        rig.stub.RetryKit(pb.RetryKitRequest(kit_id=kit.kit_id, reason=REASON), timeout=60)
    )
    first = kit.jobs[0].job_id
    canceled = None
    while canceled is None:
        # Refused until its turn has come: it is canceled already.
        with contextlib.suppress(grpc.aio.AioRpcError):
            canceled = await rig.stub.CancelJob(pb.CancelJobRequest(job_id=first))
    assert (await retry).retried_count == JOBS
    job = (await rig.stub.GetJob(pb.GetJobRequest(job_id=first))).job
    assert job.status == common.STATUS_CANCELED
    with psycopg.connect(rig.dsn) as connection:
        ((retries,),) = connection.execute(
            "SELECT count(*) FROM vistadb_test.mlops_totalstate_table "
            "WHERE kit_id = %s AND metadata ->> 'event' = 'RETRIED'",
            [kit.kit_id],
        )
    assert retries == JOBS


async def killed(process: RegistryProcess, call) -> None:
    """Waits until the registry has killed itself."""
    assert process.process is not None
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await process.process.wait()


@pytest.mark.parametrize("what", ["cancel", "retry", "by a filter"])
async def test_a_change_that_a_kill_cut_off_is_finished_by_the_next_start(
    database: str, tmp_path: Path, what: str
) -> None:
    """Three commits make the kits, more than three pieces follow: it dies in the midst of them."""
    process = RegistryProcess(database, tmp_path)
    await process.start()
    try:
        channel, stub = connect(process.address)
        kits = [await kit_of(stub, JOBS // 2, name) for name in ("one", "two")]
        if what == "retry":
            for kit in kits:
                await stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id), timeout=60)
        await channel.close()
        await process.stop()
        process.variables["VISTAFLOW_FAILPOINT"] = "append.after_commit=kill@2"
        await process.start()
        channel, stub = connect(process.address)
        request_id = str(uuid.uuid4())
        kit_id = kits[0].kit_id
        if what == "cancel":
            request = pb.CancelKitRequest(request_id=request_id, kit_id=kit_id, reason=REASON)
            call = stub.CancelKit
        elif what == "retry":
            request = pb.RetryKitRequest(request_id=request_id, kit_id=kit_id, reason=REASON)
            call = stub.RetryKit
        else:
            wanted = pb.JobFilter(kit_ids=[kit.kit_id for kit in kits])
            request = pb.CancelJobsRequest(
                request_id=request_id, filter=wanted, reason=REASON, actor="ana"
            )
            call = stub.CancelJobs
        await killed(process, call(request, timeout=60))
        await channel.close()
        status = "QUEUED" if what == "retry" else "CANCELED"
        moved = [kit.kit_id for kit in (kits if what == "by a filter" else kits[:1])]

        def done() -> int:
            made = sum(len(rows(database, each, status)) for each in moved)
            return made - (JOBS // 2 if what == "retry" else 0)

        assert 0 < done() + left(database) < len(moved) * JOBS // 2
        process.variables.clear()
        await process.start()
        await until(lambda: left(database) == 0, seconds=120)
        assert done() == len(moved) * JOBS // 2
        # Whoever asks again is told of the whole, which was done once.
        channel, stub = connect(process.address)
        method = {"cancel": stub.CancelKit, "retry": stub.RetryKit}.get(what, stub.CancelJobs)
        answer = await method(request, timeout=60)
        count = answer.retried_count if what == "retry" else answer.canceled_count
        last = max(rows(database, each, status)[-1][0] for each in moved)
        assert (count, answer.revision, answer.replayed) == (done(), last, True)
        await channel.close()
    finally:
        await process.stop()


async def test_a_change_that_two_replicas_make_is_made_once(
    database: str, tmp_path: Path, start
) -> None:
    # Slow between its pieces, so that it is frozen in the midst of them.
    slow = {"VISTAFLOW_FAILPOINT": "append.after_commit=sleep(0.5)"}
    process = RegistryProcess(database, tmp_path, variables=slow)
    await process.start()
    try:
        channel, stub = connect(process.address)
        kit = await kit_of(stub, JOBS)
        request = pb.RetryKitRequest(kit_id=kit.kit_id, reason=REASON)
        await stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id), timeout=60)
        call = asyncio.ensure_future(stub.RetryKit(request, timeout=120))
        await until(lambda: left(database) == 1)
        process.freeze()
        other = await start()
        await other.unfinished.take(0.0)
        await until(lambda: left(database) == 0)
        process.thaw()
        answer = await call
        made = rows(database, kit.kit_id, "QUEUED")[JOBS:]
        assert (answer.retried_count, answer.revision) == (JOBS, made[-1][0])
        assert len(made) == JOBS
        await channel.close()
    finally:
        process.thaw()
        await process.stop()


async def test_what_is_kept_of_an_unfinished_change_is_the_request(rig: Rig) -> None:
    kit = await kit_of(rig.stub, JOBS)
    request = pb.CancelKitRequest(kit_id=kit.kit_id, reason=REASON, actor="ana")
    call = asyncio.ensure_future(rig.stub.CancelKit(request, timeout=60))
    with psycopg.connect(rig.dsn, autocommit=True) as connection:
        kept = None
        while kept is None and not call.done():
            kept = connection.execute(
                "SELECT method, actor, data::text, cardinality(job_ids) "
                "FROM vistadb_test.unfinished_changes"
            ).fetchone()
            await asyncio.sleep(0)
    await call
    assert kept is not None
    assert (kept[0], kept[1], kept[3]) == ("CancelKit", "ana", JOBS)
    assert json.loads(kept[2])["kit_id"] == kit.kit_id
