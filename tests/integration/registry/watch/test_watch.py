"""WatchStates through gRPC on a real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psycopg
import pytest
from google.protobuf import duration_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import StateFilter
from vistaflow_services.registry.log import tail
from vistaflow_services.registry.watch import service
from vistaflow_services.registry.watch.snapshot import SnapshotPage

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import Rig, Start
from traffic import Watcher, Writer, appends_of, external_job, head_of, until
from watch_checker import judge


async def append(rig: Rig, *states: common.State) -> pb.AppendStatesResponse:
    return await rig.stub.AppendStates(pb.AppendStatesRequest(states=states))


async def first(
    rig: Rig, request: pb.WatchStatesRequest, count: int
) -> list[pb.WatchStatesResponse]:
    """The first messages of a watch."""
    call = rig.stub.WatchStates(request)
    messages = []
    async with asyncio.timeout(120):
        async for message in call:
            messages.append(message)
            if len(messages) == count:
                break
    call.cancel()
    return messages


def kinds(messages: list[pb.WatchStatesResponse]) -> list[str | None]:
    return [message.WhichOneof("event") for message in messages]


async def test_one_call_replays_the_past_says_so_and_goes_live(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    watcher = Watcher(rig.stub, keep_responses=True)
    watching = asyncio.create_task(watcher.catch_up(3))
    await until(lambda: watcher.got("synced"))
    await append(rig, common.State(job_id=job_id, task_name="a", status=common.STATUS_RUNNING))
    await watching
    assert kinds(watcher.responses) == ["delta", "synced", "delta"]
    past, synced, live = watcher.responses
    assert [state.status for state in past.delta.states] == [
        common.STATUS_QUEUED,
        common.STATUS_RUNNING,
    ]
    assert synced.revision == 2
    assert synced.synced.epoch == (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).epoch
    assert [state.task_name for state in live.delta.states] == ["a"]
    assert live.revision == 3


async def test_a_delta_is_what_list_states_says(rig: Rig, start: Start) -> None:
    _, job_id = await external_job(rig.stub)
    state = common.State(
        job_id=job_id, task_name="a", status=common.STATUS_RUNNING, seq=7, attempt=1
    )
    state.metadata.update({"note": "ü", "n": 1.5, "deep": {"list": [1, None]}})
    await append(rig, state)
    listed = (await rig.stub.ListStates(pb.ListStatesRequest())).states
    for replica in (rig, await start()):  # from memory, and from the database
        (delta,) = await first(replica, pb.WatchStatesRequest(), 1)
        assert list(delta.delta.states) == list(listed)


async def test_each_delta_tells_the_counts_of_the_kits_it_touches(rig: Rig) -> None:
    created = await rig.stub.CreateKit(
        pb.CreateKitRequest(
            name="two",
            jobs=[
                pb.NewJob(name="a", job_type=common.JOB_TYPE_DOE),
                pb.NewJob(name="b", job_type=common.JOB_TYPE_ML_TRAIN, depends_on=["a"]),
            ],
        )
    )
    kit = created.kit
    for status in (common.STATUS_RUNNING, common.STATUS_FINISHED):
        await append(rig, common.State(job_id=kit.jobs[0].job_id, status=status))
    (delta,) = await first(rig, pb.WatchStatesRequest(after_revision=2), 1)
    now = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=kit.kit_id))).kit
    assert list(delta.delta.kit_counts) == [
        pb.KitCounts(kit_id=kit.kit_id, status=now.status, job_counts=now.job_counts)
    ]
    assert now.job_counts == common.StatusCounts(finished_count=1, queued_count=1)


async def test_a_snapshot_and_the_deltas_after_it_are_what_get_kit_says(rig: Rig) -> None:
    chance = random.Random(4)
    jobs = [await external_job(rig.stub, job_type=1 + n) for n in range(4)]
    writers = [Writer(rig.stub, job_id, seed=n, sizes=(1, 3)) for n, (_, job_id) in enumerate(jobs)]
    for _ in range(30):
        await chance.choice(writers).append(chance.choice((1, 3)))
    watcher = Watcher(rig.stub, snapshot=True, keep_responses=True)
    watching = asyncio.create_task(watcher.watch_until(lambda: False))
    await until(lambda: bool(watcher.responses))
    for _ in range(30):
        await chance.choice(writers).append(chance.choice((1, 3)))
    for (_, job_id), status in zip(
        jobs, (common.STATUS_FINISHED, common.STATUS_FAILED, common.STATUS_CANCELED), strict=False
    ):
        await append(rig, common.State(job_id=job_id, status=status))
    head = (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    await until(lambda: watcher.at >= head)
    watching.cancel()

    rows: dict[tuple[str, str], common.State] = {}
    counts: dict[int, common.StatusCounts] = {}
    for message in watcher.responses:
        for state in [*message.snapshot.states, *message.delta.states]:
            rows[state.job_id, state.task_name] = state
        counts |= {kit.kit_id: kit.job_counts for kit in message.snapshot.kits}
        counts |= {kit.kit_id: kit.job_counts for kit in message.delta.kit_counts}
    for kit_id, job_id in jobs:
        kit = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=kit_id))).kit
        assert {task.task_name: task for task in kit.jobs[0].tasks} == {
            name: state for (job, name), state in rows.items() if job == job_id and name
        }
        assert rows[job_id, ""].status == kit.jobs[0].status
        assert counts[kit_id] == kit.job_counts
    assert kinds(watcher.responses)[:2] == ["snapshot", "synced"]


async def test_a_large_snapshot_comes_in_messages_of_which_only_the_last_tells_its_revision(
    rig: Rig,
) -> None:
    _, job_id = await external_job(rig.stub)
    for part in range(3):
        await append(
            rig,
            *(
                common.State(job_id=job_id, task_name=f"{part}-{n}", status=common.STATUS_RUNNING)
                for n in range(900)
            ),
        )
    messages = await first(rig, pb.WatchStatesRequest(include_snapshot=True), 4)
    assert kinds(messages) == ["snapshot"] * 3 + ["synced"]
    assert [message.revision for message in messages] == [0, 0, 2702, 2702]
    revisions = [state.revision for m in messages for state in m.snapshot.states]
    assert revisions == sorted(revisions)
    assert len(revisions) == 2701
    assert [len(message.snapshot.kits) for message in messages] == [1, 0, 0, 0]


@pytest.mark.parametrize("wanted", ["everything", "one kit"])
async def test_rows_that_come_while_a_snapshot_is_read_are_deltas_after_synced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    kit_id, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    await writer.append(3)
    read = rig.watches._snapshots.read

    async def while_rows_come(of: StateFilter) -> AsyncIterator[SnapshotPage]:
        async with contextlib.aclosing(read(of)) as pages:
            async for page in pages:
                yield page
        await writer.append(5)

    monkeypatch.setattr(rig.watches._snapshots, "read", while_rows_come)
    request = pb.WatchStatesRequest(include_snapshot=True)
    if wanted == "one kit":
        request.filter.kit_ids.append(kit_id)
    messages = await first(rig, request, 3)

    assert kinds(messages) == ["snapshot", "synced", "delta"]
    assert [message.revision for message in messages] == [5, 5, 10]
    assert [state.revision for state in messages[2].delta.states] == [6, 7, 8, 9, 10]


async def test_the_snapshot_of_an_empty_log_is_empty(rig: Rig) -> None:
    messages = await first(rig, pb.WatchStatesRequest(include_snapshot=True), 2)
    assert kinds(messages) == ["snapshot", "synced"]
    assert not messages[0].snapshot.states


async def test_an_idle_watch_is_told_so_in_the_interval_it_asked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEFAULT_INTERVAL_SECONDS", 3600.0)
    await external_job(rig.stub)
    request = pb.WatchStatesRequest(
        after_revision=2, progress_interval=duration_pb2.Duration(nanos=200_000_000)
    )
    began = time.monotonic()
    messages = await first(rig, request, 4)
    took = time.monotonic() - began
    assert kinds(messages) == ["synced", "bookmark", "bookmark", "bookmark"]
    assert {message.revision for message in messages} == {2}
    assert took > 0.5


async def test_a_watch_of_one_kit_is_told_how_far_the_log_is_though_others_write(rig: Rig) -> None:
    quiet, _ = await external_job(rig.stub)
    _, busy = await external_job(rig.stub)
    writer = Writer(rig.stub, busy)
    await writer.append(20)
    request = pb.WatchStatesRequest(
        filter=pb.StateFilter(kit_ids=[quiet]),
        after_revision=2,
        progress_interval=duration_pb2.Duration(nanos=100_000_000),
    )
    messages = await first(rig, request, 2)
    assert kinds(messages) == ["synced", "bookmark"]
    assert messages[1].revision == messages[1].bookmark.head_revision == head_of([writer])


async def test_a_place_beyond_the_head_is_refused_with_the_head(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first(rig, pb.WatchStatesRequest(after_revision=1), 1)
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert "head of the log, 0" in (refused.value.details() or "")


async def test_a_place_that_is_no_longer_kept_is_refused_with_the_oldest_that_is(
    rig: Rig, start: Start
) -> None:
    await external_job(rig.stub)
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("UPDATE vistadb_test.head SET oldest_id = 2")
    replica = await start()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first(replica, pb.WatchStatesRequest(), 1)
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert "before revision 2 are no longer kept" in (refused.value.details() or "")
    (delta,) = await first(replica, pb.WatchStatesRequest(after_revision=1), 1)
    assert [state.revision for state in delta.delta.states] == [2]


async def test_another_logs_epoch_is_refused(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first(rig, pb.WatchStatesRequest(epoch=str(uuid.uuid4())), 1)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.WatchStatesRequest(after_revision=-1), "after_revision"),
        (pb.WatchStatesRequest(after_revision=1, include_snapshot=True), "after_revision"),
        (
            pb.WatchStatesRequest(progress_interval=duration_pb2.Duration(seconds=16)),
            "progress_interval",
        ),
        (
            pb.WatchStatesRequest(progress_interval=duration_pb2.Duration(nanos=1)),
            "progress_interval",
        ),
        (pb.WatchStatesRequest(filter=pb.StateFilter(job_ids=["x"])), "filter.job_ids[0]"),
        (pb.WatchStatesRequest(filter=pb.StateFilter(statuses=[0])), "filter.statuses[0]"),
        (pb.WatchStatesRequest(filter=pb.StateFilter(kit_ids=[0])), "filter.kit_ids[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_request_is_refused_with_its_field(
    rig: Rig, request_: pb.WatchStatesRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first(rig, request_, 1)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


@pytest.mark.parametrize("cold", [False, True], ids=["from memory", "from the database"])
async def test_a_filter_delivers_the_rows_that_match_and_no_other(
    rig: Rig, start: Start, cold: bool
) -> None:
    chance = random.Random(7)
    jobs = [
        await external_job(rig.stub, labels={"team": "ab"[n % 2], "n": str(n)}, job_type=2 + n % 3)
        for n in range(6)
    ]
    for n, (_, job_id) in enumerate(jobs):
        await Writer(rig.stub, job_id, seed=n).append(30)
        if chance.random() < 0.5:
            await append(rig, common.State(job_id=job_id, status=common.STATUS_FAILED))
    log = (await rig.stub.ListStates(pb.ListStatesRequest(page_size=5000))).states
    replica = await start() if cold else rig
    team = {kit_id: "ab"[n % 2] for n, (kit_id, _) in enumerate(jobs)}
    kit_ids = [jobs[0][0], jobs[3][0]]
    job_ids = [jobs[1][1], jobs[2][1]]
    cases = [
        (pb.StateFilter(kit_ids=kit_ids), lambda s: s.kit_id in kit_ids),
        (pb.StateFilter(job_types=[3, 4]), lambda s: s.job_type in (3, 4)),
        (pb.StateFilter(statuses=[2, 5]), lambda s: s.status in (2, 5)),
        (pb.StateFilter(labels={"team": "a"}), lambda s: team[s.kit_id] == "a"),
        (pb.StateFilter(job_ids=job_ids), lambda s: s.job_id in job_ids),
        (
            pb.StateFilter(kit_ids=kit_ids, labels={"team": "b"}, statuses=[3]),
            lambda s: s.kit_id in kit_ids and team[s.kit_id] == "b" and s.status == 3,
        ),
    ]
    for wanted, matches in cases:
        watcher = Watcher(replica.stub, filter=wanted, keep_responses=True, interval=0.1)
        await watcher.catch_up(log[-1].revision)
        seen = [state for m in watcher.responses for state in m.delta.states]
        assert seen == [state for state in log if matches(state)], wanted


async def test_a_filter_by_status_still_tells_the_counts_as_they_are_at_the_message(
    rig: Rig, start: Start
) -> None:
    kit_id, job_id = await external_job(rig.stub)
    await append(rig, common.State(job_id=job_id, task_name="a", status=common.STATUS_FINISHED))
    wanted = pb.StateFilter(statuses=[common.STATUS_FINISHED])
    for replica in (rig, await start()):
        (delta,) = await first(replica, pb.WatchStatesRequest(filter=wanted), 1)
        assert [state.task_name for state in delta.delta.states] == ["a"]
        assert list(delta.delta.kit_counts) == [
            pb.KitCounts(
                kit_id=kit_id,
                status=common.STATUS_RUNNING,
                job_counts=common.StatusCounts(running_count=1),
            )
        ]


async def test_rows_of_one_append_stay_together_however_many(rig: Rig, start: Start) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    for size in (1, 999, 1000, 2, 700, 301):
        await writer.append(size)
    for replica in (rig, await start()):
        watcher = Watcher(replica.stub, after=2)
        await watcher.catch_up(head_of([writer]))
        assert judge(watcher.messages, appends_of([writer]), after=2).told() == {}


async def test_watchers_that_resume_at_random_miss_and_repeat_nothing(start: Start) -> None:
    rig = await start(ring_rows=200)  # so few that many a place has left the memory
    chance = random.Random(11)
    jobs = [await external_job(rig.stub) for _ in range(3)]
    writers = [Writer(rig.stub, job_id, seed=n) for n, (_, job_id) in enumerate(jobs)]
    watchers = [Watcher(rig.stub, after=6, interval=0.1) for _ in range(3)]
    watchers.append(
        Watcher(rig.stub, after=6, interval=0.1, filter=pb.StateFilter(kit_ids=[jobs[0][0]]))
    )
    end = time.monotonic() + 3

    def over() -> bool:
        return time.monotonic() > end and all(each.resume_count >= 5 for each in watchers)

    async def hop(watcher: Watcher) -> None:
        while not over():
            stop = time.monotonic() + chance.uniform(0.0, 0.1)
            await watcher.watch_until(lambda stop=stop: time.monotonic() > stop)
            watcher.resumed()
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.2))

    await asyncio.gather(
        *(writer.write_until(over) for writer in writers),
        *(hop(watcher) for watcher in watchers),
    )
    head = head_of(writers)
    mine = {key for append in writers[0].appends for key in (row.key for row in append)}
    for watcher in watchers:
        await watcher.catch_up(head)
        faults = judge(
            watcher.messages,
            appends_of([writers[0]] if watcher.filter else writers),
            after=6,
            wanted=(lambda row: row.key in mine) if watcher.filter else (lambda row: True),
        )
        assert faults.told() == {}
        assert watcher.resume_count >= 5


async def test_a_draining_registry_ends_every_watch_with_the_place_to_go_on_from(rig: Rig) -> None:
    await external_job(rig.stub)
    watcher = Watcher(rig.stub)
    watching = asyncio.create_task(anext_of_kind(watcher, "end"))
    await until(lambda: watcher.got("synced"))
    rig.drain()
    end = await watching
    assert (end.end.reason, end.revision) == ("DRAINING", 2)


async def anext_of_kind(watcher: Watcher, kind: str) -> pb.WatchStatesResponse:
    async with asyncio.timeout(120):
        async for event in watcher.events():
            if event.WhichOneof("event") == kind:
                return event
    raise AssertionError(f"the stream ended without {kind}")


async def test_what_another_replica_writes_arrives_before_the_next_look(
    rig: Rig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await start()
    _, job_id = await external_job(other.stub)
    watcher = Watcher(rig.stub)
    await watcher.catch_up(2)
    # It listens since the look at which it saw the other one. After that look there is no other.
    await other.hub.reached(2)
    connected_at = asyncio.get_running_loop().time()
    await until(lambda: rig.tail._polled > connected_at)
    monkeypatch.setattr(tail, "POLL_SECONDS", 3600.0)
    for n in range(20):
        await append(
            other,
            common.State(job_id=job_id, task_name=f"t{n}", status=common.STATUS_RUNNING),
        )
        async with asyncio.timeout(120):
            await rig.hub.reached(3 + n)
    for rig_ in (rig, other):
        seen = Watcher(rig_.stub, keep_responses=True)
        await seen.catch_up(22)
        assert [s.revision for m in seen.responses for s in m.delta.states] == list(range(1, 23))


async def test_a_lost_tail_connection_costs_time_and_no_rows(rig: Rig, start: Start) -> None:
    other = await start()
    _, job_id = await external_job(other.stub)
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'vistaflow registry tail' AND datname = current_database()"
        )
    writer = Writer(other.stub, job_id)
    await writer.append(10)
    watcher = Watcher(rig.stub, after=2)
    await until(lambda: rig.hub.head >= head_of([writer]))
    await watcher.catch_up(head_of([writer]))
    assert judge(watcher.messages, appends_of([writer]), after=2).told() == {}
