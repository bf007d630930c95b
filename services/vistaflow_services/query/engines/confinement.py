"""What the process of a query may still do: read its files, write its folder, compute.

The process gives up its rights itself, after the fork and before it opens DuckDB, so that it
starts with the imports done; a program such as bubblewrap would have to start Python again. All of
this works without being root, also in a container:

    Landlock        no file but those listed, no TCP, no signals to other processes
    seccomp         no sockets, no programs, no tracing, no namespaces, no kernel keys
    capabilities    none, where the service runs as root
    limits          processor time, memory, size and number of files
    environment     empty

The machine's kernel may lack the first two; `description` says so, and DuckDB's own settings, which
refuse other files and extensions, are then what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from vistaflow_services.core import files
from vistaflow_services.core.work.process_groups import die_with_parent

_library = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of Landlock knows; newer ones know 16."""

_SYSTEM = tuple(map(Path, ("/dev/null", "/dev/urandom", "/proc/self/cgroup", "/sys/fs/cgroup")))
_TCP, _SCOPES = 0b11, 0b11
_NO_NEW_PRIVILEGES, _GET_SECCOMP, _SET_SECCOMP, _FILTER = 38, 21, 22, 2
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_CAPABILITY_VERSION = 0x20080522

_MACHINES = {
    "x86_64": (
        0xC000003E,
        # socket connect accept socketpair bind listen execve kill ptrace mount ...
        (
            41, 42, 43, 53, 49, 50, 59, 62, 101, 165, 166, 169, 175, 200, 246, 248, 249, 250, 272,
            298, 303, 304, 308, 310, 311, 313, 320, 321, 322, 323, 424, 425, 434, 438, 442,
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            198, 203, 202, 199, 200, 201, 221, 129, 117, 40, 39, 142, 105, 130, 104, 217, 218, 219,
            97, 241, 264, 265, 268, 270, 271, 273, 294, 280, 281, 282, 424, 425, 434, 438, 442,
        ),
    ),
}  # fmt: skip
"""The number by which seccomp knows a machine, and the system calls that are refused: sockets,
programs, signals, tracing and memory of others, mounts, modules, kernel keys, namespaces, handles
of files, and io_uring, which would get around this."""


@lru_cache(maxsize=1)
def description() -> str:
    """What confines queries on this machine, in one line for people."""
    version = landlock_version()
    parts = [f"Landlock {version}"] if version else []
    parts += ["seccomp"] if _can_filter() else []
    return " and ".join(parts) or "limits and the settings of DuckDB only"


def note_confinement(home: Path) -> None:
    """Leaves a file for `vistaflow doctor`."""
    state = {"confinement": description(), "complete": bool(landlock_version() and _can_filter())}
    with contextlib.suppress(OSError):  # a full disk must not end the service
        files.write(home / "run" / "query.json", json.dumps(state).encode())


def landlock_version() -> int:
    """The version of Landlock that the kernel has; 0 if it has none or it is off."""
    return max(0, _system_call(_CREATE_RULESET, None, 0, 1)) if sys.platform == "linux" else 0


def confine(
    readable: Iterable[Path], writable: Path, *, parent: int, seconds: int, memory: int, file: int
) -> None:
    """Gives up everything else, for this process and all its threads; there must be one.

    Args:
        readable: Files that may be read.
        writable: The folder in which anything may be done.
        parent: The process with which this one ends.
        seconds: Processor time.
        memory: Bytes of data.
        file: Bytes of the largest file.

    Raises:
        FileNotFoundError: One of the files is gone; `filename` is its path.
    """
    die_with_parent(parent)
    os.environ.clear()
    os.umask(0o077)
    for which, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(which, value)
    # Otherwise a write over the limit ends the process without a word.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    _prctl(_NO_NEW_PRIVILEGES, 1)
    if version := landlock_version():
        _restrict_files(version, readable, writable)
    if _can_filter():
        _restrict_calls()
    _drop_capabilities()


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _restrict_files(version: int, readable: Iterable[Path], writable: Path) -> None:
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    # The attribute grew with the versions, and an old kernel refuses what it does not know.
    attribute = struct.pack("QQQ", rights, _TCP, _SCOPES)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(_system_call(_CREATE_RULESET, attribute, size, 0))
    _allow(ruleset, writable, rights & ~_EXECUTE)
    for path in readable:
        _allow(ruleset, path, _READ_FILE)
    for path in _SYSTEM:
        # DuckDB looks up the limits of its control group, and does not open without.
        with contextlib.suppress(FileNotFoundError):
            _allow(ruleset, path, _READ_FILE)
    _checked(_system_call(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(_system_call(_ADD_RULE, ruleset, 1, rule, 0))
    finally:
        os.close(descriptor)


def _can_filter() -> bool:
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.maxsize < 1 << 32:
        return False
    return int(_library.prctl(_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def _restrict_calls() -> None:
    machine, refused = _MACHINES[platform.machine()]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),  # the machine: another one has other numbers
        (equal, 1, 0, machine),
        (answer, 0, 0, _EPERM),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 0, 1, 0x40000000),  # x32: the same calls under other numbers
        (answer, 0, 0, _EPERM),
    ]
    for number in refused:
        program += [(equal, 0, 1, number), (answer, 0, 0, _EPERM)]
    program.append((answer, 0, 0, _ALLOW))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(filter_, len(filter_)))


def _drop_capabilities() -> None:
    # A process that is not root has none and may be refused: nothing is lost.
    with contextlib.suppress(AttributeError):
        header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
        _library.capset(header, bytes(24))


def _prctl(option: int, *arguments: object) -> None:
    zeros = [0] * (4 - len(arguments))
    _checked(_library.prctl(option, *arguments, *zeros))


def _system_call(number: int, *arguments: object) -> int:
    return int(_library.syscall(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
