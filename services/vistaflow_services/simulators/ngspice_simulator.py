"""Circuit decks: ngspice in batch mode, a process for each point."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.limits import Limits
from vistaflow_services.simulators.ngspice_output import FAILED, Printed, is_complex, read_printed
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated
from vistaflow_services.simulators.sandbox import this_sandbox
from vistaflow_services.simulators.supervise import Finished
from vistaflow_services.simulators.verdict import unsuccessful

_SHOWN: Final = 260
"""Characters of the netlist's own error that a message quotes."""

_IMPOSSIBLE: Final = re.compile(
    r"no such|bad syntax|must be given|invalid|limited to", re.IGNORECASE
)
"""Reasons of a failed measure that lie in how it is written, not in the circuit's figures."""


def version() -> str:
    """The version of the `ngspice` on PATH, or nothing."""
    path = shutil.which("ngspice")
    return _version_of(path, os.stat(path).st_mtime_ns) if path else ""


@lru_cache(maxsize=4)
def _version_of(path: str, _changed: int) -> str:
    try:
        told = subprocess.run(
            [path, "--version"], capture_output=True, timeout=20, check=False
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"ngspice[- ]+(\d[\w.]*)", told)
    return match[1] if match else "unknown"


def prepare(deck: Deck, point: Point, work: Path) -> tuple[list[str], dict[str, str]]:
    """The command for the deck's first template, and its environment."""
    path = shutil.which("ngspice")
    if path is None:
        raise UnavailableError("ngspice is not on PATH")
    sandbox = this_sandbox()
    place = sandbox.place(work)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": place,
        "TMPDIR": place,
        "LANG": "C",
        "OMP_NUM_THREADS": "1",
    }
    # -n: no .spiceinit, the user's or the deck's: it would run before the deck, unscreened.
    argv = [os.path.realpath(path), "-n", "-b", deck.templates[0]]
    prefix = Path(os.path.realpath(path)).parent.parent
    readable = [] if prefix.is_relative_to("/usr") or prefix == Path("/") else [prefix]
    return sandbox.command(work, readable, argv), environment


def outcome(deck: Deck, point: Point, work: Path, finished: Finished, limits: Limits) -> Outcome:
    """What ngspice printed, judged.

    ngspice exits with 0 when analyses abort and measures fail, and with 1 when the control block
    only lacks a `quit`. So evidence of failure is decisive, whatever the output and the exit
    status; without it the figures count.
    """
    extracts = {each.extract.lower(): each.extract for each in deck.responses}
    printed = read_printed(finished.stdout, finished.stderr, extracts)
    if finished.signal:
        return unsuccessful(point, finished, limits)
    if printed.fatal:
        kind = Failure.NO_CONVERGENCE if printed.diverged else Failure.CRASHED
        return failed(point, kind, _explained(printed.fatal, printed), finished.seconds)
    # With a note that nothing more was run it ends with 1 although all went well.
    if finished.returncode != 0 and not (
        finished.returncode == 1 and (printed.unrun or printed.unsaved)
    ):
        if not printed.error:
            return unsuccessful(point, finished, limits)
        message = _explained(f"exit status {finished.returncode}", printed)
        return failed(point, Failure.CRASHED, message, finished.seconds)
    for name, extract in extracts.items():
        value = printed.values.get(name)
        if value is None:
            return failed(point, Failure.CRASHED, _missing(extract, printed), finished.seconds)
        if value == FAILED:
            return _unmeasured(point, extract, printed, finished)
        if is_complex(value):
            message = (
                f"`{extract}` is complex ({value}), not a number: print a real value of it, with "
                f"`let {extract} = mag(...)`, db(), ph(), real() or imag()"
            )
            return failed(point, Failure.CRASHED, message, finished.seconds)
    figures = {extracts.get(name, name): value for name, value in printed.values.items()}
    return gated(point, deck.responses, figures, finished.seconds)


def _unmeasured(point: Point, extract: str, printed: Printed, finished: Finished) -> Outcome:
    """The outcome of a run in which a measure failed."""
    reason = printed.reasons.get(extract.lower(), "")
    if _IMPOSSIBLE.search(reason or printed.error):
        message = _explained(f"the measure `{extract}` failed", printed)
        return failed(point, Failure.CRASHED, message, finished.seconds)
    message = f"the measure `{extract}` has no result at this point"
    return failed(
        point, Failure.INFEASIBLE, f"{message}: {reason}" if reason else message, finished.seconds
    )


def _missing(extract: str, printed: Printed) -> str:
    """Why a figure is not there, as far as can be seen."""
    if printed.error and not printed.unsaved:
        return _explained(f"no `{extract}` was printed", printed)
    if printed.unsaved:
        return (
            f"no `{extract}`: {printed.unsaved}; list the vectors that it reads in a `.save` line, "
            "such as `.save all`, or print them"
        )
    if extract.lower() in printed.columns:
        return (
            f"`{extract}` is printed as a table: it has a value at each point of the analysis; "
            "reduce it to one with `.meas`, or print one element of it"
        )
    if not printed.analysed:
        return (
            f"no `{extract}`: the netlist runs no analysis; add `.op`, `.dc`, `.ac` or `.tran` "
            "with a `.print` line, or run one in its control block"
        )
    others = ", ".join(sorted(printed.values)[:20]) or "no figure"
    return (
        f"ngspice printed no `{extract}`; it printed {others}. A `.meas` has a result only if the "
        "analysis that it names is run"
    )


def _explained(message: str, printed: Printed) -> str:
    """A message after the netlist's own first error, which says the line."""
    error = " ".join(printed.error.split())
    if not error:
        return message
    return f"ngspice: {error[:_SHOWN]}" + ("" if message in error else f"; {message}")
