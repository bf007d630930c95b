"""The promises of WatchStates, kept under load and through crashes, and a log that breaks them."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psycopg
import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))

from process import RegistryProcess
from traffic import Watcher, Writer, appends_of, connect, external_job, head_of, until
from watch_checker import Faults, Message, Seen, judge

WRITERS = 8
SECONDS = 10.0
# Below these a run says nothing, and goes on.
LEAST_APPENDS = 400
LEAST_ROWS = 2000
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def registry(database: str, tmp_path: Path) -> AsyncIterator[RegistryProcess]:
    process = RegistryProcess(database, tmp_path)
    yield await process.start()
    assert await process.stop() == 0


@asynccontextmanager
async def clients(registry: RegistryProcess) -> AsyncIterator[Callable[[], object]]:
    """Makes stubs, each with a connection of its own."""
    channels: list[grpc.aio.Channel] = []

    def stub() -> object:
        channel, made = connect(registry.address)
        channels.append(channel)
        return made

    yield stub
    for channel in channels:
        await channel.close()


async def writers_of(stub: Callable[[], object], count: int, **options: object) -> list[Writer]:
    """Writers, each with a connection and a running job of its own."""
    writers = []
    for seed in range(count):
        mine = stub()
        _, job_id = await external_job(mine)  # type: ignore[arg-type]
        writers.append(Writer(mine, job_id, seed=seed, **options))  # type: ignore[arg-type]
    return writers


def enough(writers: list[Writer]) -> bool:
    rows = sum(writer.row_count for writer in writers)
    return len(appends_of(writers)) >= LEAST_APPENDS and rows >= LEAST_ROWS


async def test_every_acked_row_is_delivered_once_and_in_order_live_and_on_replay(
    registry: RegistryProcess,
) -> None:
    async with clients(registry) as stub:
        writers = await writers_of(stub, WRITERS)
        start = 2 * WRITERS
        live = [Watcher(stub(), after=start, interval=0.5) for _ in range(2)]  # type: ignore[arg-type]
        end = time.monotonic() + SECONDS
        writing = asyncio.gather(
            *(
                writer.write_until(lambda: time.monotonic() > end and enough(writers))
                for writer in writers
            )
        )
        watching = [asyncio.create_task(w.watch_until(writing.done)) for w in live]
        await writing
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

        head = head_of(writers)
        replayed = Watcher(stub(), after=start)  # type: ignore[arg-type]
        await replayed.catch_up(head)
        for watcher in live:
            if watcher.at < head:
                watcher.resumed()
                await watcher.catch_up(head)
        appends = appends_of(writers)
        assert sum(map(len, appends)) == head - start, "revisions are dense"
        for watcher in [*live, replayed]:
            assert watcher.row_count == head - start
            assert judge(watcher.messages, appends, after=start).told() == {}


async def _sequence_numbered(dsn: str, seconds: float) -> tuple[Faults, int]:
    """The obvious log: a bigserial id, one transaction a row, a reader of `id > last`."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as setup:
        await setup.execute("DROP TABLE IF EXISTS naive_log")
        await setup.execute("CREATE TABLE naive_log (id bigserial PRIMARY KEY, key text)")
    acked: list[Seen] = []
    messages: list[Message] = []
    writing = True

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for number in itertools.count():
                if not writing:
                    return
                key = f"{writer}/{number}"
                cursor = await connection.execute(
                    "INSERT INTO naive_log (key) VALUES (%s) RETURNING id", (key,)
                )
                row = await cursor.fetchone()
                assert row is not None
                await asyncio.sleep(chance.uniform(0, 0.005))
                await connection.commit()
                acked.append(Seen(row[0], key))

    async def watch(connection: psycopg.AsyncConnection[tuple[int, str]], last: int) -> int:
        cursor = await connection.execute(
            "SELECT id, key FROM naive_log WHERE id > %s ORDER BY id", (last,)
        )
        rows = tuple(Seen(*row) for row in await cursor.fetchall())
        if not rows:
            return last
        messages.append(Message(kind="delta", revision=rows[-1].revision, rows=rows))
        return rows[-1].revision

    writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        last = 0
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end or len(acked) <= 500:
            last = await watch(connection, last)
        writing = False
        await asyncio.gather(*writers)
        await watch(connection, last)
    return judge(messages, [[row] for row in acked]), len(acked)


async def test_a_log_numbered_by_a_sequence_and_read_by_id_after_last_loses_rows(
    database: str,
) -> None:
    faults, acked = await _sequence_numbered(database, 3.0)
    assert "complete" in faults.told()
    assert len(faults.complete) > acked / 1000


async def test_a_watcher_that_does_not_read_costs_bounded_memory_and_loses_nothing(
    registry: RegistryProcess,
) -> None:
    async with clients(registry) as stub:
        writers = await writers_of(stub, 2, sizes=(500,), metadata="x" * 1000)
        slow = Watcher(stub(), after=4)  # type: ignore[arg-type]
        request = pb.WatchStatesRequest(after_revision=4)
        call = slow.stub.WatchStates(request)
        slow.note(await call.read())
        quick = Watcher(stub(), after=4)  # type: ignore[arg-type]
        watching = asyncio.create_task(quick.watch_until(lambda: False))
        for writer in writers:  # the ring is full once
            for _ in range(45):
                await writer.append(500)
        before = registry.resident_bytes()
        for writer in writers:
            for _ in range(40):
                await writer.append(500)
        grown = registry.resident_bytes() - before
        head = head_of(writers)
        assert head > 80_000, "several times what the ring holds"
        await until(lambda: quick.at >= head)
        watching.cancel()
        async with asyncio.timeout(120):
            while slow.at < head:
                slow.note(await call.read())
        call.cancel()
        for watcher in (slow, quick):
            assert judge(watcher.messages, appends_of(writers), after=4).told() == {}
        assert grown < 20 * MEBIBYTE, f"grew by {grown / MEBIBYTE:.0f} MiB"


async def test_a_killed_registry_costs_watchers_time_and_no_row(registry: RegistryProcess) -> None:
    chance = random.Random(3)
    async with clients(registry) as stub:
        writers = await writers_of(stub, 4)
        watchers = [Watcher(stub(), after=8, interval=0.5) for _ in range(2)]  # type: ignore[arg-type]
        over = asyncio.Event()
        writing = asyncio.gather(
            *(writer.write_until(over.is_set, patience=30) for writer in writers)
        )
        watching = [
            asyncio.create_task(watcher.watch_until(lambda: False, patience=30))
            for watcher in watchers
        ]
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            await registry.kill()
            await registry.start()
        await asyncio.sleep(1.0)
        over.set()
        await writing
        head = head_of(writers)
        await until(lambda: all(watcher.at >= head for watcher in watchers), seconds=120)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        replayed = Watcher(stub(), after=8)  # type: ignore[arg-type]
        await replayed.catch_up(head)
        assert all(watcher.resume_count >= 3 for watcher in watchers)
        for watcher in [*watchers, replayed]:
            faults = judge(watcher.messages, appends_of(writers), after=8, only_acked=False)
            assert faults.told() == {}


async def test_cut_database_connections_cost_time_and_no_row(
    registry: RegistryProcess, database: str
) -> None:
    async with clients(registry) as stub:
        writers = await writers_of(stub, 4)
        watchers = [Watcher(stub(), after=8, interval=0.5) for _ in range(2)]  # type: ignore[arg-type]
        over = asyncio.Event()
        writing = asyncio.gather(
            *(writer.write_until(over.is_set, patience=30) for writer in writers)
        )
        watching = [
            asyncio.create_task(watcher.watch_until(lambda: False, patience=30))
            for watcher in watchers
        ]
        cut = 0
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            for _ in range(6):
                await asyncio.sleep(0.5)
                cursor = await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                cut += len(await cursor.fetchall())
        await asyncio.sleep(1.0)
        over.set()
        await writing
        head = head_of(writers)
        await until(lambda: all(watcher.at >= head for watcher in watchers), seconds=120)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        assert cut >= 12
        assert len(appends_of(writers)) > 20
        for watcher in watchers:
            faults = judge(watcher.messages, appends_of(writers), after=8, only_acked=False)
            assert faults.told() == {}


async def test_a_thousand_bookmarks_are_neither_early_nor_late(registry: RegistryProcess) -> None:
    async with clients(registry) as stub:
        writers = await writers_of(stub, 3, sizes=(1, 3))
        kits = [
            (await writers[0].stub.GetJob(pb.GetJobRequest(job_id=w.job_id))).job.kit_id
            for w in writers
        ]
        mine = [
            Watcher(
                stub(),  # type: ignore[arg-type]
                after=6,
                interval=0.1,
                filter=pb.StateFilter(kit_ids=[kits[n % 3]]),
            )
            for n in range(24)
        ]
        over = asyncio.Event()

        def bookmarks() -> int:
            return sum(message.kind == "bookmark" for w in mine for message in w.messages)

        async def now_and_then(writer: Writer) -> None:
            while not over.is_set():
                await writer.append(1)
                await asyncio.sleep(random.uniform(0.0, 0.4))

        writing = [asyncio.create_task(now_and_then(writer)) for writer in writers]
        watching = [asyncio.create_task(w.watch_until(lambda: False)) for w in mine]
        await asyncio.sleep(6.0)
        await until(lambda: bookmarks() > 1000)
        over.set()
        await asyncio.gather(*writing)
        head = head_of(writers)
        await until(lambda: all(watcher.at >= head for watcher in mine))
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for n, watcher in enumerate(mine):
            appends = appends_of([writers[n % 3]])
            assert watcher.at >= head
            told = judge(watcher.messages, appends, after=6, silence=0.1 + 4.0).told()
            assert told == {}
