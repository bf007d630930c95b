"""What a run that did not succeed died of, whatever the simulator."""

from __future__ import annotations

import signal
from typing import Final

from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.outcome import Failure, Outcome, failed
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.supervisor import End, Finished

SHOWN: Final = 1200
"""Characters of a run's last words that its message quotes."""


def last_words(finished: Finished) -> str:
    """The end of what a run printed, of standard error where there is any."""
    return (finished.errors.strip() or finished.output.strip())[-SHOWN:]


def unsuccessful(
    point: Point, finished: Finished, limits: Limits, kind: Failure = Failure.CRASHED
) -> Outcome:
    """The failed outcome of a run, named by the limit it broke, its signal or its exit status.

    Args:
        point: What was run.
        finished: How it ended.
        limits: What it was allowed.
        kind: What an end without a recognised cause means.
    """
    words = last_words(finished)
    if finished.end is End.TIMEOUT:
        return failed(point, Failure.TIMEOUT, finished.detail, finished.seconds)
    if finished.end is End.OVER_LIMIT:
        return failed(point, Failure.CRASHED, finished.detail, finished.seconds)
    number = finished.signal
    if number == signal.SIGXCPU:
        message = f"no result after {limits.cpu_seconds} s of processor time"
        return failed(point, Failure.TIMEOUT, message, finished.seconds)
    if number == signal.SIGXFSZ:
        cause = f"it wrote a file larger than {limits.file_bytes / 1024**2:g} MiB"
    elif number:
        try:
            cause = f"it was ended by signal {signal.Signals(number).name}"
        except ValueError:
            cause = f"it was ended by signal {number}"
    elif finished.returncode != 0:
        cause = f"exit status {finished.returncode}"
    else:
        cause = "it ended without a result"
    return failed(point, kind, f"{cause}\n{words}" if words else cause, finished.seconds)
