"""How vistaflow starts Python for its own modules."""

from __future__ import annotations

import sys


def module_command(module: str) -> list[str]:
    """The command that runs a module of vistaflow; its arguments come after it.

    `-m` alone puts the current folder before everything else, and whatever `numpy.py` or `types.py`
    lies there would be imported. `PYTHONPATH` counts as always.
    """
    return [sys.executable, "-P", "-m", module]
