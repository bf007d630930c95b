"""Local search from a start: up an acquisition, or down a prediction within its constraints.

    symbol   shape   unit  meaning
    x        (d,)    1     a place in the unit cube: real coordinates, and discrete ones at levels
    loss(x)          1     minus the merit, or the predicted warped objective
    limits   (k,)    1     constraints over parameters, and mu_j + CAUTION sd_j of simulated ones;
                           at most 0 is met

Real coordinates descend by L-BFGS-B, or by SLSQP where there are limits (Nocedal and Wright,
"Numerical Optimization", 2006, chapters 7 and 18), in turns with single steps of discrete ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from vistaflow_services.search.acquisition import Acquisition, Surfaces
from vistaflow_services.search.cube import SearchCube

Array = NDArray[np.float64]
Loss = Callable[[Array], tuple[float, Array]]
Limits = Callable[[Array], tuple[Array, Array]]

ITERATIONS = 25
"""Of one descent."""

TURNS = 3
"""Most alternations of real and discrete coordinates."""

CAUTION = 0.5
"""Standard deviations by which a predicted constraint must be met when descending."""


class Climber:
    """Local search in one cube."""

    def __init__(self, cube: SearchCube) -> None:
        self._cube = cube
        self._free = cube.continuous

    def refine(self, acquisition: Acquisition, start: Array) -> tuple[float, Array]:
        """The merit and place reached by climbing `acquisition` from `start` (d,).

        Over real coordinates by its slope, then to the best discrete neighbour, in turns.
        """
        where = start
        merit = float(acquisition.values(where[None, :])[0])
        for _ in range(TURNS):
            merit, where = self._climb(acquisition, merit, where)
            near = self._cube.neighbours(where)
            near = near[self._cube.allowed(near)] if len(near) else near
            if not len(near):
                break
            merits = acquisition.values(near)
            top = int(merits.argmax())
            if merits[top] <= merit:
                break
            merit, where = float(merits[top]), near[top]
        return merit, where

    def descend(
        self, surfaces: Surfaces, constraints: tuple[int, ...], start: Array
    ) -> tuple[float, Array]:
        """The least predicted objective from `start`, where constraints are predicted to be met.

        Args:
            surfaces: The objective in row 0.
            constraints: Rows of the signed violations.
            start: Where to begin (d,); allowed.
        """
        rows = list(constraints)

        def loss(inputs: Array) -> tuple[float, Array]:
            mean, _, dmean, _ = surfaces.gradient(inputs)
            return float(mean[0]), dmean[0]

        def limits(inputs: Array) -> tuple[Array, Array]:
            values, slopes = self._cube.excess_slope(inputs)
            mean, sd, dmean, dsd = surfaces.gradient(inputs)
            return (
                np.append(values, mean[rows] + CAUTION * sd[rows]),
                np.vstack([slopes, dmean[rows] + CAUTION * dsd[rows]]),
            )

        bounded = bool(rows or self._cube.constraints)
        reached = self._minimise(loss, start, limits if bounded else None)
        return float(surfaces.predict(reached[None, :])[0][0, 0]), reached

    def _climb(self, acquisition: Acquisition, merit: float, start: Array) -> tuple[float, Array]:
        def loss(inputs: Array) -> tuple[float, Array]:
            value, slope = acquisition.value_and_slope(inputs)
            return -value, -slope

        limits = self._cube.excess_slope if self._cube.constraints else None
        summit = self._minimise(loss, start, limits)
        reached = float(acquisition.values(summit[None, :])[0])
        return (reached, summit) if reached > merit else (merit, start)

    def _minimise(self, loss: Loss, start: Array, limits: Limits | None) -> Array:
        """Descends over real coordinates, within `limits` (at most 0) if there are any."""
        free = self._free
        if not len(free):
            return start

        def inputs_of(reals: Array) -> Array:
            full = start.copy()
            full[free] = np.clip(reals, 0.0, 1.0)
            return full

        def sloped(reals: Array) -> tuple[float, Array]:
            value, slope = loss(inputs_of(reals))
            return value, slope[free]

        bounds = [(0.0, 1.0)] * len(free)
        if limits is None:
            result = minimize(
                sloped,
                start[free],
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": ITERATIONS},
            )
            return inputs_of(result.x)
        limits_of = _LastAnswer(lambda reals: limits(inputs_of(reals)))
        with np.errstate(all="ignore"):
            result = minimize(
                sloped,
                start[free],
                jac=True,
                method="SLSQP",
                bounds=bounds,
                constraints=[
                    {
                        "type": "ineq",
                        "fun": lambda reals: -limits_of(reals)[0],
                        "jac": lambda reals: -limits_of(reals)[1][:, free],
                    }
                ],
                options={"maxiter": ITERATIONS, "ftol": 1e-9},
            )
        return (
            self._into_allowed(start, inputs_of(result.x)) if np.isfinite(result.x).all() else start
        )

    def _into_allowed(self, inside: Array, reached: Array) -> Array:
        """The farthest allowed point on the way from an allowed one to `reached`."""
        shares = np.concatenate([[1.0], 1.0 - 0.5 ** np.arange(40, 0, -1), [0.0]])
        way = inside + shares[:, None] * (reached - inside)
        points, _ = self._cube.canonical(way)
        allowed = self._cube.allows(points)
        return np.asarray(way[int(allowed.argmax())] if allowed.any() else inside)


class _LastAnswer:
    """A function of one place that remembers its last answer: values and slopes are asked apart."""

    def __init__(self, ask: Limits) -> None:
        self._ask = ask
        self._key = b""
        self._answer: tuple[Array, Array] = (np.empty(0), np.empty(0))

    def __call__(self, reals: Array) -> tuple[Array, Array]:
        if reals.tobytes() != self._key:
            self._answer, self._key = self._ask(reals), reals.tobytes()
        return self._answer
