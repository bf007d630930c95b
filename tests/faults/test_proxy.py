"""The proxy does to connections what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.faults.proxy import Proxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = await Proxy(upstream=f"127.0.0.1:{port}").start()
    yield made
    await made.stop()
    server.close()


async def connected(proxy: Proxy) -> Ends:
    ends = await asyncio.open_connection("127.0.0.1", proxy.port)
    ends[1].write(b"hello")
    assert await ends[0].readexactly(5) == b"hello"
    return ends


async def test_bytes_pass_both_ways(proxy: Proxy) -> None:
    _, writer = await connected(proxy)
    assert proxy.passed_bytes == 10
    writer.close()


async def test_a_delay_holds_every_block(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.delay = 0.1
    begun = asyncio.get_running_loop().time()
    writer.write(b"x")
    await reader.readexactly(1)
    assert asyncio.get_running_loop().time() - begun >= 0.2
    writer.close()


@pytest.mark.parametrize("broken", [Proxy.swallow, Proxy.half_open])
async def test_a_broken_connection_is_silent_until_it_is_healed_which_cuts_it(
    proxy: Proxy, broken: Callable[[Proxy], None]
) -> None:
    reader, writer = await connected(proxy)
    broken(proxy)
    writer.write(b"x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    proxy.heal()
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
    writer.close()
    _, again = await connected(proxy)
    again.close()


async def test_a_cut_falls_in_the_middle_of_a_message(proxy: Proxy) -> None:
    reader, writer = await connected(proxy)
    proxy.cut_after(104)
    writer.write(b"x" * 100)
    async with asyncio.timeout(30):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(100)
    assert proxy.cut_count == 1
    writer.close()
    _, again = await connected(proxy)
    again.close()
