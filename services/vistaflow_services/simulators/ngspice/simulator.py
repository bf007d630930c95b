"""Circuit decks: ngspice in batch mode, a process for each point; `batches` has several in one."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import python_simulator
from vistaflow_services.simulators.bridges.registered import in_folders
from vistaflow_services.simulators.bridges.results import NoResultsError
from vistaflow_services.simulators.ngspice.models import folders_of
from vistaflow_services.simulators.ngspice.output import FAILED, Printed, is_complex, read_printed
from vistaflow_services.simulators.outcome import (
    Failure,
    Outcome,
    clipped,
    failed,
    gated,
)
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.sandbox import this_sandbox
from vistaflow_services.simulators.processes.step import Step
from vistaflow_services.simulators.processes.supervisor import Finished
from vistaflow_services.simulators.processes.verdict import unsuccessful

_SHOWN: Final = 260
"""Characters of the netlist's own error that a message quotes."""

_IMPOSSIBLE: Final = re.compile(
    r"no such|bad syntax|must be given|invalid|limited to", re.IGNORECASE
)
"""Reasons of a failed measure that lie in how it is written, not in the circuit's figures."""


def version() -> str:
    """The version of the `ngspice` on PATH, or nothing."""
    path = _program()
    return _version_of(path, os.stat(path).st_mtime_ns) if path else ""


def _program() -> str | None:
    """The `ngspice` on PATH; as `shutil.which`, which takes a millisecond of each point."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = f"{folder}/ngspice"
        if folder and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


@lru_cache(maxsize=4)
def _version_of(path: str, _changed: int) -> str:
    try:
        printed = subprocess.run(
            [path, "--version"], capture_output=True, timeout=20, check=False
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"ngspice[- ]+(\d[\w.]*)", printed)
    return match[1] if match else "unknown"


INIT: Final = ".spiceinit"
"""The deck's file with settings of ngspice that come before the netlist is read."""


def steps(deck: Deck, point: Point, work: Path) -> list[Step]:
    """The command for each netlist, then the deck's function that reads what they have written."""
    models = folders_of(deck)
    name_models(deck, work, models)
    commands = [command(deck, work, netlist, models) for netlist in deck.netlists]
    return [*commands, *python_simulator.extraction(deck, point, work)]


def name_models(deck: Deck, folder: Path, models: Mapping[str, Path]) -> None:
    """Writes registered folders by their paths where the deck's files name them."""
    for name in deck.files if models else ():
        if not name.endswith(".py") and (file := folder / name).is_file():
            file.write_bytes(in_folders(file.read_bytes(), models))


def command(deck: Deck, work: Path, netlist: str, models: Mapping[str, Path]) -> Step:
    """The command that has ngspice read a netlist in a folder.

    Raises:
        UnavailableError: If there is no ngspice.
    """
    path = _program()
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
    program = os.path.realpath(path)
    prefix = Path(program).parent.parent
    readable = [
        folder
        for folder in dict.fromkeys((prefix, *models.values()))
        if folder != Path("/") and not folder.is_relative_to("/usr")
    ]
    # -n: no .spiceinit but the deck's, which is screened. Its home is the run's folder.
    options = ["-b"] if INIT in deck.files else ["-n", "-b"]
    argv = sandbox.command(work, readable, [program, *options, netlist])
    return Step(argv=argv, environment=environment)


def outcome(
    deck: Deck, point: Point, work: Path, finished: Sequence[Finished], limits: Limits
) -> Outcome:
    """The figures of all netlists together, judged; the first failure counts."""
    names = figure_names(deck)
    printed = (read_printed(run.stdout, run.stderr, names) for run in finished)
    return judged(deck, point, work, finished, printed, limits)


def figure_names(deck: Deck) -> set[str]:
    """What the deck's figures are called in the output, in lower case."""
    return {response.extract.lower() for response in deck.responses}


def judged(
    deck: Deck,
    point: Point,
    work: Path,
    finished: Sequence[Finished],
    streams: Iterable[Printed],
    limits: Limits,
) -> Outcome:
    """As `outcome`, of what each run has printed."""
    extracts = {response.extract.lower(): response for response in deck.responses}
    seconds = sum(one.seconds for one in finished)
    figures: dict[str, Any] = {}
    sources: dict[str, str] = {}
    others: set[str] = set()
    last: Printed | None = None
    for netlist, run, printed in zip(deck.netlists, finished, streams, strict=False):
        where = f"{netlist}: " if len(deck.netlists) > 1 else ""
        ending = _ending(point, run, printed, limits)
        if ending is not None:
            return replace(ending, message=clipped(where + ending.message), seconds=seconds)
        for name, value in printed.values.items():
            if name not in extracts:
                others.add(name)
                figures.setdefault(name, value)
                continue
            if name in sources:
                message = f"both {sources[name]} and {netlist} print `{name}`: rename one of them"
                return failed(point, Failure.CRASHED, message, seconds)
            sources[name] = netlist
            extract = extracts[name].extract
            if value == FAILED:
                unmeasured = _unmeasured(point, extract, printed, run)
                if unmeasured.failure is Failure.INFEASIBLE and extracts[name].fallback is not None:
                    figures[extract] = None
                    continue
                return replace(unmeasured, seconds=seconds)
            if is_complex(value):
                return failed(point, Failure.CRASHED, _complex(extract, value), seconds)
            figures[extract] = value
        last = printed if last is None or printed.error else last
    if deck.extract:
        try:
            figures |= python_simulator.extracted(work, finished[-1])
        except NoResultsError as error:
            return failed(point, Failure.CRASHED, str(error), seconds)
    for response in deck.responses:
        if response.extract not in figures and last is not None and not deck.extract:
            last.values = {name: "" for name in others | set(sources)}
            return failed(point, Failure.CRASHED, _missing(response.extract, last), seconds)
    return gated(point, deck.responses, figures, seconds)


def _ending(point: Point, finished: Finished, printed: Printed, limits: Limits) -> Outcome | None:
    """The failed outcome of a run that did not come to its end; None if it did.

    ngspice exits with 0 when analyses abort and measures fail, and with 1 when the control block
    only lacks a `quit`. So evidence of failure is decisive, whatever the output and the exit
    status; without it the figures count.
    """
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
    return None


def _complex(extract: str, value: str) -> str:
    return (
        f"`{extract}` is complex ({value}), not a number: print a real value of it, with "
        f"`let {extract} = mag(...)`, db(), ph(), real() or imag()"
    )


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
