"""Starts simulators under limits; a program of its own that imports only the standard library.

    python -I -S launch.py <parent> <socket>

Limits are set here and not between fork and exec in the service, where threads make that unsafe.
One launcher starts many runs, one after another: a fork of it costs a tenth of an interpreter.
Processes that a run leaves behind become children of the launcher, which therefore knows when
none is left. The kernel kills it when its parent dies, and a run when the launcher dies.

A request is its length and JSON, with two open files: standard output and error. The answers are
pairs of 32-bit numbers: what happened, and a process or its exit code (negative: a signal).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SLACK = 2048

LENGTH = struct.Struct("!I")
ANSWER = struct.Struct("!ii")
STARTED, ENDED, ALONE = 1, 2, 3
"""The run has a process; that has ended; nothing of the run is left."""

LINUX = sys.platform == "linux"


def control(option: int, value: int) -> None:
    """Calls prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with(parent: int) -> None:
    """Ends this process when the thread that started it ends."""
    if LINUX:
        control(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(125)  # the parent died before the kernel was asked


def lower(which: int, value: int, grace: int = 0) -> None:
    """Sets a limit, never above what this process itself is allowed."""
    _, hard = resource.getrlimit(which)
    last = value + grace
    if hard != resource.RLIM_INFINITY:
        value, last = min(value, hard), min(last, hard)
    try:
        resource.setrlimit(which, (value, last))
    except (ValueError, OSError):
        if LINUX:
            raise  # macOS knows some limits by name only


def threads_of(user: int) -> int:
    """How many threads a user has now: the kernel counts the limit over all of them."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


class Threads:
    """How many threads this user has, counted once a second: that reads all of `/proc`."""

    def __init__(self) -> None:
        self.count = 0
        self._counted = -1.0

    def refresh(self) -> None:
        """Counts again if it is time to; the kernel does not count the superuser's."""
        now = time.monotonic()
        if LINUX and os.getuid() != 0 and not 0 <= now - self._counted < 1:
            self.count, self._counted = threads_of(os.getuid()), now


def become(request: dict[str, Any], launcher: int, output: int, errors: int, threads: int) -> None:
    """Makes this process the run: in a session of its own, under its limits."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    command = request["command"]
    try:
        os.chdir(request["work"])
        die_with(launcher)
        if LINUX:
            if os.path.basename(command[0]) != "bwrap":  # setuid, it needs that, and asks itself
                control(PR_SET_NO_NEW_PRIVS, 1)
            if os.getuid() != 0:
                # Loose: it counts the user's threads outside of this container, too, which are
                # not seen here. The supervisor counts the run's own.
                lower(resource.RLIMIT_NPROC, threads + request["processes"] + SLACK)
        lower(resource.RLIMIT_AS, request["memory"])
        lower(resource.RLIMIT_CPU, request["cpu"], grace=1)  # SIGXCPU says why; then SIGKILL
        lower(resource.RLIMIT_FSIZE, request["file"])
        lower(resource.RLIMIT_NOFILE, request["open_files"])
        lower(resource.RLIMIT_CORE, 0)
        os.umask(0o077)
        os.execve(command[0], command, request["environment"])
    except OSError as error:
        os.write(2, f"cannot start {os.path.basename(command[0])}: {error.strerror}\n".encode())
    finally:
        os._exit(126)


def launch(
    connection: socket.socket,
    request: dict[str, Any],
    output: int,
    errors: int,
    threads: Threads,
) -> None:
    """Starts a run, and answers when it ends and when nothing of it is left."""
    launcher = os.getpid()
    threads.refresh()
    run = os.fork()
    if run == 0:
        become(request, launcher, output, errors, threads.count)
    os.close(output)
    os.close(errors)
    connection.sendall(ANSWER.pack(STARTED, run))
    while True:
        try:
            process, status = os.waitpid(-1, 0)
        except ChildProcessError:
            connection.sendall(ANSWER.pack(ALONE, 0))
            return
        if process == run:
            connection.sendall(ANSWER.pack(ENDED, os.waitstatus_to_exitcode(status)))


def main(arguments: list[str]) -> None:
    """Serves requests until the other end of the socket is closed."""
    parent, descriptor = map(int, arguments)
    die_with(parent)
    if LINUX:
        control(PR_SET_CHILD_SUBREAPER, 1)
    with socket.socket(fileno=descriptor) as connection:
        os.set_inheritable(descriptor, False)
        threads = Threads()
        while True:
            head, files, _, _ = socket.recv_fds(connection, LENGTH.size, 2)
            if len(head) < LENGTH.size:
                return
            text = connection.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
            output, errors = files
            launch(connection, json.loads(text), output, errors, threads)


if __name__ == "__main__":
    main(sys.argv[1:])
