"""Command decks: a program that the operator has registered, a process for each point."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.definition import OUTPUT, Command
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import python_simulator
from vistaflow_services.simulators.bridges.registered import PROGRAMS, programs, registered
from vistaflow_services.simulators.bridges.results import NoResultsError, figures, read_file
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.sandbox import this_sandbox
from vistaflow_services.simulators.processes.step import Step
from vistaflow_services.simulators.processes.supervisor import Finished
from vistaflow_services.simulators.processes.verdict import last_words, unsuccessful


def check(deck: Deck) -> None:
    """Refuses a deck whose program is not registered.

    Raises:
        InvalidError: Its field is `command.program`.
    """
    registered(programs(), _command(deck).program, "command.program", PROGRAMS)


def steps(deck: Deck, point: Point, work: Path) -> list[Step]:
    """The program, then the deck's function that reads what it has written."""
    program = registered(programs(), _command(deck).program, "command.program", PROGRAMS)
    if not os.access(program.path, os.X_OK):
        raise UnavailableError(
            f"the program `{_command(deck).program}` is not on this machine, or must not be run; "
            f"the operator registered it in {PROGRAMS}",
            reason="NO_SIMULATOR",
        )
    sandbox = this_sandbox()
    place = sandbox.place(work)
    readable = [] if program.folder.is_relative_to("/usr") else [program.folder]
    argv = [str(program.path), *deck.arguments(point)]
    environment = {
        "PATH": f"{program.path.parent}:/usr/bin:/bin",
        "HOME": place,
        "TMPDIR": place,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    command = sandbox.command(work, readable, argv, network=program.network)
    first = Step(argv=command, environment=environment, decisive=True)
    return [first, *python_simulator.extraction(deck, point, work)]


def outcome(
    deck: Deck, point: Point, work: Path, finished: Sequence[Finished], limits: Limits
) -> Outcome:
    """What the program left behind, judged; what it printed of licences comes first."""
    run, seconds = finished[0], sum(one.seconds for one in finished)
    command = _command(deck)
    printed = f"{run.output}\n{run.errors}"
    for pattern, kind in (
        (command.license, Failure.LICENSE),
        (command.no_convergence, Failure.NO_CONVERGENCE),
    ):
        if pattern and (match := re.search(pattern, printed, re.MULTILINE)):
            line = printed[printed.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
            return failed(point, kind, line, seconds)
    if run.returncode != 0:
        return unsuccessful(point, run, limits)
    try:
        name = command.results
        text = read_file(run.stdout if name == OUTPUT else work / name)
        values = {} if deck.extract and name == OUTPUT else figures(deck, text, name)
        if deck.extract:
            values |= python_simulator.extracted(work, finished[-1])
    except NoResultsError as error:
        message = f"{error}\n{last_words(run)}" if last_words(run) else str(error)
        return failed(point, Failure.CRASHED, message, seconds)
    return gated(point, deck.responses, values, seconds)


def _command(deck: Deck) -> Command:
    assert deck.command is not None
    return deck.command
