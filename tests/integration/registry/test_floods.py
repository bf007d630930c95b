"""Callers who flood the registry: whoever else calls is still served, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.channel import call

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
        await writer.append(1, patience=20)
        fresh_channel, fresh = connect(flooded.registry.address)
        await call(fresh.GetServerInfo, pb.GetServerInfoRequest(), timeout=20)
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
    async with asyncio.timeout(60):
        while flooded.descriptors() > opened + 10:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await appends_through(flooded, 0.5)


async def outcome(stub: Any) -> grpc.StatusCode:
    """How a call ends."""
    call = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call
    return await call.code()


async def test_past_the_limit_calls_are_refused_at_once_and_taken_again_when_there_is_room(
    flooded: Flooded,
) -> None:
    channel, stub = connect(flooded.registry.address)
    other, others = connect(flooded.registry.address)
    watches: list[Any] = [stub.WatchStates(pb.WatchStatesRequest()) for _ in range(MAX_CALLS)]
    for each in watches:
        assert (await each.read()).HasField("synced")
    assert await outcome(others) == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await others.WatchStates(pb.WatchStatesRequest()).read()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    watches.pop().cancel()
    for _ in range(200):
        if await outcome(others) == grpc.StatusCode.OK:
            break
        await asyncio.sleep(0.05)
    assert await outcome(others) == grpc.StatusCode.OK
    for each in watches:
        assert not each.done(), "those who were in stay in"
        each.cancel()
    await channel.close()
    await other.close()
