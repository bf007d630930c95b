"""How promising an untried point is: logarithm of expected improvement times feasibility.

Everything is kept in logarithms, because far from the data both factors underflow
and a search that sees only zeros has no slope to follow (Ament et al., "Unexpected
Improvements to Expected Improvement", NeurIPS 2023).

    symbol        shape   unit  meaning
    mu, sd        (m, n)  1     prediction of the warped objective and of signed violations c_j
    best                  1     smallest warped objective of a feasible point
    z             (n,)    1     (best - mu_0) / sd_0
    h(z)          (n,)    1     phi(z) + z Phi(z); expected improvement is sd_0 h(z)
    merit         (n,)    1     log h(z) + log sd_0 + sum_j log Phi(-mu_j / sd_j)

    d merit = (phi(z) d sd_0 - Phi(z) d mu_0) / (sd_0 h(z))
              - sum_j phi(t_j) / Phi(t_j) (d mu_j - mu_j / sd_j d sd_j) / sd_j,  t_j = -mu_j / sd_j
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr, ndtr

Array = NDArray[np.float64]

_HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))


class Surfaces(Protocol):
    """Probabilistic predictions of several quantities (m) over the unit cube."""

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Means and standard deviations, each (m, n), at inputs (n, d)."""
        ...

    def gradient(self, point: Array) -> tuple[Array, Array, Array, Array]:
        """Means and deviations, each (m,), and their slopes, each (m, d), at one point (d,)."""
        ...


class Criterion(StrEnum):
    """What is asked of the objective's prediction."""

    IMPROVEMENT = "improvement"
    """Logarithm of the expected improvement over the best value seen."""

    BOUND = "bound"
    """How far an optimistic bound, two standard deviations low, lies below the best."""


def log_improvement(z: Array) -> Array:
    """log(φ(z) + z·Φ(z)), accurate from z = -1e154 to z = 1e154.

    `z` is (best - mean) / sd; adding log(sd) gives the logarithm of expected improvement.
    """
    z = np.asarray(z, dtype=np.float64)
    out = np.empty_like(z)
    plain = z > -1.0
    near = z[plain]
    out[plain] = np.log(np.exp(-0.5 * near**2 - _HALF_LOG_2PI) + near * ndtr(near))
    far = z[~plain]
    # φ(z)·(1 + z·Φ(z)/φ(z)) with the ratio by erfcx; it cancels below about -1000,
    # where the first term of the asymptotic series, 1/z², is exact to 1e-6.
    ratio = 1.0 + far * np.sqrt(np.pi / 2.0) * erfcx(-far / np.sqrt(2.0))
    tail = np.where(far < -1e3, 1.0 / far**2, np.maximum(ratio, 1e-300))
    out[~plain] = -0.5 * far**2 - _HALF_LOG_2PI + np.log(tail)
    return out


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """log(merit of the objective) + Σ log(probability that each constraint is met).

    Constraints are predictions of signed violation: zero or less is met. Without a
    feasible point yet (`best` is None) only feasibility counts.
    """

    surfaces: Surfaces
    """Predictions of the objective, to be minimised, and of the signed violations."""

    objective: int
    """Which of the surfaces is the objective."""

    constraints: tuple[int, ...]
    """Which of the surfaces are signed violations."""

    best: float | None
    """Smallest value of a feasible point seen so far, on the objective's scale."""

    criterion: Criterion = Criterion.IMPROVEMENT
    """What is asked of the objective."""

    def values(self, inputs: Array) -> Array:
        """Merit (n,) of inputs (n, d); larger is better."""
        means, sds = self.surfaces.predict(inputs)
        rows = list(self.constraints)
        merit = np.asarray(log_ndtr(-means[rows] / sds[rows]).sum(axis=0), dtype=np.float64)
        if self.best is not None:
            mean, sd = means[self.objective], sds[self.objective]
            if self.criterion is Criterion.IMPROVEMENT:
                merit = merit + log_improvement((self.best - mean) / sd) + np.log(sd)
            else:
                merit = merit + self.best - mean + 2.0 * sd
        return merit

    def value_and_slope(self, point: Array) -> tuple[float, Array]:
        """Merit and its gradient (d,) at one point (d,)."""
        means, sds, dmeans, dsds = self.surfaces.gradient(point)
        rows = list(self.constraints)
        mean_c, sd_c = means[rows], sds[rows]
        z = -mean_c / sd_c
        log_p = log_ndtr(z)
        hazard = np.exp(-0.5 * z * z - _HALF_LOG_2PI - log_p) / sd_c
        merit = float(log_p.sum())
        slope = -(hazard @ dmeans[rows]) + (hazard * mean_c / sd_c) @ dsds[rows]
        if self.best is not None:
            mean, sd = float(means[self.objective]), float(sds[self.objective])
            dmean, dsd = dmeans[self.objective], dsds[self.objective]
            if self.criterion is Criterion.IMPROVEMENT:
                gap = (self.best - mean) / sd
                log_h = float(log_improvement(np.array([gap]))[0])
                merit += log_h + float(np.log(sd))
                density = np.exp(-0.5 * gap * gap - _HALF_LOG_2PI - log_h)
                slope = slope + (density * dsd - np.exp(log_ndtr(gap) - log_h) * dmean) / sd
            else:
                merit += self.best - mean + 2.0 * sd
                slope = slope + 2.0 * dsd - dmean
        return merit, slope
