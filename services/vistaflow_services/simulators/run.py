"""One point of a deck, run once."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from vistaflow_services.core.errors import InvalidError, UnavailableError, Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import function_simulator, ngspice_simulator, python_simulator
from vistaflow_services.simulators.limits import Limits
from vistaflow_services.simulators.outcome import Failure, Outcome, failed
from vistaflow_services.simulators.screening import screen
from vistaflow_services.simulators.status import (
    SimulatorStatus,
    require_simulator,
    simulator_status,
)
from vistaflow_services.simulators.supervise import Canceled, End, Finished, supervise
from vistaflow_services.simulators.verdict import unsuccessful

__all__ = [
    "Canceled",
    "SimulatorStatus",
    "check_deck",
    "require_simulator",
    "run_point",
    "simulator_status",
    "sweep_scratch",
]


class _Program(Protocol):
    """A simulator that is a program: how a run's input is written, and what it left is judged."""

    def prepare(self, deck: Deck, point: Point, work: Path) -> tuple[list[str], dict[str, str]]: ...

    def outcome(
        self, deck: Deck, point: Point, work: Path, finished: Finished, limits: Limits
    ) -> Outcome: ...


_PROGRAMS: Mapping[str, _Program] = {"devsim": python_simulator, "ngspice": ngspice_simulator}


def check_deck(deck: Deck) -> None:
    """Refuses a deck that its simulator could not run, or that must not be run; runs nothing.

    Raises:
        InvalidError: A violation for each mistake.
    """
    if deck.simulator == "function":
        function_simulator.check(deck)
    elif deck.simulator == "ngspice":
        if not deck.templates:
            raise _missing("template", "an ngspice deck needs a template file")
        screen(deck)
    elif deck.simulator == "devsim":
        if not deck.entry_function or deck.entry_file not in deck.files:
            raise _missing("entry", "give `file.py:function`, the file being one of the deck's")
    else:
        raise _missing("simulator", f"no simulator is named `{deck.simulator}`")


def run_point(
    deck: Deck,
    point: Point,
    *,
    scratch_root: Path,
    timeout: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs a deck at one point, in a scratch folder of its own that is removed afterwards.

    Args:
        deck: What to run; `check_deck` is applied.
        point: Canonical, as `Space.check` returns it.
        scratch_root: Where the folder is made.
        timeout: Wall clock in seconds; the deck's own by default.
        should_stop: Asked about ten times a second.

    Returns:
        The responses, or the failure: a run that goes wrong raises nothing.

    Raises:
        InvalidError: If the deck must not be run.
        UnavailableError: If the simulator is not on this machine, or there is no disk.
        Canceled: If `should_stop` said so.
    """
    check_deck(deck)
    require_simulator(deck.simulator)
    broken = [each for each in deck.space.constraints if not each.met(point)]
    if broken:
        return failed(point, Failure.INFEASIBLE, f"breaks the deck's constraint {broken[0]}")
    if deck.simulator == "function":
        return function_simulator.compute(deck, [point])[0]
    limits = Limits(
        seconds=deck.timeout_seconds if timeout is None else timeout,
        memory_bytes=deck.memory_limit_bytes,
    )
    program = _PROGRAMS[deck.simulator]
    try:
        scratch_root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=scratch_root))
    except OSError as error:
        raise UnavailableError(f"no scratch folder can be made: {error.strerror}") from error
    try:
        work = folder / "work"
        _write(deck, point, work)
        command, environment = program.prepare(deck, point, work)
        finished = supervise(
            command,
            work=work,
            logs=folder,
            limits=limits,
            environment=environment,
            should_stop=should_stop,
        )
        if finished.end is End.CANCELED:
            raise Canceled(f"the run of {deck.name} was stopped")
        if finished.end is not End.EXITED:
            return unsuccessful(point, finished, limits)
        return program.outcome(deck, point, work, finished, limits)
    except OSError as error:
        raise UnavailableError(f"a run could not be started: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(scratch_root: Path) -> int:
    """Removes what killed processes of this machine left behind; returns how many folders."""
    removed = 0
    host = f"run-{_host()}-"
    with contextlib.suppress(OSError):
        for each in scratch_root.iterdir():
            owner = each.name.removeprefix(host).partition("-")[0]
            if each.name.startswith(host) and owner.isdigit() and not _alive(int(owner)):
                shutil.rmtree(each, ignore_errors=True)
                removed += 1
    return removed


def _prefix() -> str:
    return f"run-{_host()}-{os.getpid()}-"


def _host() -> str:
    return "".join(each if each.isalnum() else "_" for each in socket.gethostname())


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write(deck: Deck, point: Point, work: Path) -> None:
    work.mkdir()
    for path, content in deck.render(point).items():
        target = work / path
        if not target.resolve().is_relative_to(work.resolve()):
            raise _missing(f"files.{path}", "is outside the deck")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _missing(field: str, problem: str) -> InvalidError:
    found = Violations()
    found.add(field, problem)
    try:
        found.check()
    except InvalidError as error:
        return error
    raise AssertionError
