"""How vistaflow starts Python for its own modules."""

from __future__ import annotations

import sys


def module_command(module: str) -> list[str]:
    """The command that runs a module of vistaflow, without the module's arguments.

    `-m` alone puts the current folder first on the path, so that a `numpy.py` or `types.py` in it
    would be imported. `PYTHONPATH` has its usual effect.
    """
    return [sys.executable, "-P", "-m", module]
