"""The Gaussian processes of a search: one for the objective, one a constraint, one for failures.

Hyper-parameters are learnt again when the data has grown by a tenth; in between a
process only takes in the new points: one more point hardly moves a length scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vistaflow_services.search.cube import SearchCube
from vistaflow_services.search.posterior import Posterior, Quantity
from vistaflow_services.search.warping import Warping, candidate_warpings
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess

Array = NDArray[np.float64]

REFIT_GROWTH = 1.1
"""Growth of the data from which hyper-parameters are learnt again."""

MAX_ITERATIONS = 40
"""Of each likelihood search; most begin at the last hyper-parameters, which are near."""

WARP_MARGIN = 1e-3
"""Rank correlation by which a warp must beat a plainer one."""


class CubeSurfaces:
    """Posteriors seen from the cube: they take its coordinates and give slopes along them."""

    def __init__(self, cube: SearchCube, posteriors: list[Posterior]) -> None:
        self._cube = cube
        self._columns = cube.feature_columns
        self._posteriors = posteriors

    @property
    def count(self) -> int:
        """How many quantities are predicted, m."""
        return sum(len(posterior.quantities) for posterior in self._posteriors)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Means and standard deviations, each (m, n), at cube inputs (n, d)."""
        features = self._cube.features(inputs)
        predictions = [posterior.predict(features) for posterior in self._posteriors]
        return np.vstack([mean for mean, _ in predictions]), np.vstack(
            [sd for _, sd in predictions]
        )

    def gradient(self, point: Array) -> tuple[Array, Array, Array, Array]:
        """Means, deviations and slopes (m, d) at one point; zero along unordered choices."""
        features = self._cube.features(point[None, :])[0]
        gradients = [posterior.gradient(features) for posterior in self._posteriors]
        mean, sd, dmean, dsd = (
            np.concatenate([gradient[part] for gradient in gradients]) for part in range(4)
        )
        slopes = np.zeros((2, len(mean), len(point)))
        slopes[0][:, self._columns] = dmean[:, : len(self._columns)]
        slopes[1][:, self._columns] = dsd[:, : len(self._columns)]
        return mean, sd, slopes[0], slopes[1]

    def believing(self, inputs: Array) -> Self:
        """These surfaces as if their own means had been observed at cube inputs (k, d)."""
        features = self._cube.features(inputs)
        return type(self)(
            self._cube, [posterior.believing(features) for posterior in self._posteriors]
        )


@dataclass
class Learner:
    """Fits one quantity again and again as its data grows."""

    cube: SearchCube
    seed: int
    _theta: Array | None = field(default=None, init=False)
    _fitted_on: int = field(default=0, init=False)
    _warping: Warping | None = field(default=None, init=False)

    def fit(self, features: Array, values: Array) -> Quantity:
        """What is learnt from values (n,) at rows of features (n, p)."""
        if self._theta is None or self._is_due(values):
            self._learn(self._process().fit(features, values, start=self._theta), values)
        return self._quantity(values)

    def fit_warped(self, features: Array, values: Array) -> tuple[Quantity, Warping]:
        """The same on whichever scale predicts the values' order best.

        The scale is chosen, whenever hyper-parameters are learnt, by the rank
        correlation of leave-one-out predictions with the values.
        """
        if self._warping is None or self._is_due(values):
            chosen: tuple[float, GaussianProcess, Warping] | None = None
            for warping in candidate_warpings(values):
                process = self._process()
                process.fit(features, warping.apply(values), start=self._theta)
                mean, _ = process.leave_out([[row] for row in range(len(values))])
                score = rank_correlation(mean, values)
                if chosen is None or score > chosen[0] + WARP_MARGIN:
                    chosen = (score, process, warping)
            assert chosen is not None
            self._warping = chosen[2]
            self._learn(chosen[1], values)
        return self._quantity(self._warping.apply(values)), self._warping

    def _is_due(self, values: Array) -> bool:
        return len(values) >= REFIT_GROWTH * self._fitted_on

    def _process(self) -> GaussianProcess:
        starts = 2 if self._theta is None else 1
        return GaussianProcess(starts=starts, seed=self.seed, max_iterations=MAX_ITERATIONS)

    def _learn(self, process: GaussianProcess, values: Array) -> None:
        self._theta, self._fitted_on = process.hyper_parameters, len(values)

    def _quantity(self, values: Array) -> Quantity:
        assert self._theta is not None
        return Quantity(
            values=values, log_lengths=self._theta[:-1], log_noise=float(self._theta[-1])
        )


def rank_correlation(predicted: Array, true: Array) -> float:
    """Spearman's rank correlation; 0 when either side is constant."""
    a, b = rankdata(predicted), rankdata(true)
    spread = float(a.std() * b.std())
    return float(np.mean((a - a.mean()) * (b - b.mean()))) / spread if spread > 0 else 0.0
