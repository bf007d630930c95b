"""Several points of a circuit in one process, for decks that ask for it.

Starting ngspice takes longer than many circuits. A control script has it read the netlists of
several points in turn, as the deck writes them but for the `quit` at the end:

    echo MARK     between two points both streams have a mark
    MARK          (standard error: it is no command)
    cd 3          if more files than the netlist differ between points
    source MARK-3.cir
    echo MARK
    MARK
    ...           all that the point has left in the process is removed

With a circuit ngspice removes its parameters, functions, options, measures and models, and plots
get their first numbers again. What it keeps is removed by name (vectors beside plots, settings) or
is refused by `check` (defined functions, random numbers, other circuits). A point counts if what it
printed is whole and without any error; every other one is run again alone, which decides.
"""

from __future__ import annotations

import posixpath
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.deck import DECK_FILE, Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.bridges.registered import in_folders
from vistaflow_services.simulators.ngspice.models import folders_of
from vistaflow_services.simulators.ngspice.output import read_printed
from vistaflow_services.simulators.ngspice.screening import Kind, logical_lines
from vistaflow_services.simulators.ngspice.simulator import (
    INIT,
    command,
    figure_names,
    judged,
    name_models,
)
from vistaflow_services.simulators.outcome import MAX_LOG, Outcome, clipped
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.step import Step
from vistaflow_services.simulators.processes.supervisor import End, Finished

MAX_PRINTED: Final = 16 * 1024**2
"""Of a stream with more bytes no point counts."""

_COMMANDS: Final = frozenset(
    (
        "ac",
        "alter",
        "altermod",
        "dc",
        "disto",
        "echo",
        "else",
        "end",
        "fft",
        "if",
        "let",
        "linearize",
        "meas",
        "measure",
        "noise",
        "op",
        "print",
        "pz",
        "quit",
        "run",
        "save",
        "sens",
        "set",
        "setplot",
        "sp",
        "tf",
        "tran",
    )
)
"""Commands of which nothing is left once plots, saves, circuit, vectors and settings are gone."""

_SETTINGS: Final = {"numdgt": ("set numdgt=-1", "unset numdgt"), "units": ("unset units",)}
"""Settings, and what has them as they are at the start: `unset` alone leaves `numdgt` in force."""

_CONSTANTS: Final = frozenset(
    ("boltz", "c", "e", "echarge", "false", "i", "kelvin", "no", "pi", "planck", "true", "yes")
)
"""ngspice's own vectors, which would be missing once a deck's of that name was removed."""

_LET: Final = re.compile(r"let\s+([A-Za-z_]\w*)\s*(?:\[[^=]*)?=", re.IGNORECASE)
_SET: Final = re.compile(r"set\s+(\w+)\s*(?:=\s*\S+\s*)?", re.IGNORECASE)
_SETPLOT: Final = re.compile(r"setplot(\s+[a-z]+\d+)?\s*", re.IGNORECASE)
_QUIT: Final = re.compile(r"quit(\s+0)?\s*", re.IGNORECASE)
_RANDOM: Final = re.compile(
    r"\b(a?gauss|a?unif|sgauss|sunif|rnd|poisson|exponential|trnoise|trrandom|seed|seedinfo|rndseed)\b"
    r"|\blimit\s*\([^=]*,[^=]*\)",
    re.IGNORECASE,
)
_REMEDY: Final = "remove the line, or run one point a process without `points_per_process`"


def points_together(deck: Deck) -> int:
    """How many points may share a process: 1 also for decks whose runs are looked at one by one."""
    if deck.simulator != "ngspice" or deck.noisy or deck.keep_files:
        return 1
    return deck.points_per_process


def check(deck: Deck) -> None:
    """Refuses a deck whose points could not share a process; `screen` has accepted it.

    Raises:
        InvalidError: A violation for each line that leaves something in the process.
    """
    if points_together(deck) == 1:
        return
    violations = Violations()
    if len(deck.netlists) > 1 or deck.extract:
        violations.add(
            "points_per_process", "goes with one netlist and without `extract`: leave it out"
        )
    control = _Control.of(deck)
    for path, number, problem in control.problems:
        violations.add(
            f"{path}:{number}",
            f"{problem}, which several points in one process rule out: {_REMEDY}",
        )
    if not control.quit_line:
        violations.add(
            deck.netlists[0],
            "points share a process only if the control block ends with `quit`: add it before "
            "`.endc`, or leave out `points_per_process`",
        )
    violations.check()


@dataclass
class _Control:
    """The control block of a deck."""

    quit_line: int = 0
    """The line of the `quit` at its end; 0 if there is none."""
    vectors: set[str] = field(default_factory=set)
    """What its `let` define."""
    settings: set[str] = field(default_factory=set)
    problems: list[tuple[str, int, str]] = field(default_factory=list)
    """File, line and what is wrong."""

    @classmethod
    def of(cls, deck: Deck) -> _Control:
        control = cls()
        last: tuple[int, str] = (0, "")
        for path, content in sorted(deck.files.items()):
            if path == DECK_FILE or path.endswith(".py"):
                continue
            main = path == deck.netlists[0]
            text = content.decode("utf-8-sig", "replace")
            for number, kind, line in logical_lines(text, main, settings=path == INIT):
                if path == INIT or line.startswith(("*", "#")):
                    problems = ["it is a command" if kind is Kind.SPECIAL else ""]
                elif kind is Kind.COMMAND and main:
                    problems = list(control._read(line))
                    if last[0] and _QUIT.fullmatch(last[1]):
                        problems.append("something follows `quit`")
                    last = (number, line)
                elif kind is Kind.NETLIST:
                    problems = []
                else:
                    problems = ["it is a command outside of the netlist's control block"]
                if path != INIT and not line.startswith("*") and (match := _RANDOM.search(line)):
                    problems.append(f"`{match[0]}` draws random numbers")
                control.problems += [(path, number, problem) for problem in problems if problem]
        if _QUIT.fullmatch(last[1]):
            control.quit_line = last[0]
        init = deck.files.get(INIT, b"").decode("utf-8", "replace")
        control.problems += [
            (INIT, 1, f"`{name}` is set here and in the control block")
            for name in sorted(control.settings)
            if re.search(rf"\b{name}\b", init, re.IGNORECASE)
        ]
        return control

    def _read(self, line: str) -> Iterator[str]:
        """What is wrong with a command."""
        word = line.split(maxsplit=1)[0].lower()
        if word not in _COMMANDS:
            yield f"`{word[:40]}` may leave something behind"
        elif word == "quit" and not _QUIT.fullmatch(line):
            yield "`quit` with a status"
        elif word == "setplot" and not _SETPLOT.fullmatch(line):
            yield "`setplot` of other than an analysis, such as ac1,"
        elif word == "let":
            match = _LET.match(line)
            if match is None or match[1].lower() in _CONSTANTS:
                yield "`let` of a constant of ngspice or of no plain name"
            else:
                self.vectors.add(match[1].lower())
        elif word == "set":
            match = _SET.fullmatch(line)
            if match is None or match[1].lower() not in _SETTINGS:
                yield f"settings other than {' and '.join(sorted(_SETTINGS))} may be left behind"
            else:
                self.settings.add(match[1].lower())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The points of one process."""

    deck: Deck
    points: Sequence[Point]
    token: str = field(default_factory=lambda: f"point-{secrets.token_hex(8)}")
    """Begins the marks and the names of files."""

    @property
    def folders(self) -> list[str]:
        """The folder of each point, all of one if only the netlists differ."""
        if self.deck.templates == self.deck.netlists:
            return [""] * len(self.points)
        return [str(index) for index in range(len(self.points))]

    def step(self, work: Path) -> Step:
        """The command that runs the points whose folders are in `work`.

        Raises:
            UnavailableError: If there is no ngspice.
        """
        path = self.deck.netlists[0]
        place = posixpath.dirname(path)
        models = folders_of(self.deck)
        control = _Control.of(self.deck)
        for folder in dict.fromkeys(self.folders):
            name_models(self.deck, work / folder, models)
        lines = ["* points of one deck", ".control"]
        for index, (folder, point) in enumerate(zip(self.folders, self.points, strict=True)):
            netlist = posixpath.join(place, f"{self.token}-{index}.cir")
            content = in_folders(self.deck.render(point)[path], models)
            (work / folder / netlist).write_bytes(_without_line(content, control.quit_line))
            lines += self._mark(index, "begin")
            lines += [f"cd {folder}", f"source {netlist}"] if folder else [f"source {netlist}"]
            lines += [*self._mark(index, "end"), *(["cd .."] if folder else []), "setplot const"]
            lines += [f"unlet {name}" for name in sorted(control.vectors)]
            lines += [line for name in sorted(control.settings) for line in _SETTINGS[name]]
            lines += ["destroy all", "delete all", "remcirc"]
        # Beside the netlists: where the first file lies, ngspice looks for others.
        script = (
            f"{self.token}.cir" if self.folders[0] else posixpath.join(place, f"{self.token}.cir")
        )
        (work / script).write_bytes("\n".join([*lines, "quit", ".endc", ".end", ""]).encode())
        if INIT in self.deck.files and self.folders[0]:
            shutil.copyfile(work / self.folders[0] / INIT, work / INIT)
        return command(self.deck, work, script, models)

    def outcomes(self, work: Path, finished: Finished, limits: Limits) -> list[Outcome | None]:
        """The outcome of each point that has responses beyond doubt, as if it had run alone.

        Args:
            work: The folder of the batch.
            finished: How the process ended; it may have been killed.
            limits: What it was allowed.
        """
        names = figure_names(self.deck)
        streams = [*zip(self._pieces(finished.stdout), self._pieces(finished.stderr), strict=True)]
        whole = sum(None not in pair for pair in streams)
        outcomes: list[Outcome | None] = []
        for point, (output, errors) in zip(self.points, streams, strict=True):
            outcomes.append(None)
            if output is None or errors is None:
                continue
            printed = read_printed(output, errors, names)
            if printed.error or printed.fatal:
                continue
            run = replace(
                finished, end=End.EXITED, returncode=0, seconds=finished.seconds / whole, detail=""
            )
            outcome = judged(self.deck, point, work, [run], [printed], limits)
            if outcome.ok:
                parts = (part.decode("utf-8", "replace").strip() for part in (output, errors))
                log = clipped("\n".join(part for part in parts if part), 8 * MAX_LOG)[-MAX_LOG:]
                outcomes[-1] = replace(outcome, log=log)
        return outcomes

    def _mark(self, index: int, what: str) -> tuple[str, str]:
        mark = f"{self.token}-{index}-{what}"
        return f"echo {mark}", mark

    def _pieces(self, path: Path) -> list[bytes | None]:
        """What a stream has of each point; None where it does not have all."""
        if path.stat().st_size > MAX_PRINTED:
            return [None] * len(self.points)
        printed = path.read_bytes()
        return [
            _between(
                printed,
                f"{self.token}-{index}-begin".encode(),
                f"{self.token}-{index}-end".encode(),
            )
            for index in range(len(self.points))
        ]


def _between(printed: bytes, begin: bytes, end: bytes) -> bytes | None:
    """What is printed after the line of one mark and before another; None unless both are once."""
    if printed.count(begin) != 1 or printed.count(end) != 1:
        return None
    start = printed.index(b"\n", printed.index(begin)) + 1
    stop = printed.index(end)
    return printed[start:stop] if start <= stop else None


def _without_line(content: bytes, number: int) -> bytes:
    """A file with a line of it left empty."""
    parts = re.split(rb"(\r\n|\r|\n)", content)
    parts[2 * (number - 1)] = b""
    return b"".join(parts)
