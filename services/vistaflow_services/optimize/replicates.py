"""Noise of a simulator, from runs that repeat a point.

symbol   unit            meaning
y        a response's    what one run returned
group                    the runs of one point that succeeded
noise    a response's    standard deviation of one run around the mean of its point, pooled over
                         groups: sqrt(sum of (y - mean of its group)^2 / sum of (runs - 1))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vistaflow_services.optimize.domain import Trial
from vistaflow_services.search.cube import PointKey, point_key

REPEATS = 5
"""Runs by which one point of a noisy simulator is verified."""

ROUNDS = 2
"""Most points that are verified: the first may turn out worse than it seemed."""

SAME = 1e-6
"""Part of a response's spread up to which repeated runs count as equal: machines round apart."""


def groups(trials: Sequence[Trial]) -> list[list[Mapping[str, float]]]:
    """The responses of the runs of each point that succeeded more than once.

    A run that the point store answered is no second run.
    """
    runs: dict[PointKey, list[Mapping[str, float]]] = {}
    for trial in trials:
        group = runs.setdefault(point_key(dict(trial.point)), [])
        if trial.responses and not (group and trial.cached):
            group.append(trial.responses)
    return [group for group in runs.values() if len(group) > 1]


def noise_of(trials: Sequence[Trial]) -> dict[str, float]:
    """The noise of each response; 0 where repeated runs agree, empty where nothing was repeated."""
    repeated = groups(trials)
    spreads = _spreads(trials)
    noise = {}
    for name in repeated[0][0] if repeated else ():
        columns = [np.array([run[name] for run in group]) for group in repeated]
        squares = sum(float(np.sum((column - column.mean()) ** 2)) for column in columns)
        sd = math.sqrt(squares / sum(len(column) - 1 for column in columns))
        noise[name] = sd if sd > SAME * spreads[name] else 0.0
    return noise


def is_noisy(trials: Sequence[Trial]) -> bool:
    """Whether runs that repeat a point differ by more than rounding."""
    return any(noise_of(trials).values())


def mean_responses(trials: Sequence[Trial]) -> dict[str, float]:
    """The mean of each response over runs that succeeded; empty of none."""
    ran = [trial.responses for trial in trials if trial.responses]
    return {name: math.fsum(run[name] for run in ran) / len(ran) for name in (ran or [{}])[0]}


def _spreads(trials: Sequence[Trial]) -> dict[str, float]:
    ran = [trial.responses for trial in trials if trial.responses]
    return {name: float(np.ptp([run[name] for run in ran])) for name in ran[0]} if ran else {}
