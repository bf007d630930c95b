"""Starts the process of a query: forks this process, or asks one that does nothing else.

A `ForkingServer` has the imports done, DuckDB open, one thread and no credentials. It is a process
of its own:

    python -m vistaflow_services.query.engines.forking

Over its stdin, a socket, come single bytes, each for a query; back go the process's id with its
socket and a descriptor of it. One process is forked ahead, so that a query does not wait for it.
When the other side closes, the server ends, and with it its queries.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from vistaflow._machine.interpreter import module_command
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.query.engines import child

START_SECONDS = 30.0
"""After which a server that does not answer is replaced."""

IDLE_SECONDS = 300.0
"""After which a server without queries ends."""


@dataclass(frozen=True, kw_only=True)
class QueryProcess:
    """A process that serves one query."""

    control: socket.socket
    handle: int
    """A descriptor of the process."""

    process_id: int
    is_child: bool
    """Whether it is a child of this process, which then must wait for it."""

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not select.select([self.handle], [], [], 0)[0]

    def kill(self) -> None:
        """Ends it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def close(self) -> int | None:
        """Ends it if it has not ended; its exit code or minus a signal, if that is known."""
        self.kill()
        self.control.close()
        code = None
        if self.is_child:
            with contextlib.suppress(ChildProcessError):
                code = os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])
        os.close(self.handle)
        return code


_ahead: list[QueryProcess] = []
"""The process that was forked ahead, if any."""


def fork_ahead() -> None:
    """Forks the process of the next query of this process, which must have one thread."""
    if not _ahead:
        _ahead.append(_fork())


def fork() -> QueryProcess:
    """Forks this process, which must have one thread; see `child.open_database`.

    What was forked ahead is taken if it is still there.
    """
    if _ahead:
        process = _ahead.pop()
        if process.is_alive:
            return process
        process.close()
    return _fork()


def _fork() -> QueryProcess:
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    process_id = os.fork()
    if process_id == 0:
        child.main(theirs, parent)
    theirs.close()
    handle = os.pidfd_open(process_id)
    return QueryProcess(control=ours, handle=handle, process_id=process_id, is_child=True)


class ForkingServer:
    """Starts the processes of queries for a service, which has threads and must not fork itself.

    It starts with the first query, and again if it ends, as it does without queries. One is enough
    for a service. Its methods may be called from any thread.

    Args:
        idle_seconds: After which it ends if there is no query.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None

    def fork(self) -> QueryProcess:
        """Starts a process.

        Raises:
            UnavailableError: That does not succeed.
        """
        with self._lock:
            for _ in range(2):
                try:
                    server = self._socket or self._start()
                    server.sendall(b"q")
                    data, descriptors, _, _ = socket.recv_fds(server, 8, 2)
                except OSError:
                    data, descriptors = b"", []
                if descriptors:
                    control, handle = descriptors
                    return QueryProcess(
                        control=socket.socket(fileno=control),
                        handle=handle,
                        process_id=struct.unpack("!Q", data)[0],
                        is_child=False,
                    )
                self._stop()
        raise UnavailableError("the query engine cannot be started", reason="ENGINE")

    def close(self) -> None:
        """Ends it and all its queries."""
        with self._lock:
            self._stop()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._process = subprocess.Popen(
                [*module_command(__name__), str(self._idle_seconds)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.defpath},
            )
        ours.settimeout(START_SECONDS)
        self._socket = ours
        # Holds both: whatever collects this object, they are closed before.
        self._end = weakref.finalize(self, _end, ours, process)
        return ours

    def _stop(self) -> None:
        self._end()
        self._socket = self._process = None


def _end(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.kill()
    process.wait()


def serve(control: socket.socket, idle_seconds: float = IDLE_SECONDS) -> None:
    """Forks a process for each request until the other side closes, or nothing is asked for."""
    # Ended processes are not waited for: the kernel takes them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    child.open_database()
    gc.collect()
    gc.freeze()
    queries: list[int] = []
    ahead: QueryProcess | None = None
    while True:
        # The descriptor of a process is readable when that has ended.
        ready = select.select([control.fileno(), *queries], [], [], idle_seconds)[0]
        for ended in set(ready) & set(queries):
            queries.remove(ended)
            os.close(ended)
        if control.fileno() in ready:
            if not control.recv(1):
                return
            process = ahead if ahead is not None and ahead.is_alive else _fork()
            ahead = None
            numbers = [process.control.fileno(), process.handle]
            socket.send_fds(control, [struct.pack("!Q", process.process_id)], numbers)
            process.control.close()
            queries.append(process.handle)
        elif not ready and not queries:
            return
        elif ahead is None and not queries:
            # When no query runs that would have to share the processors with it.
            ahead = _fork()


if __name__ == "__main__":
    os.set_inheritable(0, False)
    serve(socket.socket(fileno=0), *map(float, sys.argv[1:]))
    sys.exit(0)
