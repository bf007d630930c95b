"""Runs one command under limits and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from vistaflow_services.simulators.limits import Limits

MARK: Final = "VISTAFLOW_RUN"
"""Environment variable that a run's processes inherit, wherever they hide."""

TAIL_BYTES: Final = 64 * 1024
"""How much of the end of a run's output is read."""

_POLL_SECONDS = 0.1
_INSPECT_SECONDS = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LAUNCHER = str(Path(__file__).with_name("launch.py"))


class End(Enum):
    """How a run ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    OVER_LIMIT = "over limit"


class Canceled(Exception):
    """Somebody asked for the run to stop; it has stopped, and nothing came of it."""


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

    However it ends, its process group, the group's descendants and whatever still carries the
    run's mark are killed before this returns.

    Args:
        command: The program by its absolute path, and its arguments; no shell.
        work: The run's own folder.
        logs: A folder out of the run's reach, for its captured output.
        limits: What it may use.
        environment: All of its environment, except for the mark.
        should_stop: Asked about ten times a second.
    """
    mark = uuid.uuid4().hex
    launch = [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid())]
    numbers = (limits.memory_bytes, limits.cpu_seconds, limits.file_bytes)
    launch += [*map(str, numbers), str(limits.open_files), str(limits.processes), "--"]
    start = time.monotonic()
    with open(logs / "stdout", "w+b") as out, open(logs / "stderr", "w+b") as err:
        process = subprocess.Popen(
            [*launch, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=work,
            env={**environment, MARK: mark},
            start_new_session=True,
            close_fds=True,
        )
        try:
            end, detail = _watch(process, work, limits, start, should_stop)
        finally:
            _kill(process, mark)
        seconds = time.monotonic() - start
        return Finished(
            end=end,
            returncode=process.returncode,
            output=_tail(out.fileno()),
            errors=_tail(err.fileno()),
            stdout=logs / "stdout",
            stderr=logs / "stderr",
            seconds=seconds,
            detail=detail,
        )


def _watch(
    process: subprocess.Popen[bytes],
    work: Path,
    limits: Limits,
    start: float,
    should_stop: Callable[[], bool],
) -> tuple[End, str]:
    inspected = start
    with _ended(process) as wait:
        while True:
            left = start + limits.seconds - time.monotonic()
            if wait(max(0.0, min(_POLL_SECONDS, left))):
                return End.EXITED, ""
            if left <= 0:
                return End.TIMEOUT, f"no result after {limits.seconds:g} s"
            if should_stop():
                return End.CANCELED, ""
            if time.monotonic() - inspected >= _INSPECT_SECONDS:
                broken = _broken(process.pid, work, limits)
                if broken:
                    return End.OVER_LIMIT, broken
                inspected = time.monotonic()


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]):  # type: ignore[no-untyped-def]
    """A function that waits some seconds for the process and tells whether it has ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):

        def by_polling(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.returncode is not None

        yield by_polling
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def _broken(leader: int, work: Path, limits: Limits) -> str:
    """Which limit a whole run breaks, that the kernel only holds for each process."""
    if _folder_bytes(work, limits.folder_bytes) > limits.folder_bytes:
        return f"its files exceed {_told(limits.folder_bytes)}"
    threads = resident = 0
    for each in _descendants(leader):
        try:
            fields = Path(f"/proc/{each}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        threads += int(fields[17])
        resident += int(fields[21]) * _PAGE
    if threads > limits.processes:
        return f"it started more than {limits.processes} processes"
    if resident > limits.memory_bytes:
        return f"its processes together use more than {_told(limits.memory_bytes)} of memory"
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


def _descendants(leader: int) -> list[int]:
    """The process and all that descend from it."""
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
    found, queue = [leader], [leader]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _kill(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kills a run's processes until none is left.

    Descendants are stopped before they are killed, so that none starts another meanwhile. What
    left the group and was adopted by init is found by its mark.
    """
    clean = process.poll() == 0
    if process.returncode is None:
        for signal_ in (signal.SIGSTOP, signal.SIGKILL):
            for each in _descendants(process.pid):
                _send(each, signal_)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(20 if not clean else 3):
        marked = _marked(mark)
        if not marked:
            return
        for signal_ in (signal.SIGSTOP, signal.SIGKILL):
            for each in marked:
                _send(each, signal_)
        time.sleep(0.01)


def _send(process: int, signal_: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(process, signal_)


def _marked(mark: str) -> list[int]:
    """Processes that inherited the mark and still run."""
    sought = f"{MARK}={mark}".encode()
    found: list[int] = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if sought in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
    return found


def _tail(handle: int) -> str:
    size = os.fstat(handle).st_size
    return os.pread(handle, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")


def _told(size: int) -> str:
    return f"{size / 1024**2:g} MiB"
