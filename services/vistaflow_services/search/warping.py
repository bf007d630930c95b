"""Scales on which simulated quantities are easiest to predict.

A Gaussian process expects values that vary smoothly on one scale. Objectives with heavy
tails and leakage currents over eight decades do not; a monotone change of scale makes
them so and keeps the order of points, and with it the optimum.

    symbol  shape  unit          meaning
    v       (n,)   objective's   objective values, to be minimised
    LOG     (n,)   1             sign log(sign v), where all values have one sign
    YJ      (n,)   1             Yeo-Johnson power of (v - median) / interquartile range
    c       (n,)   1             of a constraint: log left - log right, or
                                 sign(left - right) log(1 + |left - right| / median)

Sources: Yeo and Johnson, "A new family of power transformations", 2000; Eriksson and Poloczek,
"Scalable Constrained Bayesian Optimization", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import yeojohnson, yeojohnson_normmax

Array = NDArray[np.float64]

DECADE = 10.0
"""Ratio of largest to smallest positive value from which a logarithm is considered."""


LARGEST = 1e300
"""Largest difference of two sides that is distinguished from larger ones."""


class Warp(StrEnum):
    """A monotone increasing change of scale."""

    RAW = "raw"
    LOG = "log"
    YEO_JOHNSON = "yeo-johnson"


@dataclass(frozen=True, kw_only=True)
class Warping:
    """A warp with its constants fixed from data."""

    warp: Warp
    """The kind."""

    sign: float = 1.0
    """-1 for quantities that were negated to be minimised; LOG works on the magnitude."""

    centre: float = 0.0
    """Median of the data (YEO_JOHNSON)."""

    spread: float = 1.0
    """Interquartile range of the data (YEO_JOHNSON)."""

    power: float = 1.0
    """Exponent, within [-2, 2] (YEO_JOHNSON)."""

    def apply(self, values: Array) -> Array:
        """The values on the new scale."""
        if self.warp is Warp.LOG:
            return np.asarray(self.sign * np.log(self.sign * values), dtype=np.float64)
        if self.warp is Warp.YEO_JOHNSON:
            scaled = (values - self.centre) / self.spread
            return np.asarray(yeojohnson(scaled, self.power), dtype=np.float64)
        return values

    def unit_at(self, value: float) -> float:
        """How much the value changes for one unit of the new scale, at `value`."""
        step = 1e-6 * max(abs(value), self.spread, 1e-300)
        low, high = self.apply(np.array([value - step, value + step]))
        return 2.0 * step / float(high - low) if high > low else 1.0


def candidate_warpings(values: Array) -> list[Warping]:
    """The scales worth trying for `values` (n,), which are to be minimised.

    RAW always; LOG when all values have one sign and span more than a decade;
    YEO_JOHNSON when the quartiles differ, so that its constants exist.
    """
    warpings = [Warping(warp=Warp.RAW)]
    sign = 1.0 if values.min() > 0 else -1.0
    magnitude = sign * values
    if magnitude.min() > 0 and magnitude.max() > DECADE * magnitude.min():
        warpings.append(Warping(warp=Warp.LOG, sign=sign))
    low, centre, high = (float(quantile) for quantile in np.percentile(values, [25, 50, 75]))
    if high - low > 1e-9 * max(abs(low), abs(high)):
        scaled = (values - centre) / (high - low)
        with np.errstate(all="ignore"):
            power = float(np.clip(yeojohnson_normmax(scaled), -2.0, 2.0))
        if np.isfinite(power):
            warpings.append(
                Warping(warp=Warp.YEO_JOHNSON, centre=centre, spread=high - low, power=power)
            )
    return warpings


def bilog(values: Array, scale: float) -> Array:
    """sign(v)·log(1 + |v|/scale): linear near zero, logarithmic far away; keeps the sign.

    Eriksson and Poloczek, "Scalable Constrained Bayesian Optimization", AISTATS 2021.
    """
    return np.asarray(np.sign(values) * np.log1p(np.abs(values) / scale), dtype=np.float64)


def constraint_scale(left: Array, right: Array) -> Array:
    """Signed violation (n,) of `left <= right` on a scale that a surface predicts well.

    log(left/right) where both are positive and either spans more than a decade: there a
    difference would hide everything below the limit. Otherwise the bilog of the
    difference, in units of its median magnitude. Zero stays the limit in both.
    """
    low = min(left.min(), right.min())
    if low > 0 and max(np.ptp(np.log(left)), np.ptp(np.log(right))) > np.log(DECADE):
        return np.asarray(np.log(left) - np.log(right), dtype=np.float64)
    with np.errstate(over="ignore"):
        difference = np.clip(left - right, -LARGEST, LARGEST)
    scale = float(np.median(np.abs(difference)))
    if scale <= 0:
        scale = float(np.abs(difference).max()) or 1.0
    return bilog(difference, scale)
