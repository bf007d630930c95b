"""One point of a deck, run once."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from vistaflow_services.core.errors import InvalidError, UnavailableError, Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import function_simulator, python_simulator
from vistaflow_services.simulators.bridges import command, server, table
from vistaflow_services.simulators.ngspice import batches, simulator
from vistaflow_services.simulators.ngspice.screening import screen
from vistaflow_services.simulators.outcome import MAX_LOG, Failure, Outcome, clipped, failed
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.step import Step
from vistaflow_services.simulators.processes.supervisor import Canceled, End, Finished, supervise
from vistaflow_services.simulators.processes.verdict import unsuccessful
from vistaflow_services.simulators.status import (
    SimulatorStatus,
    require_simulator,
    simulator_status,
)

__all__ = [
    "Canceled",
    "SimulatorStatus",
    "check_deck",
    "require_simulator",
    "run_checked",
    "run_point",
    "run_together",
    "simulator_status",
    "sweep_scratch",
]


_SHORT_OF_MEMORY: Final = re.compile(
    r"out of memory|(?:can't|cannot|could not|unable to|failed to) allocate|bad_alloc|MemoryError",
    re.IGNORECASE,
)


class _Program(Protocol):
    """A simulator that is a program: how a run's input is written, and what it left is judged."""

    def steps(self, deck: Deck, point: Point, work: Path) -> list[Step]: ...

    def outcome(
        self, deck: Deck, point: Point, work: Path, ran: Sequence[Finished], limits: Limits
    ) -> Outcome: ...


_PROGRAMS: Mapping[str, _Program] = {
    "command": command,
    "devsim": python_simulator,
    "ngspice": simulator,
    "python": python_simulator,
}


def check_deck(deck: Deck) -> None:
    """Refuses a deck that its simulator could not run, or that must not be run; runs nothing.

    Raises:
        InvalidError: A violation for each mistake.
    """
    if deck.simulator == "function":
        function_simulator.check(deck)
    elif deck.simulator == "ngspice":
        if not deck.netlists:
            raise _missing("template", "an ngspice deck needs a template file")
        screen(deck)
        batches.check(deck)
    elif deck.simulator == "command":
        command.check(deck)
    elif deck.simulator == "grpc":
        server.check(deck)
    elif deck.simulator == "table":
        table.check(deck)
    elif deck.simulator in ("devsim", "python"):
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
    observe: Callable[[Path | None, str], None] = lambda work, printed: None,
) -> Outcome:
    """Runs a deck at one point, in a scratch folder of its own that is removed afterwards.

    Args:
        deck: What to run; `check_deck` is applied.
        point: Canonical, as `Space.check` returns it.
        scratch_root: Where the folder is made.
        timeout: Wall clock in seconds; the deck's own by default.
        should_stop: Asked about ten times a second.
        observe: Called once with the folder, before it is removed, and with the end of what the
            run printed; the folder is None for a simulator without a process of its own.

    Returns:
        The responses, or the failure: a run that goes wrong raises nothing.

    Raises:
        InvalidError: If the deck must not be run.
        UnavailableError: If the simulator is not on this machine, or there is no disk.
        Canceled: If `should_stop` said so.
    """
    check_deck(deck)
    require_simulator(deck.simulator)
    return run_checked(
        deck,
        point,
        scratch_root=scratch_root,
        timeout=timeout,
        should_stop=should_stop,
        observe=observe,
    )


def run_checked(
    deck: Deck,
    point: Point,
    *,
    scratch_root: Path,
    timeout: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    observe: Callable[[Path | None, str], None] = lambda work, printed: None,
) -> Outcome:
    """As `run_point`, of a deck that the caller has checked: once for many points."""
    broken = [constraint for constraint in deck.space.constraints if not constraint.met(point)]
    if broken:
        return failed(point, Failure.INFEASIBLE, f"breaks the deck's constraint {broken[0]}")
    if deck.simulator == "function":
        return function_simulator.compute(deck, [point])[0]
    limits = _limits(deck, timeout)
    if deck.simulator == "table":
        return table.compute(deck, point)
    if deck.simulator == "grpc":
        result, log = server.compute(deck, point, limits, should_stop)
        log = clipped(log, 8 * MAX_LOG)
        observe(None, log)
        return replace(result, log=log[-MAX_LOG:])
    program = _PROGRAMS[deck.simulator]
    with _scratch(scratch_root) as folder:
        work = folder / "work"
        _write(deck, point, work)
        ran = _supervised(deck, program.steps(deck, point, work), folder, limits, should_stop)
        if ran[-1].end is not End.EXITED:
            result = unsuccessful(point, ran[-1], limits)
        else:
            result = program.outcome(deck, point, work, ran, limits)
            for finished in ran:
                result = _without_blame(result, finished)
        printed = _printed(ran)
        observe(work, printed)
        return replace(result, log=printed[-MAX_LOG:])


def run_together(
    deck: Deck,
    points: Sequence[Point],
    *,
    scratch_root: Path,
    timeout: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome | None]:
    """Runs points of a circuit in one process, which may use what the run of one point may.

    Args:
        deck: What to run; `check_deck` has accepted it, and `points_together` is above 1.
        points: Canonical; they meet the deck's constraints.
        scratch_root: Where the folder is made.
        timeout: Wall clock in seconds for all; the deck's own, of one run, by default.
        should_stop: Asked about ten times a second.

    Returns:
        The responses of each point that has them beyond doubt; None for the others, which are to
        be run alone: failures are judged there and nowhere else.

    Raises:
        UnavailableError: If ngspice is not on this machine, or there is no disk.
        Canceled: If `should_stop` said so.
    """
    limits = _limits(deck, timeout)
    with _scratch(scratch_root) as folder:
        batch = batches.Batch(deck=deck, points=points)
        work = folder / "work"
        if "" not in batch.folders:
            work.mkdir()
        for place, point in dict(zip(batch.folders, points, strict=True)).items():
            _write(deck, point, work / place)
        (finished,) = _supervised(deck, [batch.step(work)], folder, limits, should_stop)
        return batch.outcomes(work, finished, limits)


@contextlib.contextmanager
def _scratch(scratch_root: Path) -> Iterator[Path]:
    """A new folder, which is removed afterwards.

    Raises:
        UnavailableError: If it cannot be made, or for want of anything else of the machine.
    """
    try:
        scratch_root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=scratch_root))
    except OSError as error:
        raise UnavailableError(f"no scratch folder can be made: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise UnavailableError(f"a run could not be started: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _limits(deck: Deck, timeout: float | None) -> Limits:
    """What one process of a deck may use; `timeout` in seconds in place of the deck's own."""
    return Limits(
        seconds=deck.timeout_seconds if timeout is None else timeout,
        memory_bytes=deck.memory_limit_bytes,
    )


def _supervised(
    deck: Deck,
    steps: Sequence[Step],
    folder: Path,
    limits: Limits,
    should_stop: Callable[[], bool],
) -> list[Finished]:
    """Runs the steps one after the other, within the time of one run.

    Raises:
        Canceled: If `should_stop` said so.
    """
    ran: list[Finished] = []
    for index, step in enumerate(steps):
        logs = folder / f"logs{index}"
        logs.mkdir()
        left = limits.seconds - sum(finished.seconds for finished in ran)
        finished = supervise(
            step.argv,
            work=folder / "work",
            logs=logs,
            limits=replace(limits, seconds=max(left, 0.0)),
            environment=step.environment,
            should_stop=should_stop,
        )
        if finished.end is End.CANCELED:
            raise Canceled(f"the run of {deck.name} was stopped")
        if finished.end is End.TIMEOUT:
            finished = replace(finished, detail=f"no result after {limits.seconds:g} s")
        ran.append(finished)
        if finished.end is not End.EXITED or (step.decisive and finished.returncode):
            break
    return ran


def _printed(ran: Sequence[Finished]) -> str:
    """The end of what the steps printed, standard error after standard output."""
    parts = [part.strip() for finished in ran for part in (finished.output, finished.errors)]
    return clipped("\n".join(part for part in parts if part), 8 * MAX_LOG)


def _without_blame(outcome: Outcome, finished: Finished) -> Outcome:
    """The outcome, unless the point is blamed for what the machine had too little of."""
    if outcome.failure is not Failure.NO_CONVERGENCE:
        return outcome
    words = _SHORT_OF_MEMORY.search(finished.errors) or _SHORT_OF_MEMORY.search(finished.output)
    if not words:
        return outcome
    return failed(
        outcome.point,
        Failure.CRASHED,
        f"there was too little memory ({words[0]}); {outcome.message}",
        outcome.seconds,
    )


def sweep_scratch(scratch_root: Path) -> int:
    """Removes what killed processes of this machine left behind; returns how many folders."""
    removed = 0
    host = f"run-{_host()}-"
    with contextlib.suppress(OSError):
        for entry in scratch_root.iterdir():
            owner = entry.name.removeprefix(host).partition("-")[0]
            if entry.name.startswith(host) and owner.isdigit() and not _alive(int(owner)):
                shutil.rmtree(entry, ignore_errors=True)
                removed += 1
    return removed


def _prefix() -> str:
    return f"run-{_host()}-{os.getpid()}-"


def _host() -> str:
    return "".join(character if character.isalnum() else "_" for character in socket.gethostname())


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
    violations = Violations()
    violations.add(field, problem)
    try:
        violations.check()
    except InvalidError as error:
        return error
    raise AssertionError
