"""Processes and their descendants, ended to the last one.

A simulator may put itself into a session of its own, so killing a process group is not enough:
descendants are found in `/proc`. Where there is no `/proc` the group has to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36

_PROC = Path("/proc")


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it is gone.

    Args:
        parent: The parent's id: if it is gone already, this process ends here.
    """
    if _prctl(_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, so that none gets out of sight."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def descendants(ancestor: int) -> list[int]:
    """Every process below `ancestor`, parents first, zombies left out."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(_PROC):
            if entry.name.isdigit():
                parent = _living_parent(int(entry.name))
                if parent is not None:
                    children.setdefault(parent, []).append(int(entry.name))
    processes: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        processes += below
        waiting += below
    return processes


def signal_tree(ancestor: int, number: signal.Signals) -> int:
    """Sends a signal to every process below `ancestor`; returns how many there were."""
    processes = descendants(ancestor)
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, number)
    return len(processes)


def kill_tree(ancestor: int) -> None:
    """Kills a process and all below it, at once."""
    # Stopped first, so that nothing starts another process while it is being counted.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        signal_tree(ancestor, number)
    with contextlib.suppress(OSError):
        os.kill(ancestor, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.killpg(ancestor, signal.SIGKILL)


def _living_parent(process: int) -> int | None:
    try:
        stat = (_PROC / str(process) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name is in parentheses and may hold anything, parentheses too.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def _prctl(option: int, value: int) -> bool:
    try:
        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False
