"""What happens to watches when rows are dropped and when the log is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2, status_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from rig import Rig, Start
from traffic import Watcher, Writer, connect, external_job, head_of, until


async def run_sql(rig: Rig, text: str, *parameters: object) -> None:
    connect = psycopg.AsyncConnection.connect
    async with await connect(
        rig.dsn, autocommit=True, options="-c search_path=vistadb_test"
    ) as connection:
        await connection.execute(text.encode(), parameters)


async def drop_before(rig: Rig, revision: int) -> None:
    """What retention leaves behind: the rows before a revision are gone."""
    async with await psycopg.AsyncConnection.connect(
        rig.dsn, options="-c search_path=vistadb_test"
    ) as connection:
        found = await connection.execute("SELECT pg_get_functiondef('forbid_change'::regproc)")
        guard = (await found.fetchone() or ("",))[0]
        # The guard is there again when this commits.
        await connection.execute(
            "CREATE OR REPLACE FUNCTION forbid_change() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN OLD; END'"
        )
        await connection.execute("DELETE FROM mlops_totalstate_table WHERE id < %s", [revision])
        await connection.execute(guard.encode())
        await connection.execute("UPDATE head SET oldest_id = %s", [revision])


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info
    return info


async def last_of(events: AsyncIterator[pb.WatchStatesResponse]) -> pb.WatchStatesResponse:
    last = pb.WatchStatesResponse()
    async with asyncio.timeout(120):
        async for event in events:
            last = event
    return last


@contextlib.asynccontextmanager
async def reluctant(rig: Rig) -> AsyncIterator[Watcher]:
    """A watcher whose connection holds hardly more than a message, and whose past is many."""
    # A window that does not grow, so that the registry waits until the watcher reads on.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(rig.address, options=options) as channel:
        yield Watcher(RegistryServiceStub(channel), after=2)  # type: ignore[arg-type]


@pytest.fixture
async def dropped(rig: Rig, start: Start) -> tuple[Rig, Writer]:
    """A replica of a log whose first rows are gone; a writer to it."""
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    for _ in range(10):
        await writer.append(10)
    await drop_before(rig, 53)
    return await start(), writer


async def test_a_place_that_is_gone_is_refused_with_the_oldest_that_is_left(
    dropped: tuple[Rig, Writer],
) -> None:
    rig, _ = dropped
    call = rig.stub.WatchStates(pb.WatchStatesRequest(after_revision=51))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    info = info_of(refused.value)
    assert (info.reason, dict(info.metadata)) == ("REVISION_EXPIRED", {"oldest_revision": "53"})


@pytest.mark.parametrize("after", [0, 1, 51])
async def test_a_place_that_is_gone_gets_a_snapshot_when_asked_for_and_then_every_row(
    dropped: tuple[Rig, Writer], after: int
) -> None:
    rig, writer = dropped
    watcher = Watcher(rig.stub, after=after, snapshot_if_expired=True, keep_responses=True)
    watching = asyncio.create_task(watcher.watch_until(lambda: False))
    await until(lambda: watcher.got("synced"))
    await writer.append(3)
    await until(lambda: watcher.at >= head_of([writer]))
    watching.cancel()
    snapshot, synced, delta = watcher.responses
    kit = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=1))).kit
    rows = {s.task_name: s for s in snapshot.snapshot.states}
    assert (snapshot.revision, synced.revision) == (102, 102)
    rows |= {s.task_name: s for s in delta.delta.states}
    assert {t.task_name: t for t in kit.jobs[0].tasks} == {n: s for n, s in rows.items() if n}


async def test_a_place_that_is_kept_gets_no_snapshot(dropped: tuple[Rig, Writer]) -> None:
    rig, _ = dropped
    watcher = Watcher(rig.stub, after=52, snapshot_if_expired=True)
    await watcher.catch_up(102)
    assert not watcher.got("snapshot")
    assert [row.revision for m in watcher.messages for row in m.rows] == list(range(53, 103))


async def test_a_place_beyond_the_head_is_refused_though_a_snapshot_was_asked_for(
    dropped: tuple[Rig, Writer],
) -> None:
    rig, _ = dropped
    request = pb.WatchStatesRequest(after_revision=999, snapshot_if_expired=True)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.stub.WatchStates(request).read()
    assert info_of(refused.value).reason == "BEYOND_HEAD"


async def test_a_watcher_that_rows_are_dropped_from_under_is_ended_not_lied_to(
    rig: Rig, start: Start
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id, metadata="x" * 4000)
    for _ in range(50):
        await writer.append(20)
    replica = await start(ring_rows=100)
    async with reluctant(replica) as watcher:
        events = watcher.events()
        await anext(events)
        assert watcher.at < 900
        await drop_before(rig, 951)
        last = await last_of(events)
        assert last.end.code == pb.END_REASON_EXPIRED
        revisions = [row.revision for m in watcher.messages for row in m.rows]
        assert revisions == list(range(3, last.revision + 1))
        watcher.snapshot_if_expired = True
        await watcher.catch_up(1002)
        assert watcher.got("snapshot")


async def test_of_a_task_whose_past_is_gone_it_is_told_that_it_left(
    dropped: tuple[Rig, Writer],
) -> None:
    """What it was before is not known any more; a new job's first row is known to be the first."""
    rig, writer = dropped
    await run_sql(
        rig,
        "WITH gone AS (SELECT set_config('session_replication_role', 'replica', true))"
        " DELETE FROM mlops_totalstate_table USING gone WHERE task_name = ''",
    )
    rows = [common.State(job_id=writer.job_id, status=common.STATUS_FINISHED)]
    await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    new = await rig.stub.CreateKit(
        pb.CreateKitRequest(name="new", jobs=[pb.NewJob(job_type=common.JOB_TYPE_DOE)])
    )
    watcher = Watcher(
        rig.stub,
        after=102,
        filter=pb.StateFilter(statuses=[common.STATUS_RUNNING]),
        include_left=True,
        interval=0.1,
        keep_responses=True,
    )
    await watcher.catch_up(new.revision)
    left = [s.job_id for m in watcher.responses for s in m.delta.left]
    assert left == [writer.job_id]


async def test_when_the_log_is_replaced_every_watch_ends_and_resuming_is_refused(
    rig: Rig, start: Start
) -> None:
    await external_job(rig.stub)
    watcher = Watcher(rig.stub, keep_responses=True)
    one_kit = Watcher(rig.stub, keep_responses=True, filter=pb.StateFilter(kit_ids=[1]))
    tasks = [asyncio.create_task(drain(w)) for w in (watcher, one_kit)]
    await until(lambda: watcher.got("synced") and one_kit.got("synced"))
    (synced,) = [m for m in watcher.responses if m.HasField("synced")]
    await run_sql(rig, "UPDATE head SET epoch = gen_random_uuid()")
    async with asyncio.timeout(120):
        await asyncio.gather(*tasks)
    for each in (watcher, one_kit):
        last = each.responses[-1]
        assert (last.end.code, last.revision) == (pb.END_REASON_EPOCH_CHANGED, 2)
    again = Watcher(rig.stub, keep_responses=True)
    await drain(again)
    assert [m.WhichOneof("event") for m in again.responses] == ["end"]
    restarted = await start()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await restarted.stub.WatchStates(
            pb.WatchStatesRequest(after_revision=2, epoch=synced.synced.epoch)
        ).read()
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert info_of(refused.value).reason == "EPOCH_CHANGED"


async def drain(watcher: Watcher) -> None:
    async for _ in watcher.events():
        pass


async def test_nothing_of_a_replaced_log_is_delivered_even_before_the_tail_notices(
    rig: Rig, start: Start
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    await writer.append(50)
    replica = await start()  # its memory is empty: the past comes from the database
    replica.tasks[0].cancel()
    await run_sql(rig, "UPDATE head SET epoch = %s", uuid.uuid4())
    watcher = Watcher(replica.stub, keep_responses=True)
    await drain(watcher)
    assert [m.WhichOneof("event") for m in watcher.responses] == ["end"]
    assert watcher.responses[0].end.code == pb.END_REASON_EPOCH_CHANGED


@pytest.mark.parametrize("then", ["begins", "beyond"])
async def test_a_log_replaced_by_a_younger_one_ends_watches_as_replaced_and_not_as_expired(
    rig: Rig, start: Start, then: str
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    await writer.append(50)
    replica = await start()
    replica.tasks[0].cancel()
    changed = {"begins": "oldest_id = 41", "beyond": "last_id = 10"}[then]
    await run_sql(rig, f"UPDATE head SET epoch = gen_random_uuid(), {changed}")
    replica.hub.head = {"begins": replica.hub.head, "beyond": 10}[then]
    watcher = Watcher(replica.stub, keep_responses=True, after=20)
    await drain(watcher)
    assert [m.WhichOneof("event") for m in watcher.responses] == ["end"]
    assert watcher.responses[0].end.code == pb.END_REASON_EPOCH_CHANGED


async def test_a_log_replaced_while_a_watch_pages_through_it_ends_the_watch_as_replaced(
    rig: Rig, start: Start
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id, metadata="x" * 4000)
    for _ in range(50):
        await writer.append(20)
    replica = await start(ring_rows=100)
    replica.tasks[0].cancel()
    async with reluctant(replica) as watcher:
        events = watcher.events()
        await anext(events)
        await run_sql(rig, "UPDATE head SET epoch = gen_random_uuid(), oldest_id = 951")
        last = await last_of(events)
        assert last.end.code == pb.END_REASON_EPOCH_CHANGED


async def test_a_registry_under_which_the_log_is_replaced_tells_so_and_stops(
    database: str, tmp_path: Path
) -> None:
    process = await RegistryProcess(dsn=database, home=tmp_path).start()
    channel, stub = connect(process.address)
    watcher = Watcher(stub, keep_responses=True)
    watching = asyncio.create_task(drain(watcher))
    await until(lambda: watcher.got("synced"))
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vistadb_test.head SET epoch = gen_random_uuid()")
    async with asyncio.timeout(120):
        await watching
        assert process.process is not None
        await process.process.wait()
    assert watcher.responses[-1].end.code == pb.END_REASON_EPOCH_CHANGED
    assert "the log was replaced" in (tmp_path / "registry.err").read_text()
    await channel.close()
