"""Python decks: DEVSIM as a library, in a process of its own for each point."""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.limits import Limits
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated
from vistaflow_services.simulators.python_deck import RESULT
from vistaflow_services.simulators.sandbox import python_folders, this_sandbox
from vistaflow_services.simulators.supervise import Finished
from vistaflow_services.simulators.verdict import SHOWN, unsuccessful

MAX_RESULT_BYTES = 1024 * 1024
_RUNNER = str(Path(__file__).with_name("python_deck.py"))
_REQUEST = "point.json"


def version() -> str:
    """DEVSIM's version, or nothing if it is not installed."""
    if util.find_spec("devsim") is None or _blas() is None:
        return ""
    return metadata.version("devsim")


@lru_cache(maxsize=1)
def _blas() -> str | None:
    """The library with BLAS and LAPACK that DEVSIM is told to load."""
    try:
        import scipy_openblas32
    except ImportError:
        return None
    return f"{scipy_openblas32.get_lib_dir()}/lib{scipy_openblas32.get_library()}.so"


def environment(place: str) -> dict[str, str]:
    """All the environment that a Python deck has."""
    told = {
        "PATH": "/usr/bin:/bin",
        "HOME": place,
        "TMPDIR": place,
        "LANG": "C.UTF-8",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    blas = _blas()
    if blas is not None:
        told |= {
            "DEVSIM_MATH_LIBS": blas,
            "DEVSIM_BLAS_PREFIX": "scipy_",
            "DEVSIM_BLAS_SUFFIX": "_",
        }
    return told


def prepare(deck: Deck, point: Point, work: Path) -> tuple[list[str], dict[str, str]]:
    """Writes the run's input into `work`; returns the command and its environment."""
    (work / _REQUEST).write_text(json.dumps(point), "utf-8")
    sandbox = this_sandbox()
    argv = [sys.executable, "-I", "-B", _RUNNER, _REQUEST, deck.entry]
    return sandbox.command(work, python_folders(), argv), environment(sandbox.place(work))


def outcome(deck: Deck, point: Point, work: Path, finished: Finished, limits: Limits) -> Outcome:
    """What the run left behind, judged."""
    told = _result(work / RESULT)
    if "failure" in told and told["failure"] in tuple(Failure):
        kind, message = Failure(told["failure"]), str(told.get("message", ""))
        if kind is Failure.CRASHED:
            # Its author wants to know where.
            message = f"{message}\n{finished.errors.strip()[-SHOWN:]}"
        return failed(point, kind, message, finished.seconds)
    if finished.returncode != 0 or not isinstance(told.get("responses"), dict):
        return unsuccessful(point, finished, limits)
    return gated(point, deck.responses, told["responses"], finished.seconds)


def _result(path: Path) -> dict[str, Any]:
    """The result file, if it is one; never a link to something else, nor too large."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    with open(handle, "rb") as file:
        try:
            told = json.loads(file.read(MAX_RESULT_BYTES))
        except (ValueError, OSError, RecursionError):
            return {}
    return told if isinstance(told, dict) else {}
