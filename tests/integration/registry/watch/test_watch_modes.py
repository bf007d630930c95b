"""LATEST_PER_TASK and include_left, through gRPC on a real Postgres, judged by the checker."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from pathlib import Path

import grpc
import pytest

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.registry.domain import StateFilter
from vistaflow_services.registry.watch import rows as watch_rows

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import Rig, Start
from stream_writer import StreamWriter, task_row
from traffic import Watcher, Writer, appends_of, external_job, head_of, seen, until
from watch_checker import Seen, judge

LATEST = pb.WATCH_MODE_LATEST_PER_TASK
RUNNING, FINISHED, FAILED = common.STATUS_RUNNING, common.STATUS_FINISHED, common.STATUS_FAILED


async def log_of(rig: Rig) -> list[common.State]:
    return list((await rig.stub.ListStates(pb.ListStatesRequest(page_size=5000))).states)


async def busy_log(rig: Rig, seed: int) -> tuple[list[common.State], list[list[Seen]]]:
    """A log of three jobs whose tasks come and go; with its appends."""
    chance = random.Random(seed)
    jobs = [await external_job(rig.stub, labels={"n": str(n)}) for n in range(3)]
    appends: list[list[Seen]] = []
    seqs = itertools.count(1)
    for _ in range(60):
        _, job_id = chance.choice(jobs)
        rows = [
            common.State(
                job_id=job_id,
                attempt=1,
                seq=next(seqs),
                task_name=f"t{chance.randrange(15)}-{chance.randrange(3)}",
                status=chance.choice((RUNNING, RUNNING, FINISHED, FAILED)),
            )
            for _ in range(chance.choice((1, 3, 20)))
        ]
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    for _, job_id in jobs[:2]:
        rows = [common.State(job_id=job_id, status=chance.choice((FINISHED, FAILED)))]
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    log = await log_of(rig)
    for state in log:
        appends.append([seen(state)])
    return log, appends


def leaving(log: list[common.State], statuses: set[int]) -> set[int]:
    """By the definition: the rows after which a job or task that matched does not."""
    before: dict[tuple[str, str], int] = {}
    found = set()
    for state in log:
        key = (state.job_id, state.task_name)
        if before.get(key) in statuses and state.status not in statuses:
            found.add(state.revision)
        before[key] = state.status
    return found


async def test_of_the_past_only_the_latest_of_each_task_comes_and_the_rest_is_counted(
    rig: Rig, start: Start
) -> None:
    log, appends = await busy_log(rig, 1)
    newest = {(s.job_id, s.task_name): s for s in log}
    for replica in (rig, await start(ring_rows=50), await start()):
        watcher = Watcher(replica.stub, mode=LATEST, keep_responses=True)
        await watcher.catch_up(log[-1].revision)
        assert judge(watcher.messages, appends, latest=True).told() == {}
        assert watcher.row_count + watcher.folded_count == len(log)
        last = {(s.job_id, s.task_name): s for m in watcher.responses for s in m.delta.states}
        assert last == newest
    assert watcher.row_count == len(newest)


@pytest.mark.parametrize("mode", [pb.WATCH_MODE_EVERY_ROW, LATEST], ids=["every row", "latest"])
@pytest.mark.parametrize("statuses", [{RUNNING}, {FINISHED, FAILED}, {common.STATUS_QUEUED}])
async def test_what_leaves_the_filter_is_told_from_memory_and_from_the_database(
    rig: Rig, start: Start, mode: pb.WatchMode.ValueType, statuses: set[int]
) -> None:
    log, appends = await busy_log(rig, 2)
    status = {state.revision: state.status for state in log}
    left = leaving(log, statuses)
    assert left or statuses == {FINISHED, FAILED}
    wanted = pb.StateFilter(statuses=statuses)  # type: ignore[arg-type]
    for replica in (rig, await start(ring_rows=40), await start()):
        for after in (0, 30):
            watcher = Watcher(
                replica.stub,
                after=after,
                filter=wanted,
                mode=mode,
                include_left=True,
                keep_responses=True,
                interval=0.1,
            )
            await watcher.catch_up(log[-1].revision)
            faults = judge(
                watcher.messages,
                appends,
                after=after,
                wanted=lambda row: status[row.revision] in statuses,
                leaving=left,
                latest=mode == LATEST,
            )
            assert faults.told() == {}
            told = [s.revision for m in watcher.responses for s in m.delta.left]
            assert set(told) == {each for each in left if each > after} or mode == LATEST


async def test_applying_what_a_filtered_watch_tells_gives_the_current_state(rig: Rig) -> None:
    """Snapshot, then enter and leave: what a page that shows running tasks does."""
    chance = random.Random(9)
    kit_id, job_id = await external_job(rig.stub)
    names = [f"t{n}" for n in range(8)]
    at = {name: 0 for name in names}
    watcher = Watcher(
        rig.stub,
        snapshot=True,
        filter=pb.StateFilter(statuses=[RUNNING], kit_ids=[kit_id]),
        include_left=True,
        mode=LATEST,
        keep_responses=True,
    )
    watching = None
    for round_ in range(60):
        name = chance.choice(names)
        at[name] += 1
        status = FINISHED if chance.random() < 0.2 else RUNNING
        rows = [common.State(job_id=job_id, task_name=name, status=status)]
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
        if round_ == 20:
            watching = asyncio.create_task(watcher.watch_until(lambda: False))
            await until(lambda: watcher.got("synced"))
    head = (await log_of(rig))[-1].revision
    await until(lambda: watcher.at >= head)
    assert watching is not None
    watching.cancel()
    shown: dict[str, common.State] = {}
    for message in watcher.responses:
        for state in [*message.snapshot.states, *message.delta.states]:
            shown[state.task_name] = state
        for state in message.delta.left:
            shown.pop(state.task_name, None)
    kit = (await rig.stub.GetKit(pb.GetKitRequest(kit_id=kit_id))).kit
    shown.pop("")
    assert shown == {t.task_name: t for t in kit.jobs[0].tasks if t.status == RUNNING}


@pytest.mark.parametrize("include_left", [False, True])
async def test_a_watcher_that_takes_its_time_gets_fewer_rows_and_the_count_is_exact(
    rig: Rig, include_left: bool
) -> None:
    kit_id, job_id = await external_job(rig.stub)
    # A window that does not grow, so that little waits in the connection.
    channel = grpc.aio.insecure_channel(
        rig.address,
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)],
    )
    stub = RegistryServiceStub(channel)
    writer = Writer(rig.stub, job_id, metadata="x" * 4000)
    slow = Watcher(
        stub,  # type: ignore[arg-type]
        after=2,
        mode=LATEST,
        filter=pb.StateFilter(kit_ids=[kit_id], statuses=[RUNNING]) if include_left else None,
        include_left=include_left,
    )
    fast = Watcher(rig.stub, after=2, mode=LATEST)
    written = asyncio.Event()

    async def dawdle() -> None:
        async for _ in slow.events():
            await written.wait()
            if slow.at >= head_of([writer]):
                return

    dawdling = asyncio.create_task(dawdle())
    quick = asyncio.create_task(fast.watch_until(lambda: False))
    await until(lambda: slow.got("synced") and fast.got("synced"))
    for n in range(100):
        await writer.append((1, 5, 9)[n % 3])
    written.set()
    async with asyncio.timeout(120):
        await dawdling
        await until(lambda: fast.at >= head_of([writer]))
    quick.cancel()
    await channel.close()
    for watcher in (slow, fast):
        assert judge(watcher.messages, appends_of([writer]), after=2, latest=True).told() == {}
        assert watcher.row_count + watcher.folded_count == writer.row_count
    assert slow.row_count < writer.row_count / 2, "it never had to wait"


async def test_a_terminal_row_is_told_however_slow_the_watcher(rig: Rig, start: Start) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    seq = 0
    for n in range(300):
        rows = []
        for status in (RUNNING, RUNNING, FINISHED if n % 2 else FAILED):
            seq += 1
            rows.append(task_row(job_id, f"t{n}", seq, status=status))
        await writer.send(rows)
    await writer.done()
    for replica in (rig, await start()):
        watcher = Watcher(replica.stub, after=2, mode=LATEST, keep_responses=True)
        await watcher.catch_up(902)
        last = {s.task_name: s.status for m in watcher.responses for s in m.delta.states}
        assert last == {f"t{n}": FINISHED if n % 2 else FAILED for n in range(300)}
        assert watcher.folded_count >= 600


async def test_watchers_of_the_latest_that_resume_at_random_miss_and_repeat_nothing(
    start: Start,
) -> None:
    rig = await start(ring_rows=200)
    chance = random.Random(12)
    jobs = [await external_job(rig.stub) for _ in range(2)]
    writers = [Writer(rig.stub, job_id, seed=n) for n, (_, job_id) in enumerate(jobs)]
    watchers = [
        Watcher(rig.stub, after=4, interval=0.1, mode=LATEST),
        Watcher(
            rig.stub,
            after=4,
            interval=0.1,
            mode=LATEST,
            filter=pb.StateFilter(kit_ids=[jobs[0][0]]),
        ),
    ]
    end = time.monotonic() + 2

    def over() -> bool:
        return time.monotonic() > end and all(each.resume_count >= 5 for each in watchers)

    async def hop(watcher: Watcher) -> None:
        while not over():
            stop = time.monotonic() + chance.uniform(0.0, 0.1)
            await watcher.watch_until(lambda stop=stop: time.monotonic() > stop)
            watcher.resumed()
            await asyncio.sleep(chance.uniform(0, 0.2))

    await asyncio.gather(
        *(writer.write_until(over) for writer in writers),
        *(hop(watcher) for watcher in watchers),
    )
    for watcher, of in zip(watchers, (writers, writers[:1]), strict=True):
        await watcher.catch_up(head_of(writers))
        faults = judge(watcher.messages, appends_of(of), after=4, latest=True)
        assert faults.told() == {}
        assert watcher.row_count + watcher.folded_count == sum(w.row_count for w in of)
        assert watcher.resume_count >= 5


async def test_a_message_of_the_latest_stays_small_whatever_waits(
    rig: Rig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    for n in range(30):
        await writer.send([task_row(job_id, f"t{n}-{m}") for m in range(100)])
    await writer.done()
    replica = await start()
    watcher = Watcher(replica.stub, after=2, mode=LATEST)
    await watcher.catch_up(3002)
    assert max(len(message.rows) for message in watcher.messages) < 2 * watch_rows.STRETCH_ROWS
    monkeypatch.setattr(watch_rows, "FOLD_ROWS", 500)
    watcher = Watcher(replica.stub, after=2, mode=LATEST)
    await watcher.catch_up(3002)
    assert len([m for m in watcher.messages if m.rows]) >= 3


async def test_an_unknown_mode_is_refused(rig: Rig) -> None:
    call = rig.stub.WatchStates(pb.WatchStatesRequest(mode=7))  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "LATEST_PER_TASK" in (refused.value.details() or "")


async def test_many_who_follow_everything_are_woken_no_oftener_than_the_budget_allows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the budget of the product divided by 125, so that few watchers are many."""
    from vistaflow_services.registry.log import turns

    monkeypatch.setattr(turns, "MOST_DELIVERIES_A_SECOND", 80)
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id, sizes=(1,))
    watchers = [Watcher(rig.stub, after=2) for _ in range(40)]
    one_kit = Watcher(rig.stub, after=2, filter=pb.StateFilter(kit_ids=[1]))
    everyone = [*watchers, one_kit]
    watching = [asyncio.create_task(w.watch_until(lambda: False)) for w in everyone]
    await until(lambda: all(w.got("synced") for w in everyone))
    began = time.monotonic()
    await writer.write_until(lambda: time.monotonic() > began + 2)
    await until(lambda: all(w.at >= head_of([writer]) for w in everyone))
    seconds = time.monotonic() - began
    for each in watching:
        each.cancel()
    for watcher in everyone:
        assert judge(watcher.messages, appends_of([writer]), after=2).told() == {}
    deliveries = sum(len([m for m in w.messages if m.rows]) for w in watchers)
    assert deliveries <= 80 * seconds + 2 * len(watchers)
    # Watchers of a kit have turns of their own.
    assert len([m for m in one_kit.messages if m.rows]) > 2 * deliveries / len(watchers)


def test_an_unfiltered_watch_picks_no_rows() -> None:
    assert not watch_rows.Watch(filter=StateFilter(), interval=1, position=0).picks_rows
