"""Two registries on one database behind one address list, one of them killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from process import RegistryProcess
from test_stage import is_over, new_job
from test_stage import until as job_until
from traffic import connect, external_job, until

from vistaflow import aio
from vistaflow._rpc.replicas import ReplicaChannel
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.models import Delta
from vistaflow_services.core.registry_client import RegistryClient, status_word, struct_to_dict

CORE = Path(__file__).parents[1] / "core"
GO_ON_SECONDS = 5.0

Pair = list[RegistryProcess]


def go_on_seconds(writers: Sequence[Writing]) -> float:
    """How soon clients must go on, beside what a busy machine makes of any call."""
    return GO_ON_SECONDS + 10 * max(each.longest_pause() for each in writers)


@pytest.fixture
async def pair(database: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """Two registries of one log."""
    settings = {"LEASE_SECONDS": "10"}
    replicas = [
        RegistryProcess(dsn=database, home=tmp_path / name, settings=settings) for name in "ab"
    ]
    for each in replicas:
        each.home.mkdir()
    await asyncio.gather(*(each.start() for each in replicas))
    yield replicas
    for each in replicas:
        await each.stop()


def addresses(pair: Pair) -> str:
    return ",".join(each.address for each in pair)


def turn_to(channel: grpc.aio.Channel, at: int) -> None:
    """Makes a client begin with a certain replica."""
    assert isinstance(channel, ReplicaChannel)
    channel._present = at


async def services(stub: Any) -> set[str]:
    """The services that serve, as a replica knows them."""
    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    return {each.name for each in info.services if each.status == "SERVING"}


class Writing:
    """A client that appends rows of one job, one after another."""

    def __init__(self, address: str, at: int, job_id: str, timeout: float = 60) -> None:
        self.client = aio.connect(address, timeout=timeout)
        turn_to(self.client._channel, at)
        self.job_id = job_id
        self.acked: dict[int, int] = {}
        """Revision by seq."""
        self.at: list[float] = []

    async def run(self) -> None:
        seq = 0
        while True:
            seq += 1
            state = common.State(
                job_id=self.job_id,
                status=common.STATUS_RUNNING,
                task_name=f"task-{seq % 7}",
                attempt=1,
                seq=seq,
            )
            answer = await self.client.append_states([state])
            assert answer.results[0].verdict in (pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE)
            self.acked[seq] = answer.results[0].revision
            self.at.append(time.monotonic())
            await asyncio.sleep(0.005)

    def pause_around(self, moment: float) -> float:
        """How long nothing was acknowledged from a moment on."""
        after = [at for at in self.at if at > moment]
        assert after, "it never went on"
        return after[0] - moment

    def longest_pause(self) -> float:
        """The longest time between two acknowledgements so far."""
        return max((b - a for a, b in itertools.pairwise(self.at)), default=0.0)


class Watching:
    """A client that watches everything."""

    def __init__(self, address: str, at: int) -> None:
        self.client = aio.connect(address, timeout=60)
        turn_to(self.client._channel, at)
        self.revisions: list[int] = []
        self.at: list[float] = []

    async def run(self) -> None:
        async for event in self.client.watch():
            if isinstance(event, Delta):
                self.revisions += [row.revision for row in event.states]
                self.at.append(time.monotonic())


@pytest.mark.parametrize(
    "timed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "timed"]
)
async def test_a_killed_replica_costs_writers_and_watchers_no_row(
    pair: Pair, database: str, timed: bool
) -> None:
    channel, stub = connect(pair[0].address)
    jobs = [(await external_job(stub))[1] for _ in range(4)]
    await channel.close()
    writers = [Writing(addresses(pair), place % 2, job) for place, job in enumerate(jobs)]
    watchers = [Watching(addresses(pair), at) for at in (0, 1)]
    tasks = [asyncio.create_task(each.run()) for each in (*writers, *watchers)]
    try:
        # A busy machine may take long; a client that gave up is told below.
        await until(
            lambda: any(map(asyncio.Task.done, tasks)) or all(len(w.acked) > 30 for w in writers),
            seconds=180,
        )
        assert not any(map(asyncio.Task.done, tasks)), [each for each in tasks if each.done()]
        limit = go_on_seconds(writers)
        killed = time.monotonic()
        await pair[0].kill()
        # They go on while the one that was killed is still away.
        await until(
            lambda: all(each.at and each.at[-1] > killed + 1 for each in (*writers, *watchers)),
            seconds=120,
        )
        await pair[0].start()
        count = {each.job_id: len(each.acked) for each in writers}
        await until(
            lambda: all(len(each.acked) > count[each.job_id] + 30 for each in writers), seconds=120
        )
        for task in tasks[:4]:
            task.cancel()
        await asyncio.wait(tasks[:4])
        last = max(revision for each in writers for revision in each.acked.values())
        await until(lambda: all(each.revisions[-1:] >= [last] for each in watchers), seconds=120)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for each in (*writers, *watchers):
            await each.client.close()
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    if timed:
        assert max(each.pause_around(killed) for each in writers) < limit
        for each in watchers:
            assert min(at for at in each.at if at > killed) - killed < limit
    for each in watchers:
        assert each.revisions == list(range(1, len(each.revisions) + 1)), "missed or repeated"
    with psycopg.connect(database) as connection:
        for each in writers:
            rows = connection.execute(
                "SELECT seq, id FROM vistadb_test.mlops_totalstate_table"
                " WHERE job_id = %s AND task_name <> '' ORDER BY id",
                [each.job_id],
            ).fetchall()
            assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1)), "lost or twice"
            assert each.acked.items() <= dict(rows).items()
            assert len(each.acked) > 60


async def test_reads_and_watches_of_either_replica_wait_for_what_the_other_committed(
    pair: Pair,
) -> None:
    opened = [connect(each.address) for each in pair]
    stubs = [stub for _, stub in opened]
    kit_id, job_id = await external_job(stubs[0])
    for number in range(40):
        here, there = stubs[number % 2], stubs[1 - number % 2]
        state = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name=f"t{number}")
        revision = (await here.AppendStates(pb.AppendStatesRequest(states=[state]))).revision
        kit = await there.GetKit(pb.GetKitRequest(kit_id=kit_id, min_revision=revision), timeout=60)
        assert kit.kit.revision == revision
        assert len(kit.kit.jobs[0].tasks) == number + 1
        job = await there.GetJob(pb.GetJobRequest(job_id=job_id, min_revision=revision), timeout=60)
        assert job.job.tasks[-1].revision == revision
        watch = there.WatchStates(pb.WatchStatesRequest(after_revision=revision), timeout=60)
        assert (await watch.read()).synced.epoch
        watch.cancel()
    for channel, _ in opened:
        await channel.close()


async def test_a_stage_service_keeps_its_attempt_when_its_replica_is_killed(
    pair: Pair, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(CORE),
        "VISTAFLOW_HOME": str(tmp_path),
        "VISTAFLOW_REGISTRY": addresses(pair),
    }
    stage = await asyncio.create_subprocess_exec(
        sys.executable, str(CORE / "stage_under_test.py"), env=environment
    )
    client = RegistryClient(addresses(pair), actor="test")
    try:
        job = await new_job(client, do="steps", count=80, seconds=0.08)
        for replica in pair:
            await job_until(client, job.job_id, lambda job: bool(job.tasks))
            await asyncio.sleep(0.5)
            await replica.kill()
            await asyncio.sleep(2.0)
            await replica.start()
        job = await job_until(client, job.job_id, is_over, seconds=120)
        assert (status_word(job.status), job.attempt) == ("FINISHED", 1)
        assert struct_to_dict(job.result)["count"] == 80
        for replica in pair:
            channel, stub = connect(replica.address)
            for _ in range(300):
                if "doe" in (known := await services(stub)):
                    break
                await asyncio.sleep(0.2)
            assert "doe" in known, "services announce themselves to every replica"
            await channel.close()
    finally:
        await client.close()
        with contextlib.suppress(ProcessLookupError):
            stage.terminate()
        await stage.wait()


@pytest.mark.slow
async def test_writers_and_readers_of_a_frozen_replica_go_on_and_nothing_is_written_twice(
    pair: Pair, database: str
) -> None:
    channel, stub = connect(pair[1].address)
    made = [await external_job(stub) for _ in range(2)]
    writers = [Writing(addresses(pair), 0, job_id, timeout=6) for _, job_id in made]
    reader = aio.connect(addresses(pair), timeout=6)
    turn_to(reader._channel, 0)
    tasks = [asyncio.create_task(each.run()) for each in writers]
    try:
        await until(lambda: all(len(each.acked) > 30 for each in writers), seconds=120)
        limit = go_on_seconds(writers)
        pair[0].freeze()
        frozen = time.monotonic()
        told = max(revision for each in writers for revision in each.acked.values())
        kit = await reader.kit(made[0][0], min_revision=told)
        assert time.monotonic() - frozen < limit
        assert kit.jobs[0].tasks
        count = {each.job_id: len(each.acked) for each in writers}
        await until(
            lambda: all(len(each.acked) > count[each.job_id] + 50 for each in writers), seconds=120
        )
        for each in writers:
            assert each.pause_around(frozen + 0.05) < limit
        # What the frozen one had taken in comes late, and must not count.
        pair[0].thaw()
        count = {each.job_id: len(each.acked) for each in writers}
        await until(
            lambda: all(len(each.acked) > count[each.job_id] + 50 for each in writers), seconds=120
        )
    finally:
        pair[0].thaw()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for client in (reader, *(each.client for each in writers)):
            await client.close()
        await channel.close()
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    with psycopg.connect(database) as connection:
        for each in writers:
            rows = connection.execute(
                "SELECT seq, id FROM vistadb_test.mlops_totalstate_table"
                " WHERE job_id = %s AND task_name <> '' ORDER BY id",
                [each.job_id],
            ).fetchall()
            assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1)), "lost or twice"
            assert each.acked.items() <= dict(rows).items()


@pytest.mark.slow
async def test_a_frozen_replica_is_left_behind_within_the_timeout(pair: Pair) -> None:
    client = aio.connect(addresses(pair), timeout=6)
    turn_to(client._channel, 0)
    await client.server_info()
    pair[0].freeze()
    try:
        began = time.monotonic()
        kit = await client.create_kit("after", ["DOE"])
        assert kit.kit_id
        assert time.monotonic() - began < GO_ON_SECONDS
    finally:
        pair[0].thaw()
        await client.close()
