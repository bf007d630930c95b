"""Runs PostgreSQL's programs as somebody who is not root.

As a module it is imported; as a script, with a program and its arguments, it becomes that program
inside a user namespace in which root is user 1000. Files stay root's, so that nothing needs to be
given away or opened up.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

INSIDE_UID = 1000
UNPRIVILEGED_UID = 65534
CLONE_NEWUSER = 0x10000000


class LaunchError(Exception):
    """PostgreSQL cannot be run as somebody else than root here."""


def run(command: Sequence[str], *, owner_of: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end.

    Args:
        command: The program and its arguments.
        owner_of: The folder it owns.
    """
    prefix, uid = _way(owner_of)
    _give(owner_of, uid)
    return subprocess.run(
        [*prefix, *command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=[] if uid is not None else None,
        env=_environment(),
    )


def spawn(
    command: Sequence[str], *, owner_of: Path, also: Sequence[Path], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, which outlives this process.

    Args:
        command: The program and its arguments.
        owner_of: The folder it owns.
        also: More folders it owns.
        output: Where its output goes.
    """
    prefix, uid = _way(owner_of)
    for folder in (owner_of, *also):
        _give(folder, uid)
    return subprocess.Popen(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        start_new_session=True,
        user=uid,
        group=uid,
        extra_groups=[] if uid is not None else None,
        env=_environment(),
    )


def enter_namespace() -> None:
    """Enters a user namespace in which the present user is `INSIDE_UID`.

    Raises:
        OSError: The system does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_UID} {gid} 1")


def _way(folder: Path) -> tuple[list[str], int | None]:
    """What to put before a command, and which user to run it as (None: the present one)."""
    if os.getuid() != 0:
        return [], None
    if _namespaces_work():
        return [sys.executable, "-I", "-S", __file__], None
    for parent in folder.absolute().parents:
        if not parent.stat().st_mode & 0o001:
            raise LaunchError(
                f"PostgreSQL does not run as root, and user {UNPRIVILEGED_UID} cannot pass "
                f"through {parent}; set VISTAFLOW_HOME to a folder that others can reach, run "
                "vistaflow as another user, or set VISTAFLOW_REGISTRY_DATABASE"
            )
    return [], UNPRIVILEGED_UID


_works: list[bool] = []


def _namespaces_work() -> bool:
    if not _works:
        told = subprocess.run(
            [sys.executable, "-I", "-S", __file__, sys.executable, "-I", "-S", "-c", ""],
            capture_output=True,
            check=False,
        )
        _works.append(told.returncode == 0)
    return _works[0]


def _give(folder: Path, uid: int | None) -> None:
    """Makes the folder belong to who the program runs as, if it does not yet."""
    if os.getuid() != 0:
        return
    owner = 0 if uid is None else uid
    if folder.stat().st_uid == owner:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), owner, owner, follow_symlinks=False)
    os.chown(folder, owner, owner)


def _environment() -> dict[str, str]:
    """No PG* settings of the caller, and no locale to complain about."""
    kept = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


if __name__ == "__main__":
    enter_namespace()
    os.execv(sys.argv[1], sys.argv[1:])
