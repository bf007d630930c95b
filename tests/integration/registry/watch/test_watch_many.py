"""WatchMany through gRPC on a real Postgres: several watches, one stream."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from pathlib import Path

import grpc
import psycopg
import pytest

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.watch import many as watch_many

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import Rig, Start
from traffic import Watcher, Writer, appends_of, external_job, head_of, until
from watch_checker import judge

LATEST = pb.WATCH_MODE_LATEST_PER_TASK


class Many:
    """One stream; what each watch was sent is noted by a watcher of its own."""

    def __init__(self, rig: Rig) -> None:
        self.watchers: dict[str, Watcher] = {}
        self.ends: dict[str, list[pb.WatchStatesResponse]] = {}
        self.error: grpc.aio.AioRpcError | None = None
        self.call = rig.stub.WatchMany()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self.call.read()) is not grpc.aio.EOF:
                if message.event.HasField("end"):
                    self.ends.setdefault(message.name, []).append(message.event)
                else:
                    assert message.name not in self.ends or message.name in self.watchers
                self.watchers[message.name].note(message.event)
        except grpc.aio.AioRpcError as error:
            self.error = error

    async def open(self, name: str, watcher: Watcher) -> Watcher:
        self.watchers[name] = watcher
        open_ = pb.OpenWatch(name=name, watch=watcher.request())
        await self.call.write(pb.WatchManyRequest(open=open_))
        return watcher

    async def close(self, name: str) -> None:
        await self.call.write(pb.WatchManyRequest(close=pb.CloseWatch(name=name)))

    async def ended(self, name: str) -> pb.WatchStatesResponse:
        await until(lambda: name in self.ends)
        (end,) = self.ends[name]
        return end

    def cancel(self) -> None:
        self.call.cancel()
        self.reading.cancel()


async def test_each_watch_keeps_every_promise_by_itself(start: Start) -> None:
    rig = await start(ring_rows=200)
    chance = random.Random(21)
    jobs = [await external_job(rig.stub) for _ in range(3)]
    writers = [Writer(rig.stub, job_id, seed=n) for n, (_, job_id) in enumerate(jobs)]
    for writer in writers:
        for _ in range(20):
            await writer.append(chance.choice((1, 5, 30)))
    many = Many(rig)
    all_ = await many.open("all", Watcher(rig.stub, after=6, interval=0.2))
    latest = await many.open("latest", Watcher(rig.stub, after=6, interval=0.2, mode=LATEST))
    kits = {}
    for n, (kit_id, _) in enumerate(jobs):
        one = Watcher(rig.stub, after=6, interval=0.2, filter=pb.StateFilter(kit_ids=[kit_id]))
        kits[n] = await many.open(f"kit {n}", one)
    for _ in range(60):
        await chance.choice(writers).append(chance.choice((1, 2, 25)))
    head = head_of(writers)
    await until(lambda: all(w.at >= head for w in many.watchers.values()))
    assert judge(all_.messages, appends_of(writers), after=6, silence=30.0).told() == {}
    assert judge(latest.messages, appends_of(writers), after=6, latest=True).told() == {}
    for n, watcher in kits.items():
        assert judge(watcher.messages, appends_of([writers[n]]), after=6).told() == {}
        assert watcher.got("synced")
    many.cancel()


async def test_a_watch_is_closed_by_its_name_and_opened_again_where_it_was(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    many = Many(rig)
    one, other = Watcher(rig.stub, after=2), Watcher(rig.stub, after=2)
    await many.open("one", one)
    await many.open("other", other)
    await writer.append(5)
    await until(lambda: one.at == other.at == 7)
    await many.close("one")
    end = await many.ended("one")
    assert (end.end.code, end.revision) == (pb.END_REASON_CLOSED, 7)
    await writer.append(5)
    await until(lambda: other.at == 12)
    assert one.at == 7
    await many.close("one")  # twice is no fault
    many.ends.clear()
    one.resumed()
    await many.open("one", one)
    await until(lambda: one.at == 12)
    for watcher in (one, other):
        messages = [m for m in watcher.messages if m.kind != "end"]
        assert judge(messages, appends_of([writer]), after=2).told() == {}
    assert many.error is None
    many.cancel()


async def test_what_is_wrong_with_one_watch_ends_that_one_with_its_reason(
    rig: Rig, start: Start
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("UPDATE vistadb_test.head SET oldest_id = 2")
    replica = await start()
    many = Many(replica)
    good = await many.open("good", Watcher(replica.stub, after=2))
    bad = {
        "malformed": pb.WatchStatesRequest(filter=pb.StateFilter(kit_ids=[0])),
        "expired": pb.WatchStatesRequest(),
        "beyond": pb.WatchStatesRequest(after_revision=99),
        "another log": pb.WatchStatesRequest(epoch=str(uuid.uuid4()), after_revision=2),
    }
    for name, watch in bad.items():
        many.watchers[name] = Watcher(replica.stub)
        await many.call.write(pb.WatchManyRequest(open=pb.OpenWatch(name=name, watch=watch)))
    ends = {name: (await many.ended(name)).end for name in bad}
    assert {name: end.code for name, end in ends.items()} == {
        "malformed": pb.END_REASON_INVALID,
        "expired": pb.END_REASON_EXPIRED,
        "beyond": pb.END_REASON_EXPIRED,
        "another log": pb.END_REASON_EPOCH_CHANGED,
    }
    assert "filter.kit_ids[0]" in ends["malformed"].reason
    assert "before revision 2 are no longer kept" in ends["expired"].reason
    await writer.append(3)
    await until(lambda: good.at == 5)
    many.cancel()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "open.name: is required"),
        ("n" * 101, "open.name: is 101 characters long"),
        ("a\x00b", "open.name: must not hold control characters"),
        ("taken", "open.name: 'taken' is the name of an open watch, which continues"),
    ],
    ids=["no name", "a long name", "a control character", "a taken name"],
)
async def test_a_watch_whose_name_cannot_be_is_refused_and_the_others_go_on(
    rig: Rig, name: str, told: str
) -> None:
    call = rig.stub.WatchMany()
    opened = pb.WatchStatesRequest()
    for each in ("taken", "other", name):
        open_ = pb.OpenWatch(name=each, watch=opened)
        await call.write(pb.WatchManyRequest(open=open_))
    ended: list[tuple[str, pb.End]] = []
    while not ended:
        message = await call.read()
        if message.event.HasField("end"):
            ended.append((message.name, message.event.end))
    assert [(each, end.code) for each, end in ended] == [(name[:100], pb.END_REASON_INVALID)]
    assert ended[0][1].reason.startswith(told)

    await external_job(rig.stub)
    at = dict.fromkeys(("taken", "other"), 0)
    while min(at.values()) < 2:
        message = await call.read()
        assert not message.event.HasField("end")
        at[message.name] = message.event.revision
    call.cancel()


async def test_a_message_that_neither_opens_nor_closes_a_watch_ends_the_stream(rig: Rig) -> None:
    many = Many(rig)
    taken = await many.open("taken", Watcher(rig.stub))
    await until(lambda: taken.got("synced"))
    await many.call.write(pb.WatchManyRequest())
    await until(many.reading.done)
    assert many.error is not None
    assert many.error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "open" in (many.error.details() or "")


async def test_one_watch_too_many_is_ended_and_the_others_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_many, "MAX_WATCHES", 3)
    many = Many(rig)
    for n in range(4):
        await many.open(str(n), Watcher(rig.stub))
    end = await many.ended("3")
    assert end.end.code == pb.END_REASON_INVALID
    assert "at most 3" in end.end.reason
    await external_job(rig.stub)
    await until(lambda: [many.watchers[n].at for n in "012"] == [2, 2, 2])
    many.cancel()


async def test_a_draining_registry_ends_each_watch_and_then_the_stream(rig: Rig) -> None:
    await external_job(rig.stub)
    many = Many(rig)
    for name in "ab":
        await many.open(name, Watcher(rig.stub))
    await until(lambda: all(w.got("synced") for w in many.watchers.values()))
    rig.drain()
    await until(many.reading.done)
    assert many.error is None
    for name in "ab":
        (end,) = many.ends[name]
        assert (end.end.code, end.revision) == (pb.END_REASON_DRAINING, 2)


async def test_what_is_kept_for_a_caller_who_does_not_read_is_bounded(rig: Rig) -> None:
    """30 watches of 12 MB of rows: what they hold together is a few messages."""
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id, metadata="x" * 30_000)
    for _ in range(20):
        await writer.append(20)
    held = 0
    original = watch_many._named

    def count(name: str, event: object) -> bytes:
        nonlocal held
        message = original(name, event)  # type: ignore[arg-type]
        held += len(message)
        return message

    watch_many._named = count
    try:
        call = rig.stub.WatchMany()
        for n in range(30):
            open_ = pb.OpenWatch(name=str(n), watch=pb.WatchStatesRequest(after_revision=2))
            await call.write(pb.WatchManyRequest(open=open_))
        await until(lambda: held > 1e6)
        await asyncio.sleep(1.0)
        ready = watch_many.OUTBOX_MESSAGES + watch_many.READING
        # What gRPC took off the outbox into its own buffers is in it too.
        assert held < (ready + 4) * 1.5e6
        rows = 0
        async with asyncio.timeout(120):
            async for message in call:
                rows += len(message.event.delta.states)
                if rows == 30 * 400:
                    break
        call.cancel()
    finally:
        watch_many._named = original


async def test_a_state_filter_with_its_modes_works_within_a_stream(rig: Rig) -> None:
    kit_id, job_id = await external_job(rig.stub)
    many = Many(rig)
    watcher = Watcher(
        rig.stub,
        snapshot=True,
        include_left=True,
        filter=pb.StateFilter(kit_ids=[kit_id], statuses=[common.STATUS_RUNNING]),
        keep_responses=True,
    )
    await many.open("running", watcher)
    await until(lambda: watcher.got("synced"))
    rows = [common.State(job_id=job_id, status=common.STATUS_FINISHED)]
    await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    await until(lambda: watcher.at == 3)
    snapshot, synced, delta = watcher.responses
    assert [s.status for s in snapshot.snapshot.states] == [common.STATUS_RUNNING]
    assert synced.HasField("synced")
    assert not delta.delta.states
    assert [s.status for s in delta.delta.left] == [common.STATUS_FINISHED]
    many.cancel()
