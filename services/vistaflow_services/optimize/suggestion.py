"""The first point that a trained model would have a study try."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vistaflow_services.decks.space import Point
from vistaflow_services.optimize.domain import Problem
from vistaflow_services.search.bayes import around, latin
from vistaflow_services.search.cube import SearchCube
from vistaflow_services.search.misses import MissScale
from vistaflow_services.surrogates.model import Model

CANDIDATES = 4096
Rank = tuple[tuple[int, float], float]
"""How far a point misses, then its objective to be minimised; less is better."""

ROUNDS = 4
"""Of candidates ever nearer to the best of the round before."""


def predicted_best(
    problem: Problem,
    model: Model,
    seed: int,
    scale: MissScale,
    constants: Mapping[str, float] | None = None,
) -> list[Point]:
    """The point whose predicted responses are best, if the model predicts all that goals read.

    Empty when it does not, or when no candidate meets the constraints over parameters. The
    constraints are read on the predicted medians; if nothing meets them all, the point
    that misses them least is tried; `scale` is what a miss of each is measured in
    and `constants` are the responses that never vary.
    """
    constant_values = dict(constants or {})
    needed = problem.goals.names - set(problem.space.names) - set(constant_values)
    if not needed <= set(model.response_names) or model.space.names != problem.space.names:
        return []
    cube = SearchCube(problem.space, problem.parameter_constraints, problem.fixed)
    rng = np.random.default_rng([seed, CANDIDATES])
    best: tuple[Rank, Point] | None = None
    inputs = cube.sample(lambda n: latin(n, cube.dimension, rng), CANDIDATES)
    for _ in range(ROUNDS):
        points, _ = cube.canonical(inputs)
        points = [point for point, good in zip(points, cube.allows(points), strict=True) if good]
        if not points:
            break
        ranks = _ranks(problem, model, scale, constant_values, points)
        top = min(range(len(points)), key=lambda index: ranks[index])
        if best is None or ranks[top] < best[0]:
            best = (ranks[top], points[top])
        centre = problem.space.encode([best[1]])[0]
        inputs = cube.sample(lambda n, place=centre: around(place, n, rng), CANDIDATES // 4)  # type: ignore[misc]
    return [] if best is None else [best[1]]


def _ranks(
    problem: Problem,
    model: Model,
    scale: MissScale,
    constant_values: Mapping[str, float],
    points: list[Point],
) -> list[Rank]:
    """What misses least first, then the best objective, of each point."""
    predictions = model.predictions(points, extrapolate=True)
    medians = [
        {
            **constant_values,
            **{name: float(prediction.median[index]) for name, prediction in predictions.items()},
        }
        for index in range(len(points))
    ]
    ranks = []
    for point, responses in zip(points, medians, strict=True):
        assessed = problem.assess(point, responses)
        value = problem.objective.sign * assessed.objective
        ranks.append((scale.total(assessed.excesses), value if np.isfinite(value) else np.inf))
    return ranks
