"""One attempt's process, seen from the worker: start, messages, log, end.

The output of the process goes to `$VISTAFLOW_HOME/logs/jobs/<job_id>/<attempt>.log`. The log is
bounded: its beginning and its end are kept, and what was left out between them is counted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistaflow_services.core.work.forks.client import Forks
from vistaflow_services.core.work.process_groups import kill_tree
from vistaflow_services.core.work.spawner import Child, StartedChild

logger = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""How long the process may take from SIGTERM to its end, its own 3 s of grace included."""

MAX_LOG_BYTES = 8 << 20
KEPT_TAIL_BYTES = 64 << 10

LAST_MESSAGES = ("result", "failed", "crashed")


class Execution:
    """A process that does, or is about to do, one attempt. Made by `prepare`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._log = AttemptLog()
        self._pump = asyncio.create_task(self._pump_output())

    @classmethod
    async def prepare(
        cls, module: str, forks: Forks | None = None, credentials: Sequence[str] = ()
    ) -> Execution:
        """A process that has imported the stage's jobs, or does so, and waits for one.

        Args:
            module: The module with the `JOBS`.
            forks: Forks the process if it can; otherwise it is started from nothing.
            credentials: Variables with secrets that the process may read.
        """
        if forks is not None and forks.ready:
            try:
                return cls(await forks.fork())
            except OSError as error:
                logger.warning("not forked: %s", error)
        return cls(await StartedChild.start(module, credentials))

    @property
    def pid(self) -> int:
        """The process; everything of the attempt is below it."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._child.returncode is None

    async def start(self, header: Mapping[str, Any], log: Path) -> None:
        """Hands the attempt over; its output goes to `log` from here on."""
        self._log.open(log)
        self._log.note(f"attempt {header['attempt']} of job {header['job_id']} starts")
        await self._child.send(json.dumps(header).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the attempt says, up to its last message or its end."""
        while True:
            try:
                line = await self._child.messages.readline()
            except ValueError:
                yield {"kind": "crashed", "error": "a message that is too long"}
                return
            if not line.endswith(b"\n"):
                return
            message: dict[str, Any] = json.loads(line)
            yield message
            if message["kind"] in LAST_MESSAGES:
                return

    async def ended(self) -> int:
        """Waits for the end of the process; returns its code, or minus the signal."""
        code = await self._child.wait()
        await self._close(f"ends with {describe_exit(code)}")
        return code

    async def finish(self, why: str = "") -> None:
        """Lets the process end by itself unless there is a reason why it must not go on."""
        if not why:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self.ended()
                    return
        await self.stop(why or "it does not end by itself")

    async def stop(self, why: str) -> None:
        """Ends the process and all below it: SIGTERM, 3 s of grace, SIGKILL."""
        if self.alive:
            self._log.note(f"is stopped: {why}")
            self._child.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._child.wait()
            except TimeoutError:
                await asyncio.to_thread(kill_tree, self.pid)
                await self._child.wait()
        await self._close("has been stopped")

    async def _close(self, note: str) -> None:
        kill_tree(self.pid) if self.alive else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await asyncio.shield(self._pump)
        self._pump.cancel()
        await asyncio.wait([self._pump])
        self._child.close()
        self._log.note(note)
        self._log.close()

    async def _pump_output(self) -> None:
        while block := await self._child.output.read(1 << 16):
            self._log.write(block)


class AttemptLog:
    """A job's log: bounded, and whole as long as it is within the bound."""

    def __init__(self, *, limit: int = MAX_LOG_BYTES, tail: int = KEPT_TAIL_BYTES) -> None:
        self._limit = limit
        self._tail_limit = tail
        self._file: Any = None
        self._room = limit
        self._early = bytearray()
        self._tail: collections.deque[bytes] = collections.deque()
        self._tail_bytes = 0
        self._dropped = 0

    def open(self, path: Path) -> None:
        """Begins to write, with what came before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        early, self._early = bytes(self._early), bytearray()
        self.write(early)

    def write(self, data: bytes) -> None:
        """Adds output; when the bound is reached only the newest of it is remembered."""
        if self._file is None:
            self._early += data[: max(0, self._tail_limit - len(self._early))]
            return
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        self._put(head)
        if rest:
            self._tail.append(rest[-self._tail_limit :])
            self._dropped += max(0, len(rest) - self._tail_limit)
            self._tail_bytes += len(self._tail[-1])
            while self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
                oldest = len(self._tail.popleft())
                self._tail_bytes -= oldest
                self._dropped += oldest

    def note(self, text: str) -> None:
        """Adds a line of the worker's own."""
        if self._file is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            line = f"[vistaflow {now}] {text}\n".encode()
            self.write(line) if self._room or self._tail else self._put(line)

    def close(self) -> None:
        """Writes the end of what did not fit, and closes."""
        if self._file is None:
            return
        if self._dropped:
            self._put(f"\n[vistaflow] {self._dropped:,} bytes are left out here\n".encode())
        self._put(b"".join(self._tail))
        self._tail.clear()
        self._file.close()
        self._file = None

    def _put(self, data: bytes) -> None:
        # A full disk costs the log, not the job.
        with contextlib.suppress(OSError):
            self._file.write(data) if data else None


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    names = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV"}
    name = names.get(-code, f"signal {-code}")
    return f"{name} (often: out of memory)" if name == "SIGKILL" else name
