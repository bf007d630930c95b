"""Python decks, with DEVSIM as a library or without: a process of its own for each point."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.bridges.results import NoResultsError
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.sandbox import python_folders, this_sandbox
from vistaflow_services.simulators.processes.step import Step
from vistaflow_services.simulators.processes.supervisor import Finished
from vistaflow_services.simulators.processes.verdict import SHOWN, unsuccessful
from vistaflow_services.simulators.python_deck import RESULT

MAX_RESULT_BYTES = 1024 * 1024
_RUNNER = str(Path(__file__).with_name("python_deck.py"))
_REQUEST = "point.json"


def version() -> str:
    """DEVSIM's version, or nothing if it is not installed."""
    if util.find_spec("devsim") is None or _blas() is None:
        return ""
    return _installed_version()


@lru_cache(maxsize=1)
def _installed_version() -> str:
    return metadata.version("devsim")


def python_version() -> str:
    """The version of the Python that decks run in."""
    return platform.python_version()


@lru_cache(maxsize=1)
def _blas() -> str | None:
    """The library with BLAS and LAPACK that DEVSIM is to load."""
    try:
        import scipy_openblas32
    except ImportError:
        return None
    return f"{scipy_openblas32.get_lib_dir()}/lib{scipy_openblas32.get_library()}.so"


def environment(place: str) -> dict[str, str]:
    """All the environment that a Python deck has."""
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": place,
        "TMPDIR": place,
        "LANG": "C.UTF-8",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        # A solver allocates its matrices again at each step: memory goes back to the system at
        # the end of the run only, or a fifth of the time is spent on page faults.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),  # the largest that glibc accepts
        "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
        "MALLOC_TOP_PAD_": str(16 * 1024**2),
    }
    blas = _blas()
    if blas is not None:
        variables |= {
            "DEVSIM_MATH_LIBS": blas,
            "DEVSIM_BLAS_PREFIX": "scipy_",
            "DEVSIM_BLAS_SUFFIX": "_",
        }
    return variables


def steps(deck: Deck, point: Point, work: Path) -> list[Step]:
    """Writes the run's input into `work`; returns the command."""
    return [_call(deck.entry, deck.simulator, point, work)]


def extraction(deck: Deck, point: Point, work: Path) -> list[Step]:
    """The call of the deck's function that reads what a simulator has written, if it has one."""
    return [_call(deck.extract, "python", point, work)] if deck.extract else []


def extracted(work: Path, finished: Finished) -> dict[str, Any]:
    """What that call returned.

    Raises:
        NoResultsError: If it failed; its text is the reason.
    """
    returned = _result(work / RESULT)
    if finished.returncode == 0 and isinstance(returned.get("responses"), dict):
        responses: dict[str, Any] = returned["responses"]
        return responses
    reason = returned.get("message") or finished.errors.strip()[-SHOWN:]
    raise NoResultsError(f"the function that reads the results failed: {reason}")


def _call(entry: str, simulator: str, point: Point, work: Path) -> Step:
    (work / _REQUEST).write_text(json.dumps(point), "utf-8")
    sandbox = this_sandbox()
    argv = [sys.executable, "-I", "-B", _RUNNER, _REQUEST, entry, simulator]
    command = sandbox.command(work, python_folders(), argv)
    return Step(argv=command, environment=environment(sandbox.place(work)))


def outcome(
    deck: Deck, point: Point, work: Path, ran: Sequence[Finished], limits: Limits
) -> Outcome:
    """What the run left behind, judged."""
    (finished,) = ran
    returned = _result(work / RESULT)
    if "failure" in returned and returned["failure"] in tuple(Failure):
        kind, message = Failure(returned["failure"]), str(returned.get("message", ""))
        where = returned.get("where")
        if kind is Failure.CRASHED and isinstance(where, str) and where:
            message = f"{message} ({where})"
        return failed(point, kind, message, finished.seconds)
    if finished.returncode != 0 or not isinstance(returned.get("responses"), dict):
        return unsuccessful(point, finished, limits)
    return gated(point, deck.responses, returned["responses"], finished.seconds)


def _result(path: Path) -> dict[str, Any]:
    """The result file, if it is one; never a link to something else, nor too large."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    with open(handle, "rb") as file:
        try:
            returned = json.loads(file.read(MAX_RESULT_BYTES))
        except (ValueError, OSError, RecursionError):
            return {}
    return returned if isinstance(returned, dict) else {}
