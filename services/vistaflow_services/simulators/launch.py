"""Starts a simulator under limits; a program of its own that imports only the standard library.

    python -I -S launch.py <parent> <memory> <cpu> <file> <open files> <processes> -- <command...>

Limits are set here and not between fork and exec in the service, where threads make that unsafe.
The process asks the kernel to kill it when its parent dies, then becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
SLACK = 2048


def lower(which: int, value: int, grace: int = 0) -> None:
    """Sets a limit, never above what this process itself is allowed."""
    _, hard = resource.getrlimit(which)
    last = value + grace
    if hard != resource.RLIM_INFINITY:
        value, last = min(value, hard), min(last, hard)
    try:
        resource.setrlimit(which, (value, last))
    except (ValueError, OSError):
        if sys.platform == "linux":
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


def main(arguments: list[str]) -> None:
    """Sets the limits and becomes the command."""
    parent, memory, cpu, file, files, processes = map(int, arguments[:6])
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.path.basename(arguments[7]) != "bwrap":  # where it is setuid it needs that, then asks
            library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(125)  # the parent died before the kernel was asked
        if os.getuid() != 0:  # the kernel does not count the superuser's processes
            # Loose: it counts the user's threads outside of this container, too, which are not
            # seen here. The supervisor counts the run's own.
            lower(resource.RLIMIT_NPROC, threads_of(os.getuid()) + processes + SLACK)
    lower(resource.RLIMIT_AS, memory)
    lower(resource.RLIMIT_CPU, cpu, grace=1)  # SIGXCPU first, which says why; then SIGKILL
    lower(resource.RLIMIT_FSIZE, file)
    lower(resource.RLIMIT_NOFILE, files)
    lower(resource.RLIMIT_CORE, 0)
    os.umask(0o077)
    command = arguments[7:]
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {os.path.basename(command[0])}: {error.strerror}\n")
        os._exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
