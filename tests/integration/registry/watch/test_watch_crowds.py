"""Many watchers at once: on few connections and on many, some of whom never read."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import Writer, appends_of, connect, external_job, head_of, until

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def registry(database: str, tmp_path: Path) -> AsyncIterator[RegistryProcess]:
    process = RegistryProcess(database, tmp_path, settings={"MAX_CALLS": "20000"})
    yield await process.start()
    assert await process.stop() == 0


class Crowd:
    """Watchers who share connections; of each is kept which rows came."""

    def __init__(self, address: str, channels: int) -> None:
        self._opened = [connect(address) for _ in range(channels)]
        self._tasks: list[asyncio.Task[None]] = []
        self.revisions: list[list[int]] = []
        self.synced = 0
        self.message_count = 0
        self.dropped = 0

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel, _ in self._opened:
            await channel.close()

    async def watch(self, count: int, request: Callable[[int], pb.WatchStatesRequest]) -> None:
        """Opens watches and waits until all of them are live."""
        self.revisions += [[] for _ in range(count)]
        for number in range(count):
            self._tasks.append(asyncio.create_task(self._read(request(number), number)))
        await until(lambda: self.synced == count, seconds=120)

    async def _read(self, request: pb.WatchStatesRequest, number: int) -> None:
        _, stub = self._opened[number % len(self._opened)]
        try:
            async for response in stub.WatchStates(request):
                self.synced += response.HasField("synced")
                self.message_count += response.HasField("delta")
                self.revisions[number] += [state.revision for state in response.delta.states]
        except grpc.aio.AioRpcError as error:
            # While a thousand calls wait gRPC drops some that nobody began with: ask again.
            if error.code() is not grpc.StatusCode.CANCELLED or self.revisions[number]:
                raise
            self.dropped += 1
            await asyncio.sleep(1)
            await self._read(request, number)


@contextlib.asynccontextmanager
async def sleeper(registry: RegistryProcess, after: int) -> AsyncIterator[Any]:
    """A watcher that reads one message and no more; and the revisions in that one."""
    channel, stub = connect(registry.address)
    call = stub.WatchStates(pb.WatchStatesRequest(after_revision=after))
    first = await call.read()
    yield call, [state.revision for state in first.delta.states]
    call.cancel()
    await channel.close()


@pytest.mark.parametrize("channels", [1, 20])
@pytest.mark.parametrize(
    ("watchers", "messages"), [(100, 20), pytest.param(1000, 100, marks=pytest.mark.slow)]
)
async def test_a_crowd_misses_nothing_and_costs_little_memory(
    registry: RegistryProcess, channels: int, watchers: int, messages: int
) -> None:
    channel, stub = connect(registry.address)
    _, job_id = await external_job(stub)
    writer = Writer(stub, job_id, sizes=(1,))
    async with Crowd(registry.address, channels) as crowd:
        await crowd.watch(watchers, lambda _: pb.WatchStatesRequest(after_revision=2))
        for _ in range(messages):
            await writer.append(1)
        expected = [row.revision for append in appends_of([writer]) for row in append]
        await until(
            lambda: all(each[-1:] == expected[-1:] for each in crowd.revisions), seconds=120
        )
        assert all(each == expected for each in crowd.revisions)
        held = registry.resident_bytes()
        print(f"{crowd.message_count} messages to {watchers} watchers, {held / MEBIBYTE:.0f} MiB")
        assert held < 150 * MEBIBYTE
    await channel.close()


@pytest.mark.parametrize(
    ("watchers", "appends"), [(19, 40), pytest.param(99, 160, marks=pytest.mark.slow)]
)
async def test_who_never_reads_costs_bounded_memory_and_the_others_nothing(
    registry: RegistryProcess, watchers: int, appends: int
) -> None:
    channel, stub = connect(registry.address)
    _, job_id = await external_job(stub)
    writer = Writer(stub, job_id, metadata="x" * 1000)
    async with Crowd(registry.address, 1) as first, contextlib.AsyncExitStack() as stack:
        # Until the ring is full of rows and of their messages, the registry grows for everybody.
        await first.watch(1, lambda _: pb.WatchStatesRequest(after_revision=2))
        for _ in range(41):
            await writer.append(500)
        await until(lambda: first.revisions[0][-1:] == [head_of([writer])])
        asleep, got = await stack.enter_async_context(sleeper(registry, 2))
        await stack.enter_async_context(sleeper(registry, head_of([writer])))
        crowd = await stack.enter_async_context(Crowd(registry.address, 10))
        after = head_of([writer])
        await crowd.watch(watchers, lambda _: pb.WatchStatesRequest(after_revision=after))
        before = registry.resident_bytes()
        for _ in range(appends):
            await writer.append(100)
        expected = list(range(after + 1, head_of([writer]) + 1))
        await until(
            lambda: all(each[-1:] == expected[-1:] for each in crowd.revisions), seconds=120
        )
        assert all(each == expected for each in crowd.revisions)
        grown = registry.resident_bytes() - before
        print(f"grew by {grown / MEBIBYTE:.1f} MiB")
        assert grown < 20 * MEBIBYTE
        # It gets every row all the same, once it reads.
        async with asyncio.timeout(120):
            while not got or got[-1] < expected[-1]:
                message = await asleep.read()
                assert message is not grpc.aio.EOF
                got += [state.revision for state in message.delta.states]
        assert got == list(range(3, expected[-1] + 1))
    await channel.close()


@pytest.mark.slow
async def test_ten_thousand_watchers_of_kits_get_each_row_of_theirs(
    registry: RegistryProcess,
) -> None:
    channel, stub = connect(registry.address)
    writers = []
    kits = []
    for seed in range(100):
        kit_id, job_id = await external_job(stub)
        kits.append(kit_id)
        writers.append(Writer(stub, job_id, seed=seed, sizes=(1,)))
    after = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    loop = asyncio.get_running_loop()

    async def waits() -> list[float]:
        """How long each append takes; every writer makes three."""
        found = []
        for writer in writers * 3:
            began = loop.time()
            await writer.append(1)
            found.append(1000 * (loop.time() - began))
        return sorted(found)

    alone = await waits()
    async with Crowd(registry.address, 50) as crowd:

        def request(number: int) -> pb.WatchStatesRequest:
            wanted = pb.StateFilter(kit_ids=[kits[number % len(kits)]])
            return pb.WatchStatesRequest(after_revision=after, filter=wanted)

        await crowd.watch(10_000, request)
        crowded = await waits()
        expected = [[row.revision for each in w.appends for row in each] for w in writers]
        await until(
            lambda: sum(map(len, crowd.revisions)) == 6 * 10_000,
            seconds=120,
        )
        for number, each in enumerate(crowd.revisions):
            assert each == expected[number % len(kits)]
        print(
            f"append p50 and p99 {alone[150]:.1f} and {alone[296]:.1f} ms alone, "
            f"{crowded[150]:.1f} and {crowded[296]:.1f} ms beside 10,000 watchers; "
            f"{registry.resident_bytes() / MEBIBYTE:.0f} MiB, {crowd.dropped} tried again"
        )
    await channel.close()
