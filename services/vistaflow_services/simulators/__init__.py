"""Simulators: one point in, its responses or the reason why there are none out.

outcome.py             what comes of a run; the gate every result passes
run.py                 one point in a scratch folder of its own: `run_point`, `check_deck`
evaluate.py            many points, in parallel, none twice
points.py              the store of evaluated points
canonical.py           points made into the one form that is stored
locks.py               one run of a point at a time, over threads and processes
status.py              which simulators this machine has
functions.py           the named analytic functions
function_simulator.py  them as a simulator, in this process
python_simulator.py    DEVSIM and other Python decks; python_deck.py is the program they run in
ngspice_simulator.py   circuits; screening.py says what a circuit deck may not do
ngspice_output.py      what ngspice printed, and the evidence for and against it
supervise.py           a command under limits, all its processes gone afterwards
launch.py              the program that sets the limits and becomes the command
limits.py sandbox.py   what a run may use and see
verdict.py             what an unsuccessful run died of
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
