"""Watching at the edges: of what is kept, of clocks that are wrong, and of what strangers hold."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import any_pb2
from psycopg.conninfo import make_conninfo

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep.retention import Policy, apply

sys.path.insert(0, str(Path(__file__).parent))

from process import RegistryProcess
from rig import Rig, Start
from traffic import Watcher, Writer, connect, external_job, until

AT_ONCE = Policy(finished_days=1e-9, failed_days=1e-9, canceled_days=1e-9)


# What is no longer kept.


async def outcome(stub: Any, after: int, head: int) -> tuple[str, list[int]]:
    """How a watch from a place goes: to the head, or to a word that says it cannot."""
    revisions: list[int] = []
    call = stub.WatchStates(pb.WatchStatesRequest(after_revision=after), timeout=60)
    try:
        async for message in call:
            revisions += [row.revision for row in message.delta.states]
            if message.HasField("end"):
                assert message.end.code == pb.END_REASON_EXPIRED
                return "expired", revisions
            if message.revision >= head:
                return "whole", revisions
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
            raise
        return "expired", revisions
    finally:
        call.cancel()
    raise AssertionError("the watch ended without a word")


async def at_the_edge(rig: Rig, rounds: int) -> None:
    """Rows are dropped under watchers, and watches begin around the oldest row that is left."""
    stub, chance = rig.stub, random.Random(8)
    expired = whole = 0
    for number in range(rounds):
        _, job_id = await external_job(stub)
        writer = Writer(stub, job_id, seed=number)
        for _ in range(14):
            await writer.append(50, patience=120)
        over = common.State(job_id=job_id, status=common.STATUS_FINISHED)
        head = (await stub.AppendStates(pb.AppendStatesRequest(states=[over]))).revision
        before = (await stub.GetServerInfo(pb.GetServerInfoRequest())).oldest_revision
        places = [chance.randrange(before - 1, head) for _ in range(4)]
        under = [asyncio.create_task(outcome(stub, place, head)) for place in places]
        await asyncio.sleep(chance.uniform(0, 0.01))
        await asyncio.to_thread(apply, rig.dsn, Config.schema, AT_ONCE)
        oldest = (await stub.GetServerInfo(pb.GetServerInfoRequest())).oldest_revision
        around = [place for place in range(oldest - 4, oldest + 3) if place >= 0]
        told = [*await asyncio.gather(*under)]
        told += await asyncio.gather(*(outcome(stub, place, head) for place in around))
        for place, (how, revisions) in zip([*places, *around], told, strict=True):
            assert revisions == list(range(place + 1, place + 1 + len(revisions)))
            assert how == "expired" or place + len(revisions) == head
        for place, (how, revisions) in zip(around, told[len(places) :], strict=True):
            # What is gone may still be in memory.
            assert how == "whole" or (place < oldest - 1 and not revisions)
            expired, whole = expired + (how == "expired"), whole + (how == "whole")
    assert expired >= rounds, "too little was gone: the run says nothing"
    assert whole >= 2 * rounds


async def test_around_the_oldest_row_that_is_kept_a_watch_is_whole_or_says_it_cannot_be(
    start: Start,
) -> None:
    # Little is kept in memory, so that the past comes from the database.
    await at_the_edge(await start(ring_rows=60, partition_size=500), 4)


@pytest.mark.slow
async def test_a_hundred_times_a_watch_at_the_edge_is_whole_or_says_it_cannot_be(
    start: Start,
) -> None:
    await at_the_edge(await start(ring_rows=60, partition_size=500), 100)


# What strangers hold.


@asynccontextmanager
async def held(conninfo: str, **where: str) -> AsyncIterator[Any]:
    """A writing transaction that stays open."""
    async with await psycopg.AsyncConnection.connect(make_conninfo(conninfo, **where)) as stranger:
        await stranger.execute("CREATE TABLE IF NOT EXISTS stranger (n int)")
        await stranger.execute("INSERT INTO stranger VALUES (1)")
        yield stranger
        assert stranger.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS
        await stranger.rollback()


@pytest.mark.parametrize("seconds", [1.0, pytest.param(60.0, marks=pytest.mark.slow)])
async def test_a_strangers_open_transaction_holds_up_no_watch(
    rig: Rig, postgres: str, seconds: float
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    watcher = Watcher(rig.stub, after=2)
    watching = asyncio.create_task(watcher.watch_until(lambda: False))
    appends = 0
    async with held(postgres, dbname="postgres"), held(rig.dsn):
        end = time.monotonic() + seconds
        while time.monotonic() < end or appends < 20:
            await writer.append(1)
            head = writer.appends[-1][-1].revision
            # It comes while both transactions are open.
            await until(lambda head=head: watcher.at >= head)
            appends += 1
            await asyncio.sleep(0.01)
    watching.cancel()


# Clocks that are wrong.

FAKETIME = next(
    iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), Path("nowhere")
)
LEASE_SECONDS = 6.0


class Clocked(RegistryProcess):
    """A registry whose wall clock is what a file says."""

    def tell(self, offset: str) -> None:
        partial = self.home / "clock.new"
        partial.write_text(offset)
        partial.replace(self.home / "clock")

    async def start(self) -> RegistryProcess:
        self.settings["LEASE_SECONDS"] = f"{LEASE_SECONDS:g}"
        self.variables = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.home / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        return await super().start()


@pytest.mark.slow
@pytest.mark.skipif(
    not FAKETIME.exists() or shutil.which("faketime") is None,
    reason="libfaketime is not there; Debian has it in `faketime`",
)
@pytest.mark.parametrize("offsets", [("+1h", "-1h"), ("+1d", "-1d")])
async def test_clocks_that_are_wrong_and_jump_change_neither_order_nor_leases(
    database: str, tmp_path: Path, offsets: tuple[str, str]
) -> None:
    replicas: list[Clocked] = []
    for number, offset in enumerate(offsets):
        home = tmp_path / str(number)
        home.mkdir()
        replica = Clocked(database, home)
        replica.tell(offset)
        replicas.append(replica)
        await replica.start()
    connections = [connect(replica.address) for replica in replicas]
    stubs: list[Any] = [stub for _, stub in connections]

    # Each is wrong by what it was told, else nothing is shown.
    for stub, offset in zip(stubs, offsets, strict=True):
        (here, *_) = (await stub.GetServerInfo(pb.GetServerInfoRequest())).services
        wrong = (here.seen_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
        assert wrong * (1 if offset[0] == "+" else -1) > 3_000

    spec = any_pb2.Any(type_url="a/b", value=b"x")
    granted, calls = [], []
    for number, stub in enumerate(stubs):
        job = pb.NewJob(job_type=common.JOB_TYPE_QUERY, spec=spec)
        job_id = (await stub.CreateJob(pb.CreateJobRequest(job=job))).job.job_id
        call = stub.LeaseJobs()
        hello = pb.WorkerHello(worker=f"w{number}", job_types=[common.JOB_TYPE_QUERY], capacity=1)
        await call.write(pb.LeaseJobsRequest(hello=hello))
        while not (message := await call.read()).HasField("grant"):
            pass
        granted.append(message.grant.job.job_id)
        calls.append(call)
        assert job_id == granted[-1]

    writers = []
    for number in range(4):
        _, external = await external_job(stubs[number % 2])
        writers.append(Writer(stubs[number % 2], external, seed=number))
    watcher = Watcher(stubs[0], after=0)
    watching = asyncio.create_task(watcher.watch_until(lambda: False))
    end = time.monotonic() + 3 * LEASE_SECONDS
    writing = [
        asyncio.create_task(writer.write_until(lambda: time.monotonic() > end))
        for writer in writers
    ]
    jumps = ["-2d", "+3h", "+0", "-1h", offsets[0]]
    while time.monotonic() < end:
        if jumps:
            replicas[len(jumps) % 2].tell(jumps.pop())
        for number, call in enumerate(calls):
            sign = pb.AttemptProgress(job_id=granted[number], attempt=1)
            await call.write(pb.LeaseJobsRequest(heartbeat=pb.Heartbeat(attempts=[sign])))
        await asyncio.sleep(LEASE_SECONDS / 6)
    await asyncio.gather(*writing)
    for job_id in granted:
        job = (await stubs[0].GetJob(pb.GetJobRequest(job_id=job_id))).job
        assert (job.status, job.attempt) == (common.STATUS_RUNNING, 1), "its lease was kept"

    # Silent workers lose theirs, and no later than they would.
    for call in calls:
        call.cancel()
    lost = pb.StateFilter(job_ids=granted, statuses=[common.STATUS_FAILED])
    async with asyncio.timeout(LEASE_SECONDS + 20):
        told: set[str] = set()
        async for message in stubs[1].WatchStates(pb.WatchStatesRequest(filter=lost)):
            told |= {row.job_id for row in message.delta.states}
            if told == set(granted):
                break

    head = (await stubs[0].GetServerInfo(pb.GetServerInfoRequest())).revision
    await until(lambda: watcher.at >= head, seconds=120)
    watching.cancel()
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute(
            "SELECT id, created_at FROM vistadb_test.mlops_totalstate_table ORDER BY id"
        )
        rows = await cursor.fetchall()
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert [row.revision for message in watcher.messages for row in message.rows] == [
        row[0] for row in rows
    ]
    times = [row[1] for row in rows]
    assert times == sorted(times)
    assert all(abs((datetime.now(UTC) - at).total_seconds()) < 600 for at in times)
    for channel, _ in connections:
        await channel.close()
    for replica in replicas:
        await replica.stop()
