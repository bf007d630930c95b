"""A TCP proxy that does to connections what networks do to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

BLOCK = 65536


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    half_open: bool = False
    """Whether the server's side is gone and the client's is kept, silent."""
    healed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Proxy:
    """Passes bytes between clients and one upstream, until told otherwise.

    Args:
        upstream: `host:port`, or the path of a unix socket.
    """

    upstream: str
    delay: float = 0.0
    """Seconds that every block waits, either way."""
    swallowing: bool = False
    """Whether everything is silently dropped, either way, on connections new and old."""
    port: int = 0
    passed_bytes: int = 0
    cut_count: int = 0
    _cut_at: int | None = None
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self.swallowing = True

    def cut_after(self, count: int) -> None:
        """Resets the connection that carries the byte `count` further on, in its middle."""
        self._cut_at = self.passed_bytes + count

    def cut_all(self) -> None:
        """Resets every connection now."""
        for link in list(self._links):
            self._reset(link)

    def half_open(self) -> None:
        """Closes the server's side of every connection; the clients hear nothing of it."""
        for link in self._links:
            link.half_open = True
            link.server.transport.abort()

    def heal(self) -> None:
        """Passes everything again. Bytes swallowed are gone, so their connections are cut."""
        if self.swallowing:
            self.cut_all()
        for link in list(self._links):
            if link.half_open:
                self._reset(link)
        self.swallowing, self.delay, self._cut_at = False, 0.0, None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link: _Link | None = None
        try:
            if self.upstream.startswith("/"):
                above = await asyncio.open_unix_connection(self.upstream)
            else:
                host, _, port = self.upstream.rpartition(":")
                above = await asyncio.open_connection(host, int(port))
            link = _Link(writer, above[1])
            self._links.add(link)
            up = asyncio.create_task(self._pass(link, reader, above[1], to_client=False))
            down = asyncio.create_task(self._pass(link, above[0], writer, to_client=True))
            try:
                await asyncio.gather(up, down)
            finally:
                up.cancel()
                down.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if link is not None:
                self._links.discard(link)
                link.server.transport.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_client: bool,
    ) -> None:
        while True:
            try:
                data = await reader.read(BLOCK)
            except OSError:
                data = b""
            if not data:
                if to_client and link.half_open:
                    await link.healed.wait()
                raise ConnectionResetError
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.swallowing or link.half_open:
                continue
            if self._cut_at is not None and self.passed_bytes + len(data) >= self._cut_at:
                writer.write(data[: max(0, self._cut_at - self.passed_bytes)])
                with contextlib.suppress(OSError):
                    await writer.drain()
                self._cut_at = None
                self.cut_count += 1
                self._reset(link)
                raise ConnectionResetError
            self.passed_bytes += len(data)
            writer.write(data)
            await writer.drain()

    def _reset(self, link: _Link) -> None:
        for side in (link.client, link.server):
            plug = side.get_extra_info("socket")
            if plug is not None and plug.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()
        link.healed.set()
