"""The process that starts a thread's runs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from vistaflow_services.simulators.processes import launch
from vistaflow_services.simulators.processes.limits import Limits

_PROGRAM: Final = str(Path(launch.__file__))


class Run:
    """One run: its process, and what is known of it."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self._launcher = launcher
        self.pid = pid
        self.returncode: int | None = None
        """The exit code of its process; negative for a signal, None before the end."""
        self.alone = False
        """Whether nothing of the run is left, of what it started either."""

    @property
    def launcher(self) -> int:
        """The process whose descendants are the run's, but for itself."""
        return self._launcher.pid

    def ended(self, seconds: float) -> bool:
        """Waits at most `seconds` for the end of its process; whether that has ended."""
        return self._wait(seconds, launch.ENDED)

    def left_nothing(self, seconds: float) -> bool:
        """Waits at most `seconds` until nothing of the run is left; whether nothing is."""
        return self._wait(seconds, launch.ALONE)

    def _wait(self, seconds: float, what: int) -> bool:
        end = time.monotonic() + seconds
        while not (self.alone or (what == launch.ENDED and self.returncode is not None)):
            answer = self._launcher.answer(max(0.0, end - time.monotonic()))
            if answer is None:
                return False
            kind, code = answer
            self.alone = kind == launch.ALONE
            if self.returncode is None:
                self.returncode = code
        return True


class Launcher:
    """A process that starts runs, one at a time, for the thread that made it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        self._connection = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, str(self.owner), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        # Holds process and socket: whatever collects this object, they are closed before.
        self._end = weakref.finalize(self, _end, self.owner, self._process, ours)
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start(
        self,
        command: Sequence[str],
        *,
        work: Path,
        limits: Limits,
        environment: Mapping[str, str],
        output: int,
        errors: int,
    ) -> Run:
        """Starts a run; the one before must have left nothing.

        Raises:
            OSError: The launcher has died.
        """
        text = json.dumps(
            {
                "command": list(command),
                "work": str(work),
                "environment": dict(environment),
                "memory": limits.memory_bytes,
                "cpu": limits.cpu_seconds,
                "file": limits.file_bytes,
                "open_files": limits.open_files,
                "processes": limits.processes,
            }
        ).encode()
        head = launch.LENGTH.pack(len(text))
        socket.send_fds(self._connection, [head], [output, errors])
        self._connection.sendall(text)
        _, pid = self._read()
        if pid < 0:
            raise ChildProcessError("the launcher of simulators ended")
        return Run(self, pid)

    def answer(self, seconds: float) -> tuple[int, int] | None:
        """What happened next, waiting at most `seconds`; None if nothing did."""
        return self._read() if self._poll.poll(seconds * 1000) else None

    def close(self) -> None:
        """Ends the process, and with it a run that is not over."""
        self._end()

    def _read(self) -> tuple[int, int]:
        try:
            answer = self._connection.recv(launch.ANSWER.size, socket.MSG_WAITALL)
        except ConnectionError:
            answer = b""
        if len(answer) < launch.ANSWER.size:
            return launch.ALONE, -signal.SIGKILL  # it was killed, and the run with it
        kind, value = launch.ANSWER.unpack(answer)
        return kind, value


def _end(owner: int, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    if owner != os.getpid():
        process.returncode = 0  # of another process, which ends it
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()


class _OfThread(threading.local):
    launcher: Launcher | None = None


_of_thread = _OfThread()


def this_launcher() -> Launcher:
    """The launcher of this thread, which ends with the thread."""
    launcher = _of_thread.launcher
    if launcher is None or launcher.owner != os.getpid():
        launcher = _of_thread.launcher = Launcher()
    return launcher


def discard_launcher() -> None:
    """Ends the launcher of this thread; the next run starts another."""
    _of_thread.launcher = None
