"""Processes that tests start and end: none is left behind, and one that does not end says why."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def end(
    process: subprocess.Popen[Any],
    seconds: float = 60,
    *,
    sign: signal.Signals = signal.SIGTERM,
    output: Path | None = None,
) -> int:
    """Asks a process to end; its exit code.

    Started with `PYTHONFAULTHANDLER`, one that does not end in time writes where its threads are
    into its output, which the error shows.
    """
    try:
        process.send_signal(sign)
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        time.sleep(1)  # for what it writes
        text = output.read_text(errors="replace")[-20_000:] if output is not None else ""
        raise AssertionError(f"{process.args} did not end in {seconds:g} s\n{text}") from None
    finally:
        process.kill()
        process.wait()


@contextmanager
def reaped(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process that is killed at the end of the block, if it has not ended by then."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def commands() -> Iterator[tuple[int, list[bytes]]]:
    """The id and the command line of each process of this machine that has one."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it may have ended meanwhile
                command = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if command != [b""]:
                    yield int(name), command


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The files below a folder, some of which may go while they are read."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            try:
                if path.is_file():
                    yield path, path.read_bytes()
            except OSError:
                continue
