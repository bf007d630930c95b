"""The connection of a service to a fork server, and the attempts that are forked over it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from vistaflow_services.core.work.process_groups import kill_tree
from vistaflow_services.core.work.spawner import child_environment, read_pipe

logger = logging.getLogger(__name__)


class ForkedChild:
    """A process forked by the fork server, which reports its end."""

    def __init__(self, stdin: int) -> None:
        self.pid = 0
        self.messages: asyncio.StreamReader
        self.output: asyncio.StreamReader
        self.pipes: list[Any] = []
        self._stdin = stdin
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal, or None while it lives."""
        return self._ended.result() if self._ended.done() else None

    def ended(self, code: int) -> None:
        """Notes its end."""
        if not self._ended.done():
            self._ended.set_result(code)

    async def send(self, data: bytes) -> None:
        """Writes to its stdin."""
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._stdin, data) :]

    async def wait(self) -> int:
        """Waits for its end."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Asks it to end everything."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """Closes what connects it."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        for pipe in self.pipes:
            pipe.close()


class Forks:
    """A connection to a fork server.

    Args:
        module: The module whose jobs are done.
        connection: The connection, which is closed in the end.
        credentials: Variables with secrets that the attempts get, by the ends of their names.
        on_ready: Called when it can fork.
    """

    def __init__(
        self,
        module: str,
        connection: socket.socket,
        credentials: Sequence[str] = (),
        on_ready: Callable[[], object] = lambda: None,
    ) -> None:
        self._module = module
        self._credentials = credentials
        self._on_ready = on_ready
        self._connection = connection
        self._connection.setblocking(False)
        self._forks_pending: list[asyncio.Future[int]] = []
        self._children: dict[int, ForkedChild] = {}
        self.ready = False
        """Whether it can fork now."""

    async def run(self) -> None:
        """Listens to the fork server until that ends or this is canceled."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._connection, 4096):
                self._handle(json.loads(data))
        except OSError as error:
            logger.warning("the fork server is gone: %s", error)
        finally:
            self._end()

    async def fork(self) -> ForkedChild:
        """Forks a process that waits for its attempt.

        Raises:
            OSError: The fork server is gone.
        """
        their_stdin, stdin = os.pipe()
        output, their_output = os.pipe()
        messages, their_messages = os.pipe()
        theirs = [their_stdin, their_output, their_messages]
        child = ForkedChild(stdin)
        try:
            child.messages, pipe = await read_pipe(messages)
            child.pipes.append(pipe)
            child.output, pipe = await read_pipe(output)
            child.pipes.append(pipe)
            theirs.append(self._environment())
            forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            socket.send_fds(self._connection, [self._module.encode()], theirs)
            self._forks_pending.append(forked)
        except BaseException:
            child.close()
            raise
        finally:
            for their in theirs:
                os.close(their)
        # The answer names the child, which is registered even if its caller was canceled.
        forked.add_done_callback(lambda done: self._named(child, done))
        try:
            await asyncio.shield(forked)
        except asyncio.CancelledError:
            child.close()
            raise
        return child

    def _environment(self) -> int:
        """A file in memory with the environment of an attempt."""
        file = os.memfd_create("environment")
        try:
            with open(file, "wb", closefd=False) as stream:
                stream.write(json.dumps(child_environment(self._credentials)).encode())
        except BaseException:
            os.close(file)
            raise
        return file

    def _named(self, child: ForkedChild, forked: asyncio.Future[int]) -> None:
        if not forked.cancelled() and forked.exception() is None:
            child.pid = forked.result()
            self._children[child.pid] = child

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.ready = self._module in message["ready"]
            self._on_ready()
        elif "forked" in message:
            forked = self._forks_pending.pop(0)
            forked.set_result(message["forked"])
        elif "ended" in message:
            # After the callback that names the child, which was scheduled before.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._ended, message["ended"], message["code"])

    def _ended(self, pid: int, code: int) -> None:
        child = self._children.pop(pid, None)
        if child is not None:
            child.ended(code)

    def _end(self) -> None:
        """Closes the connection; attempts whose end it would have reported end as well."""
        self.ready = False
        self._connection.close()
        for forked in self._forks_pending:
            forked.set_exception(OSError("the fork server is gone"))
            forked.exception()
        self._forks_pending.clear()
        for pid, child in list(self._children.items()):
            kill_tree(pid)
            child.ended(-signal.SIGKILL)
        self._children.clear()
