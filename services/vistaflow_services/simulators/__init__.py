"""Simulators: one point in, its responses or the reason why there are none out.

outcome.py             the outcome of a run; the check that every result passes
run.py                 one point in a scratch folder of its own: `run_point`, `check_deck`
run_files.py           the files that a run wrote
evaluate.py            many points, in parallel, none twice
points.py              the store of evaluated points
canonical.py           points in the one form that is stored
pace.py                how long the runs that are left take
locks.py               one run of a point at a time, over threads and processes
status.py              which simulators this machine has
functions.py           the named analytic functions
function_simulator.py  their simulator, in this process
python_simulator.py    DEVSIM and other Python decks; python_deck.py is the program they run in
ngspice/               circuits
bridges/               registered programs and servers, tables
processes/             commands under limits, in a sandbox
"""

from __future__ import annotations

from vistaflow_services.simulators.outcome import Failure, Outcome
from vistaflow_services.simulators.run import check_deck, run_point
from vistaflow_services.simulators.status import (
    SimulatorStatus,
    require_simulator,
    simulator_status,
)

__all__ = [
    "Failure",
    "Outcome",
    "SimulatorStatus",
    "check_deck",
    "require_simulator",
    "run_point",
    "simulator_status",
]
