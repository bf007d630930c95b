"""Starts the processes of attempts: each from nothing, or forked from one with imports done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vistaflow._machine.interpreter import module_command
from vistaflow_services.core.work.process_groups import kill_tree

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
"""Longest message of an attempt."""

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_KEPT_FROM_CHILDREN = ("PASSWORD", "TOKEN", "SECRET", "DATABASE", "API_KEY")


def child_environment(
    credentials: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of an attempt: one thread a numeric library, no secrets, no display.

    Args:
        credentials: Variables that the attempt gets although they are secret, by the ends of their
            names: those of one bucket begin with its name.
        environment: That of the service.
    """
    inherited = {
        name: value
        for name, value in environment.items()
        if name.endswith(tuple(credentials))
        or not any(secret_name in name.upper() for secret_name in _KEPT_FROM_CHILDREN)
    }
    return {
        **inherited,
        **dict.fromkeys(_ONE_THREAD, "1"),
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


class Child(Protocol):
    """The outer process of an attempt."""

    messages: asyncio.StreamReader
    """What the attempt says."""

    output: asyncio.StreamReader
    """What it prints."""

    @property
    def pid(self) -> int:
        """Everything of the attempt is below this process."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal, or None while it lives."""

    async def send(self, data: bytes) -> None:
        """Writes to its stdin, which stays open: that it closes means that the worker is gone."""

    async def wait(self) -> int:
        """Waits for its end."""

    def terminate(self) -> None:
        """Asks it to end everything."""

    def close(self) -> None:
        """Closes what connects it."""


class StartedChild:
    """A process started from nothing."""

    def __init__(
        self, process: asyncio.subprocess.Process, messages: asyncio.StreamReader, pipe: Any
    ) -> None:
        assert process.stdout is not None
        self.messages = messages
        self.output = process.stdout
        self._process = process
        self._pipe = pipe

    @classmethod
    async def start(cls, module: str, credentials: Sequence[str] = ()) -> StartedChild:
        """Starts Python, which imports the stage's jobs and waits for one."""
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *module_command("vistaflow_services.core.work.child"),
                module,
                str(write),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
                env=child_environment(credentials),
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        messages, pipe = await _reader(read)
        return cls(process, messages, pipe)

    @property
    def pid(self) -> int:
        """Everything of the attempt is below this process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal, or None while it lives."""
        return self._process.returncode

    async def send(self, data: bytes) -> None:
        """Writes to its stdin."""
        assert self._process.stdin is not None
        # A process that died meanwhile is seen by its missing last message.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def wait(self) -> int:
        """Waits for its end."""
        return await self._process.wait()

    def terminate(self) -> None:
        """Asks it to end everything."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> None:
        """Closes what connects it."""
        self._pipe.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()


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


class ForkServer:
    """The process that forks attempts, seen from the worker."""

    def __init__(self, module: str, credentials: Sequence[str] = ()) -> None:
        self._module = module
        self._credentials = credentials
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._forks_pending: list[asyncio.Future[int]] = []
        self._children: dict[int, ForkedChild] = {}
        self._process: asyncio.subprocess.Process | None = None
        self.ready = False
        """Whether it can fork now."""

    async def run(self) -> None:
        """Starts it and listens to it until it ends or this is canceled."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *module_command("vistaflow_services.core.work.fork_server"),
                self._module,
                str(self._theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._theirs.fileno(),),
                start_new_session=True,
                env=child_environment(self._credentials),
            )
            self._theirs.close()
            loop = asyncio.get_running_loop()
            while data := await loop.sock_recv(self._control, 4096):
                self._handle(json.loads(data))
        except OSError as error:
            logger.warning("the fork server is gone: %s", error)
        finally:
            await self._end()

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
            child.messages, pipe = await _reader(messages)
            child.pipes.append(pipe)
            child.output, pipe = await _reader(output)
            child.pipes.append(pipe)
            forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            socket.send_fds(self._control, [b"fork"], theirs)
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

    def _named(self, child: ForkedChild, forked: asyncio.Future[int]) -> None:
        if not forked.cancelled() and forked.exception() is None:
            child.pid = forked.result()
            self._children[child.pid] = child

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.ready = True
        elif "unfit" in message:
            logger.warning("no fork server: imports left threads %s", message["unfit"])
        elif "forked" in message:
            forked = self._forks_pending.pop(0)
            child_pid = message["forked"]
            forked.set_result(child_pid)
        elif "ended" in message:
            # After the callback that names the child, which was scheduled before.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._ended, message["ended"], message["code"])

    def _ended(self, pid: int, code: int) -> None:
        child = self._children.pop(pid, None)
        if child is not None:
            child.ended(code)

    async def _end(self) -> None:
        """Ends it; attempts it can not speak for any more end as well."""
        self.ready = False
        self._control.close()
        self._theirs.close()
        for forked in self._forks_pending:
            forked.set_exception(OSError("the fork server is gone"))
            forked.exception()
        self._forks_pending.clear()
        for pid, child in list(self._children.items()):
            kill_tree(pid)
            child.ended(-signal.SIGKILL)
        self._children.clear()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, Any]:
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader, pipe
