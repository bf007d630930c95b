"""Runs the registry with a deliberate bug: `python -m tests.faults.mutated <variant>`."""

from __future__ import annotations

import sys

from tests.faults.mutations import VARIANTS
from vistaflow_services.registry.__main__ import run

if __name__ == "__main__":
    VARIANTS[sys.argv[1]]()
    run()
