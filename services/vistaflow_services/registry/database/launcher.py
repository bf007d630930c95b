"""Runs PostgreSQL's programs, which refuse to run as root, as another user.

As a module it is imported; as a script it becomes a program in one of two ways:

| way | user of the program | owner of its files |
|---|---|---|
| `namespace` | another user inside a user namespace, the present one outside | the present user |
| `user` | an unprivileged user, who may pass through folders closed to others | that user |

Root uses the first where the system allows it, because no file has to change its owner. initdb
needs the name of its user. A user without a name, as in a container that runs under a number, gets
one inside a namespace.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

INSIDE_UID = 1000
"""The user inside a namespace on a machine whose only named user is root."""

UNPRIVILEGED_UID = 65534

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

_SCRIPT = (sys.executable, "-I", "-S", __file__)
_NOTHING = (sys.executable, "-I", "-S", "-c", "")

# A server outlives the object that started it. Python warns if the handle of a process that still
# runs is collected, so handles stay here until their processes have ended.
_started: list[subprocess.Popen[bytes]] = []


class LaunchError(Exception):
    """PostgreSQL cannot run as another user than root on this system."""


def start(
    command: Sequence[str], *, owner_of: Path, also: Sequence[Path] = (), output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, so that it outlives this process.

    Args:
        command: The program and its arguments.
        owner_of: The folder that its user must own.
        also: More folders that its user must own.
        output: Receives its output.

    Raises:
        LaunchError: It cannot run on this system.
    """
    prefix, owner = _way(owner_of, asks_for_name=Path(command[0]).name == "initdb")
    for folder in (owner_of, *also):
        _give(folder, owner)
    process = subprocess.Popen(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        start_new_session=True,
        env=_environment(),
    )
    _started[:] = [running for running in _started if running.poll() is None]
    _started.append(process)
    return process


def owners() -> set[int]:
    """The users that may own files of a PostgreSQL server that this process started."""
    return {os.geteuid(), *([_fallback_uid()] if os.geteuid() == 0 else [])}


def _way(folder: Path, *, asks_for_name: bool) -> tuple[list[str], int]:
    """The words to put before a command, and the user who must own its folders."""
    uid = os.geteuid()
    unnamed = asks_for_name and not _has_name(uid)
    if uid != 0 and not unnamed:
        return [], uid
    if _works(*_SCRIPT, "namespace", str(_inside_uid()), *_NOTHING):
        return [*_SCRIPT, "namespace", str(_inside_uid())], uid
    if uid != 0:
        raise LaunchError(
            f"PostgreSQL's initdb asks for the name of its user, and this system has none for "
            f"user {uid}: add a line for it to /etc/passwd, run vistaflow as a user with a name, "
            "or set VISTAFLOW_REGISTRY_DATABASE"
        )
    fallback = _fallback_uid()
    way = [*_SCRIPT, "user", str(fallback)]
    reach = [*_NOTHING[:-1], "import os, sys; os.scandir(sys.argv[1])", str(folder.parent)]
    if not _works(*way, *reach) or (asks_for_name and not _has_name(fallback)):
        raise LaunchError(
            f"PostgreSQL does not run as root, and user {fallback} cannot use {folder.parent}; set "
            "VISTAFLOW_HOME to a folder that others can reach, run vistaflow as another user, or "
            "set VISTAFLOW_REGISTRY_DATABASE"
        )
    return way, fallback


@functools.cache
def _works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


@functools.cache
def _inside_uid() -> int:
    """The user ID inside a namespace: a user with a name, but not the overflow user."""
    named = [INSIDE_UID] if _has_name(INSIDE_UID) else [entry.pw_uid for entry in pwd.getpwall()]
    return next((uid for uid in named if uid not in (0, UNPRIVILEGED_UID)), INSIDE_UID)


@functools.cache
def _fallback_uid() -> int:
    """The user ID without a namespace."""
    named = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_name == "nobody"]
    return next((uid for uid in (UNPRIVILEGED_UID, *named) if _has_name(uid)), UNPRIVILEGED_UID)


def _give(folder: Path, owner: int) -> None:
    """Makes the user of the program the owner of a folder.

    Raises:
        LaunchError: The folder belongs to another user than this one or that of the program.
    """
    present = folder.stat().st_uid
    if os.geteuid() != 0 or present == owner:
        return
    if present not in owners():
        raise LaunchError(f"{folder} belongs to user {present}: run vistaflow as that user")
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), owner, owner, follow_symlinks=False)
    os.chown(folder, owner, owner)


def _environment() -> dict[str, str]:
    """The environment of the program: without PG* settings of the caller, with the locale C."""
    names = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ} | {"LC_ALL": "C"}


def enter_namespace(uid: int) -> None:
    """Enters a user namespace in which the current user is mapped to one with a name.

    Raises:
        OSError: The system does not allow it.
    """
    outside_uid, outside_gid = os.getuid(), os.getgid()
    named = _has_name(uid)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWUSER | (0 if named else CLONE_NEWNS)))
    Path("/proc/self/setgroups").write_text("deny", "ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {outside_uid} 1", "ascii")
    Path("/proc/self/gid_map").write_text(f"{uid} {outside_gid} 1", "ascii")
    if named:
        return
    # On this system only root has a name, so this process gets a list of users of its own.
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    with tempfile.NamedTemporaryFile() as file:
        file.write(f"vistaflow:x:{uid}:{uid}::/:/bin/false\n".encode())
        file.flush()
        _check(libc.mount(os.fsencode(file.name), b"/etc/passwd", None, MS_BIND, None))


def become_user(uid: int) -> None:
    """Becomes an unprivileged user, who may pass through closed folders if root may.

    Raises:
        OSError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux:
        _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if not linux:
        return
    # A home such as /root/.vistaflow is inside a folder that only root may enter. If root itself
    # lacks the capability, this has no effect, and the caller notices it when it tries the folder.
    words = ctypes.c_uint32
    header = (words * 2)(CAPABILITY_VERSION_3, 0)
    mask = 1 << CAP_DAC_OVERRIDE
    libc.capset(header, (words * 6)(mask, mask, mask, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    {"namespace": enter_namespace, "user": become_user}[sys.argv[1]](int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])
