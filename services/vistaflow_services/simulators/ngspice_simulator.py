"""Circuit decks: ngspice in batch mode, a process for each point."""

from __future__ import annotations

import math
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
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated
from vistaflow_services.simulators.sandbox import this_sandbox
from vistaflow_services.simulators.supervise import Finished
from vistaflow_services.simulators.verdict import unsuccessful

_VALUE: Final = re.compile(r"^\s*([A-Za-z_][\w.#()]*)\s*=\s*(\S+)")
_UNMEASURED: Final = re.compile(
    r"^\s*(?:error:\s*measure\s+|\.?meas(?:ure)?\s+\w+\s+)(\w+)\b.*(?:failed|out of interval)",
    re.IGNORECASE | re.MULTILINE,
)
_NO_QUIT: Final = "no simulations run"
_STUCK: Final = re.compile(
    r"singular matrix|timestep too small|time ?step too small|no convergence|convergence problem"
    r"|iteration limit|gmin stepping failed|source stepping failed|simulation\(?s?\)? aborted"
    r"|analysis not run|run simulation\(s\) aborted",
    re.IGNORECASE,
)


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
    """What ngspice printed, judged; it exits with 0 when measures fail, too."""
    values = printed(finished.output)
    said = f"{finished.output}\n{finished.errors}"
    stuck = _STUCK.search(said)
    if finished.returncode == 1 and _NO_QUIT in said:
        message = f"end the control block with `quit`: ngspice returned 1 and said {_NO_QUIT!r}"
        return failed(point, Failure.CRASHED, message, finished.seconds)
    if finished.returncode != 0:
        kind = Failure.NO_CONVERGENCE if stuck else Failure.CRASHED
        return unsuccessful(point, finished, limits, kind)
    unmeasured = {name.lower() for name in _UNMEASURED.findall(said)}
    for each in deck.responses:
        name = each.extract.lower()
        value = values.get(name, "failed" if name in unmeasured else None)
        if value is None and stuck:
            message = f"no `{each.extract}`: {finished.errors.strip()[-1000:] or stuck[0]}"
            return failed(point, Failure.NO_CONVERGENCE, message, finished.seconds)
        if value == "failed":
            message = f"the measure `{each.extract}` found nothing at this point"
            return failed(point, Failure.INFEASIBLE, message, finished.seconds)
    declared = {each.extract.lower(): each.extract for each in deck.responses}
    named = {declared.get(name, name): value for name, value in values.items()}
    return gated(point, deck.responses, named, finished.seconds)


def printed(output: str) -> dict[str, str]:
    """`name = value` lines, names in lower case; the last word on each name counts."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        match = _VALUE.match(line)
        if match:
            value = match[2].rstrip(",")
            found[match[1].lower()] = "failed" if value.lower() == "failed" else _number(value)
    return found


def _number(value: str) -> str:
    """A number as Python reads it: ngspice prints `-nan` and `inf` like C."""
    if value.lower().lstrip("+-").startswith("nan"):
        return str(math.nan)
    return value
