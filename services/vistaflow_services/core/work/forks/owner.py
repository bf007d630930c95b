"""Starts a fork server, and connects services to it.

A service that was started by itself owns its fork server. In a suite the supervisor owns one for
all, and each service has a link to the supervisor, over which it gets a connection whenever a fork
server starts. So there is no name in the file system that other programs could connect to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from vistaflow._machine.interpreter import module_command

logger = logging.getLogger(__name__)

FORK_LINK: Final = "--fork-link="
"""Begins the argument with the descriptor of a service's link."""

MAX_FORK_SERVERS: Final = 20
FORK_SERVER_SECONDS: Final = 30.0
"""A fork server that ends sooner is not started again: every attempt starts from nothing then."""


class ForkServer:
    """The process that forks attempts.

    Args:
        modules: The modules with the jobs, which it imports.
        environment: Its environment, without secrets.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._modules = modules
        self._environment = environment
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)

    def connect(self) -> socket.socket:
        """A connection to it, which may be made before it runs.

        Raises:
            OSError: It is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _send(self._control, theirs)
        except BaseException:
            ours.close()
            raise
        return ours

    async def run(self) -> None:
        """Starts it and waits until it ends; ends it when this is canceled."""
        process: asyncio.subprocess.Process | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                *module_command("vistaflow_services.core.work.forks.server"),
                *self._modules,
                str(self._theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._theirs.fileno(),),
                start_new_session=True,
                env=self._environment,
            )
            self._theirs.close()
            code = await process.wait()
            logger.warning("the fork server ended with %s", code)
        finally:
            self._control.close()
            self._theirs.close()
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def keep_fork_server(
    modules: Sequence[str],
    environment: Mapping[str, str],
    use: Callable[[ForkServer], Awaitable[None]],
) -> None:
    """Starts a fork server, and another one when it has ended.

    Args:
        modules: The modules that it imports.
        environment: Its environment, without secrets.
        use: Runs and uses one until it ends.
    """
    for restarts in range(MAX_FORK_SERVERS):
        began = time.monotonic()
        await use(ForkServer(modules, environment))
        if time.monotonic() - began < FORK_SERVER_SECONDS:
            return
        await asyncio.sleep(restarts)


def _send(link: socket.socket, connection: socket.socket) -> None:
    """Hands a connection over, and closes it here."""
    with connection:
        socket.send_fds(link, [b"connection"], [connection.fileno()])


class Links:
    """The services of a suite that use its fork server."""

    def __init__(self) -> None:
        self._links: list[socket.socket] = []
        self._server: ForkServer | None = None

    @contextlib.contextmanager
    def link(self) -> Iterator[socket.socket]:
        """A link that is open while the block runs: the end that a service is started with."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs:
            self._links.append(ours)
            if self._server is not None:
                _introduce(ours, self._server)
            try:
                yield theirs
            finally:
                self._links.remove(ours)

    async def run(self, server: ForkServer) -> None:
        """Runs a fork server, connected to all services, until it ends."""
        self._server = server
        for link in self._links:
            _introduce(link, server)
        try:
            await server.run()
        finally:
            self._server = None


def _introduce(link: socket.socket, server: ForkServer) -> None:
    """Gives a service a connection; one that has ended, or does not read, gets none."""
    with contextlib.suppress(OSError):
        _send(link, server.connect())


async def receive_connection(link: socket.socket) -> socket.socket | None:
    """The next connection over a service's link; None when the supervisor is gone."""
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        loop.add_reader(link, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(link)
        try:
            data, descriptors, _, _ = socket.recv_fds(link, 64, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        except OSError:
            return None
        if descriptors:
            return socket.socket(fileno=descriptors[0])
        if not data:
            return None


def inherited_link(descriptor: int) -> socket.socket:
    """The link that a service was started with."""
    os.set_inheritable(descriptor, False)
    link = socket.socket(fileno=descriptor)
    link.setblocking(False)
    return link
