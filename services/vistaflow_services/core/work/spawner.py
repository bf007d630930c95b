"""Starts the processes of attempts from nothing; `forks` makes them of one with imports done."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vistaflow._machine.interpreter import module_command

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
        messages, pipe = await read_pipe(read)
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


async def read_pipe(descriptor: int) -> tuple[asyncio.StreamReader, Any]:
    """A reader of a pipe, and what closes it."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader, pipe
