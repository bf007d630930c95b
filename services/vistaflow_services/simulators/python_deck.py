"""Runs a Python deck's entry at one point; a program of its own, light and without this package.

    python -I -B python_deck.py <request.json> <file.py:function> <simulator>

The deck's folder is the current one and comes first on `sys.path`. The function is called with the
parameters by their names if it takes them so, else with one mapping, the point; a DEVSIM function
of one argument is always called with the mapping. It returns a mapping with the responses; None
for one that has no value. What comes of it is written to
`result.json` beside it: `{"responses": {...}}` or `{"failure": ..., "message": ...}`.

A deck says why it failed by the class of what it raises, or of one of its bases:

    NoConvergence, NoConvergenceError, ConvergenceError    NO_CONVERGENCE
    Infeasible, InfeasibleError                            INFEASIBLE
    LicenseUnavailable, LicenseError                       LICENSE
    any other                                              CRASHED
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

RESULT = "result.json"
KINDS = {
    "NoConvergence": "NO_CONVERGENCE",
    "NoConvergenceError": "NO_CONVERGENCE",
    "ConvergenceError": "NO_CONVERGENCE",
    "Infeasible": "INFEASIBLE",
    "InfeasibleError": "INFEASIBLE",
    "LicenseUnavailable": "LICENSE",
    "LicenseError": "LICENSE",
}


def failure_of(error: BaseException) -> str:
    """The kind of failure that an exception means."""
    if _is_for_want_of_memory(error):
        return "CRASHED"
    for ancestor in type(error).__mro__:
        if ancestor.__name__ in KINDS:
            return KINDS[ancestor.__name__]
    if type(error).__module__.startswith("devsim") and "onvergence" in str(error):
        return "NO_CONVERGENCE"
    return "CRASHED"


def _is_for_want_of_memory(error: BaseException | None) -> bool:
    """Whether a MemoryError is the exception or one of those that it was raised for."""
    for _ in range(20):  # a chain may be a circle
        if error is None:
            break
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def write(result: dict[str, object]) -> None:
    """Leaves the result beside the deck, whole or not at all."""
    with open(RESULT + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(RESULT + ".part", RESULT)


def takes_names(function: Callable[..., Any], point: dict[str, Any], simulator: str) -> bool:
    """Whether a function is called with the parameters by their names."""
    try:
        signature = inspect.signature(function)
        signature.bind(**point)
    except (TypeError, ValueError):
        return False
    return simulator != "devsim" or len(signature.parameters) > 1


def place_of(frames: TracebackType | None) -> str:
    """The last line of the deck's own files that an exception passed, such as `amp.py:7`."""
    folder = os.getcwd() + os.sep
    own = [
        frame
        for frame in traceback.extract_tb(frames)
        if os.path.abspath(frame.filename).startswith(folder)
    ]
    return f"{os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else ""


def main(request: str, entry: str, simulator: str) -> int:
    """Calls the entry; the exit status is 0 if it returned."""
    path, _, function = entry.partition(":")
    with open(request, encoding="utf-8") as file:
        point = json.load(file)
    sys.path.insert(0, os.getcwd())
    sys.path.insert(0, os.path.join(os.getcwd(), os.path.dirname(path)))
    try:
        spec = importlib.util.spec_from_file_location("deck", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules["deck"] = module
        spec.loader.exec_module(module)
        called = getattr(module, function)
        returned = called(**point) if takes_names(called, point, simulator) else called(point)
        if not hasattr(returned, "keys"):
            raise TypeError(
                f"{function} returned {type(returned).__name__}, not a dict of responses"
            )
        responses = {
            str(name): None if value is None else float(value)
            for name, value in dict(returned).items()
        }
    except MemoryError:
        write({"failure": "CRASHED", "message": "out of memory"})
        return 1
    except Exception as error:
        # Without the frame of this program: its author's own are what helps.
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, frames or error.__traceback__)
        where = place_of(frames)
        write(
            {
                "failure": failure_of(error),
                "message": f"{type(error).__name__}: {error}"[:1000],
                "where": where,
            }
        )
        return 1
    write({"responses": responses})
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2], sys.argv[3])
    sys.stdout.flush()
    sys.stderr.flush()
    # Native libraries need not tidy up: the folder is thrown away.
    os._exit(status)
