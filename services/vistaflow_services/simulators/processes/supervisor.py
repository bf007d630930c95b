"""Runs one command under limits and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from vistaflow_services.simulators.processes.launcher import Run, discard_launcher, this_launcher
from vistaflow_services.simulators.processes.limits import Limits

TAIL_BYTES: Final = 64 * 1024
"""How much of the end of a run's output is read."""

_POLL_SECONDS = 0.1
_INSPECT_SECONDS = 0.25
_REAPED_SECONDS = 0.01
_MOST_ROUNDS = 100
_PAGE = os.sysconf("SC_PAGE_SIZE")


class End(Enum):
    """How a run ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    OVER_LIMIT = "over limit"


class Canceled(Exception):
    """The run was asked to stop and has stopped; it has no outcome."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that is over: all its processes are gone."""

    end: End
    returncode: int
    output: str
    """Standard output, its last `TAIL_BYTES`."""
    errors: str
    """Standard error, likewise."""
    stdout: Path
    """The file with all of its standard output, while the run's folder is there."""
    stderr: Path
    """The file with all of its standard error, likewise."""
    seconds: float
    detail: str = ""
    """Which limit was broken."""

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0; also when a shell or sandbox passed it on as 128 + n."""
        if self.returncode < 0:
            return -self.returncode
        return self.returncode - 128 if 128 < self.returncode < 160 else 0


def supervise(
    command: Sequence[str],
    *,
    work: Path,
    logs: Path,
    limits: Limits,
    environment: Mapping[str, str],
    should_stop: Callable[[], bool],
) -> Finished:
    """Runs `command` in `work` until it ends, its time is up, it breaks a limit, or it must stop.

    However it ends, its process, its group and all that descends from it, wherever it went, are
    killed before this returns.

    Args:
        command: The program by its absolute path, and its arguments; no shell.
        work: The run's own folder.
        logs: A folder out of the run's reach, for its captured output.
        limits: What it may use.
        environment: All of its environment.
        should_stop: Asked about ten times a second.
    """
    start = time.monotonic()
    with open(logs / "stdout", "w+b") as out, open(logs / "stderr", "w+b") as err:
        run = _start(
            command,
            work=work,
            limits=limits,
            environment=environment,
            output=out.fileno(),
            errors=err.fileno(),
        )
        try:
            end, detail = _watch(run, work, limits, start, should_stop)
        finally:
            _kill(run)
        seconds = time.monotonic() - start
        return Finished(
            end=end,
            returncode=-signal.SIGKILL if run.returncode is None else run.returncode,
            output=_tail(out.fileno()),
            errors=_tail(err.fileno()),
            stdout=logs / "stdout",
            stderr=logs / "stderr",
            seconds=seconds,
            detail=detail,
        )


def _start(command: Sequence[str], **options: Any) -> Run:
    """Starts the run, by another launcher if that of this thread has died since the last one."""
    with contextlib.suppress(OSError):
        return this_launcher().start(command, **options)
    discard_launcher()
    return this_launcher().start(command, **options)


def _watch(
    run: Run, work: Path, limits: Limits, start: float, should_stop: Callable[[], bool]
) -> tuple[End, str]:
    inspected = start
    while True:
        left = start + limits.seconds - time.monotonic()
        if run.ended(max(0.0, min(_POLL_SECONDS, left))):
            return End.EXITED, ""
        if left <= 0:
            return End.TIMEOUT, f"no result after {limits.seconds:g} s"
        if should_stop():
            return End.CANCELED, ""
        if time.monotonic() - inspected >= _INSPECT_SECONDS:
            broken = _broken(run, work, limits)
            if broken:
                return End.OVER_LIMIT, broken
            inspected = time.monotonic()


def _broken(run: Run, work: Path, limits: Limits) -> str:
    """Which limit a whole run breaks, that the kernel only holds for each process."""
    if _folder_bytes(work, limits.folder_bytes) > limits.folder_bytes:
        return f"its files exceed {_format_size(limits.folder_bytes)}"
    threads = resident = 0
    for descendant in _descendants(run.launcher):
        try:
            fields = Path(f"/proc/{descendant}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        threads += int(fields[17])
        resident += int(fields[21]) * _PAGE
    if threads > limits.processes:
        return f"it started more than {limits.processes} processes"
    if resident > limits.memory_bytes:
        return f"its processes together use more than {_format_size(limits.memory_bytes)} of memory"
    return ""


def _folder_bytes(folder: Path, enough: int) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += _folder_bytes(Path(entry.path), enough - total)
                else:
                    # Blocks, not length: a sparse file takes no room.
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
            if total > enough:
                break
    return total


def _descendants(launcher: int) -> list[int]:
    """The processes of a run: all that descend from its launcher."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    pids: list[int] = []
    queue = [launcher]
    while queue:
        below = children.get(queue.pop(), [])
        pids += below
        queue += below
    return pids


def _kill(run: Run) -> None:
    """Kills a run's processes until none is left.

    They are stopped before they are killed, so that none starts another meanwhile. What left the
    run's group was adopted by the launcher and descends from it.
    """
    for _ in range(_MOST_ROUNDS):
        if run.left_nothing(0.0 if run.returncode is None else _REAPED_SECONDS):
            return
        for signal_ in (signal.SIGSTOP, signal.SIGKILL):
            for descendant in _descendants(run.launcher):
                with contextlib.suppress(OSError):
                    os.kill(descendant, signal_)
        if sys.platform != "linux":  # no /proc, and nobody is adopted
            with contextlib.suppress(OSError):
                os.killpg(run.pid, signal.SIGKILL)
        run.left_nothing(_REAPED_SECONDS)
    discard_launcher()  # its answers would be about this run


def _tail(handle: int) -> str:
    size = os.fstat(handle).st_size
    return os.pread(handle, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")


def _format_size(size: int) -> str:
    return f"{size / 1024**2:g} MiB"
