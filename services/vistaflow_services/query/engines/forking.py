"""Starts the process of a query: forks this process, or asks one that does nothing else.

A `ForkingServer` has the imports done, DuckDB open, one thread and no credentials. It is a process
of its own:

    python -m vistaflow_services.query.engines.forking

Over its stdin, a socket, come single bytes, each with the socket of a query; back go the process's
id with a descriptor of it. When the other side closes, the server ends, and with it its queries.
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


def fork() -> QueryProcess:
    """Forks this process, which must have one thread; see `child.open_database`."""
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
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            for _ in range(2):
                try:
                    server = self._socket or self._start()
                    socket.send_fds(server, [b"q"], [theirs.fileno()])
                    data, handles, _, _ = socket.recv_fds(server, 8, 1)
                except OSError:
                    data, handles = b"", []
                if handles:
                    number = struct.unpack("!Q", data)[0]
                    return QueryProcess(
                        control=ours, handle=handles[0], process_id=number, is_child=False
                    )
                self._stop()
        ours.close()
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
    while True:
        is_asked = bool(select.select([control], [], [], idle_seconds)[0])
        # The descriptor of a process is readable when that has ended.
        for ended in select.select(queries, [], [], 0)[0] if queries else ():
            queries.remove(ended)
            os.close(ended)
        if not is_asked:
            if queries:
                continue
            return
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        with socket.socket(fileno=descriptors[0]) as query:
            parent = os.getpid()
            process_id = os.fork()
            if process_id == 0:
                child.main(query, parent)
            # The process waits for its request, so that it is still there.
            handle = os.pidfd_open(process_id)
            socket.send_fds(control, [struct.pack("!Q", process_id)], [handle])
            queries.append(handle)


if __name__ == "__main__":
    os.set_inheritable(0, False)
    serve(socket.socket(fileno=0), *map(float, sys.argv[1:]))
    sys.exit(0)
