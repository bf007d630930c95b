"""Callers who flood the registry: whoever else calls is still served, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vistaflow._rpc.channel import call
from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))

from process import RegistryProcess
from traffic import Writer, connect, external_job

MEBIBYTE = 1024 * 1024
MAX_CALLS = 100
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What a client says first, with empty settings."""
HEADERS = b"\x00\x40\x00\x01\x00\x00\x00\x00\x01"
"""A frame of 16 KiB of headers, of which not one is sent."""

SHORT = 3.0
LONG = 20.0

Flood = Callable[["Flooded"], Awaitable[None]]


class Flooded:
    """A registry, the address of which is flooded until `over`."""

    def __init__(self, registry: RegistryProcess) -> None:
        self.registry = registry
        self.over = False
        self.count = 0
        self.refused: set[grpc.StatusCode] = set()

    def descriptors(self) -> int:
        """Files and sockets that the registry holds open."""
        assert self.registry.process is not None
        return len(os.listdir(f"/proc/{self.registry.process.pid}/fd"))


@pytest.fixture
async def flooded(database: str, tmp_path: Path) -> AsyncIterator[Flooded]:
    process = RegistryProcess(database, tmp_path, settings={"MAX_CALLS": str(MAX_CALLS)})
    yield Flooded(await process.start())
    assert await process.stop() == 0


async def calls(flooded: Flooded) -> None:
    """As many calls as one client can make, on one connection."""
    channel, stub = connect(flooded.registry.address)

    async def ask() -> None:
        while not flooded.over:
            flooded.count += 1
            try:
                await stub.GetServerInfo(pb.GetServerInfoRequest())
            except grpc.aio.AioRpcError as error:
                flooded.refused.add(error.code())

    await asyncio.gather(*(ask() for _ in range(64)))
    await channel.close()


async def connections(flooded: Flooded, said: bytes) -> None:
    """Connections whose other side says no more than this, and then nothing, or a byte a second."""
    host, _, port = flooded.registry.address.rpartition(":")
    writers: list[asyncio.StreamWriter] = []
    while not flooded.over:
        if len(writers) < 2000:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(said)
                writers.append(writer)
                flooded.count += 1
            continue
        await asyncio.sleep(0.1)
    for writer in writers:
        writer.close()


async def half_open(flooded: Flooded) -> None:
    """Connections that say nothing at all."""
    await connections(flooded, b"")


async def slow_headers(flooded: Flooded) -> None:
    """Connections that begin a call and never finish its headers."""
    await connections(flooded, PREFACE + HEADERS + b"\x00")


async def cancels(flooded: Flooded) -> None:
    """Calls that are canceled as soon as they have begun, thousands a second."""
    program = str(Path(__file__).with_name("canceling.py"))
    client = await asyncio.create_subprocess_exec(
        sys.executable, program, flooded.registry.address, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    while not flooded.over:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                flooded.count += int(await client.stdout.readline() or 0)
    client.kill()
    await client.wait()


async def appends_through(flooded: Flooded, seconds: float) -> None:
    """Somebody else appends, on a connection opened before and on new ones."""
    channel, stub = connect(flooded.registry.address)
    _, job_id = await external_job(stub)
    writer = Writer(stub, job_id)
    end = time.monotonic() + seconds
    while time.monotonic() < end or writer.row_count < 3:
        # As the client asks: while a thousand calls wait, gRPC drops some that nobody began with.
        await writer.append(1, patience=60)
        fresh_channel, fresh = connect(flooded.registry.address)
        await call(fresh.GetServerInfo, pb.GetServerInfoRequest(), timeout=60)
        await fresh_channel.close()
    await channel.close()


@pytest.mark.parametrize("seconds", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("flood", "least"),
    [(calls, 300), (cancels, 2000), (half_open, 500), (slow_headers, 500)],
    ids=["calls", "canceled calls", "half-open connections", "slow headers"],
)
async def test_whoever_else_calls_is_still_served(
    flooded: Flooded, flood: Flood, least: int, seconds: float
) -> None:
    await appends_through(flooded, 0.5)
    held, opened = flooded.registry.resident_bytes(), flooded.descriptors()
    flooding = asyncio.create_task(flood(flooded))  # type: ignore[arg-type]
    try:
        await appends_through(flooded, seconds)
        while flooded.count < least:
            await appends_through(flooded, 0.5)
        grown = flooded.registry.resident_bytes() - held
    finally:
        flooded.over = True
        await flooding
    print(f"{flooded.count} in {seconds:g} s; grew by {grown / MEBIBYTE:.0f} MiB")
    assert grown < 100 * MEBIBYTE
    assert flooded.refused <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    async with asyncio.timeout(120):
        while flooded.descriptors() > opened + 10:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await appends_through(flooded, 0.5)


async def begun(call: Any) -> grpc.StatusCode:
    """With what a stream begins."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_idle_watches_past_the_limit_are_refused_and_calls_workers_and_health_are_not(
    flooded: Flooded,
) -> None:
    channel, stub = connect(flooded.registry.address)
    other, others = connect(flooded.registry.address)
    request = pb.WatchStatesRequest()
    watches: list[Any] = [stub.WatchStates(request) for _ in range(2 * MAX_CALLS)]
    codes = Counter(await asyncio.gather(*map(begun, watches)))
    most = MAX_CALLS * 3 // 4
    assert codes == {grpc.StatusCode.OK: most, grpc.StatusCode.RESOURCE_EXHAUSTED: 200 - most}
    health: Any = health_pb2_grpc.HealthStub(other)
    silent = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2 * MAX_CALLS)]
    codes = Counter(await asyncio.gather(*map(begun, silent)))
    assert codes[grpc.StatusCode.OK] == 3

    await appends_through(flooded, 0.5)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
    lease = others.LeaseJobs()
    hello = pb.WorkerHello(worker="w", job_types=[2], capacity=1)
    await lease.write(pb.LeaseJobsRequest(hello=hello))
    assert (await lease.read()).HasField("welcome")
    assert await begun(others.WatchStates(request)) == grpc.StatusCode.RESOURCE_EXHAUSTED

    held = [each for each in watches if not each.done()]
    assert len(held) == most, "those who were in stay in"
    held.pop().cancel()
    held.pop().cancel()
    async with asyncio.timeout(120):
        while (code := await begun(others.WatchStates(request))) != grpc.StatusCode.OK:
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    for each in (*held, *silent, lease):
        each.cancel()
    await channel.close()
    await other.close()
