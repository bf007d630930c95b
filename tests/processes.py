"""Processes that tests start and end: none is left behind, and one that does not end says why."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path


def end(
    process: subprocess.Popen[bytes],
    seconds: float = 60,
    *,
    sign: signal.Signals = signal.SIGTERM,
    output: Path | None = None,
) -> int:
    """Asks a process to end; its exit code.

    Started with `PYTHONFAULTHANDLER`, one that does not end in time writes where its threads are
    into its output, which the error shows.
    """
    process.send_signal(sign)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        time.sleep(1)  # for what it writes
        text = output.read_text(errors="replace")[-20_000:] if output is not None else ""
        raise AssertionError(f"{process.args} did not end in {seconds:g} s\n{text}") from None
    finally:
        process.kill()
        process.wait()
