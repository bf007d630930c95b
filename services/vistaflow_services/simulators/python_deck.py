"""Runs a Python deck's entry at one point; a program of its own, light and without this package.

    python -I -B python_deck.py <request.json> <file.py:function>

The deck's folder is the current one and comes first on `sys.path`. The function is called with one
mapping, the point, and returns a mapping with the responses. What comes of it is written to
`result.json` beside it: `{"responses": {...}}` or `{"failure": ..., "message": ...}`.

A deck says why it failed by the class of what it raises, or of one of its bases:

    NoConvergence, NoConvergenceError, ConvergenceError    NO_CONVERGENCE
    Infeasible, InfeasibleError                            INFEASIBLE
    LicenseUnavailable, LicenseError                       LICENSE
    any other                                              CRASHED
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback

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
    for each in type(error).__mro__:
        if each.__name__ in KINDS:
            return KINDS[each.__name__]
    if type(error).__module__.startswith("devsim") and "onvergence" in str(error):
        return "NO_CONVERGENCE"
    return "CRASHED"


def write(result: dict[str, object]) -> None:
    """Leaves the result beside the deck, whole or not at all."""
    with open(RESULT + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(RESULT + ".part", RESULT)


def main(request: str, entry: str) -> int:
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
        returned = getattr(module, function)(point)
        responses = {str(name): float(value) for name, value in dict(returned).items()}
    except MemoryError:
        write({"failure": "CRASHED", "message": "out of memory"})
        return 1
    except Exception as error:
        traceback.print_exc()
        write({"failure": failure_of(error), "message": f"{type(error).__name__}: {error}"})
        return 1
    write({"responses": responses})
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    # Native libraries need not tidy up: the folder is thrown away.
    os._exit(status)
