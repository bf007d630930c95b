"""How good a model is on rows it never saw, and how sure that is.

    symbol    shape   unit         meaning
    y         (n,)    response's   responses of the test rows
    t         (n,)                 y, or log10 y where the response is modelled so
    m, s      (n,)    that of t    centre and deviation of the prediction, which is normal in t
    z         (n,)    1            |t - m| / s
    nlpd              1            mean(z^2 / 2 + log(s / sd(t)) + log(2 pi) / 2)
    interval                       2.5 % and 97.5 % quantile of a figure over resampled rows

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from vistaflow_services.surrogates.surrogate import Floats, magnitude_unit
from vistaflow_services.surrogates.transforms import Prediction, Transform

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Central intervals whose coverage is looked at."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Figures of one response on the test rows."""

    rows: int
    rmse: Interval
    """Root mean squared error, in the response's unit."""
    mae: Interval
    """Mean absolute error, in the response's unit."""
    r2: Interval
    """Part of the variance explained; on the log scale where the response is modelled so."""
    coverage95: Interval
    """Part of the rows within their 95 % interval."""
    nlpd: Interval
    """Mean negative log density on the modelled scale, in deviations of the test rows; smaller is
    better, and 1.42 is what predicting their mean and deviation gets."""
    rmse_decades: Interval | None
    """Root mean squared error of the logarithm to base 10, where it is modelled so."""
    calibration: dict[float, float]
    """Part of the rows within their central interval, by the interval's level."""
    sharpness: float
    """Mean standard deviation predicted, in the response's unit."""


GOOD_R2 = 0.8
GOOD_COVERAGE = 0.85
"""What the upper end of the confidence interval of a coverage has to reach."""
ENOUGH_ROWS = 10
"""Rows below which R² and the coverage say little."""


def doubts_of(figures: HeldOut) -> list[str]:
    """Why a model should not be trusted yet, a few words each; empty if it may be."""
    doubts = []
    if figures.r2.value < GOOD_R2:
        doubts.append(f"explains {max(figures.r2.value, 0.0):.0%}")
    if figures.coverage95.high < GOOD_COVERAGE:
        doubts.append("intervals too narrow")
    if figures.rows < ENOUGH_ROWS:
        doubts.append("few rows")
    return doubts


def held_out_figures(
    y: Floats,
    predicted: Prediction,
    transform: Transform,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> HeldOut:
    """Figures of a prediction against what the simulator said.

    Errors are those of the median, which is the mean where no logarithm is used: one wide
    log-normal would otherwise drown all the rest. Confidence intervals are percentiles of
    `resamples` bootstraps of the rows (Efron and Tibshirani, 1993), so they say nothing of a test
    set of one or two rows.
    """
    unit = magnitude_unit(y)
    error = y / unit - predicted.median / unit
    modelled, centre, spread = _modelled_scale(y, predicted, transform, unit)
    z = np.abs(modelled - centre) / spread
    scale = float(modelled.std()) or 1.0
    density = 0.5 * z * z + np.log(spread / scale) + 0.5 * np.log(2.0 * np.pi)
    squared = (modelled - centre) ** 2
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(y), (resamples, len(y)))

    def figure(of: Callable[[Floats], Floats], *columns: Floats, unit: float = 1.0) -> Interval:
        value = float(of(np.stack(columns)[:, None])[0])
        spread_of = of(np.stack([column[draws] for column in columns]))
        low, high = np.quantile(spread_of, [0.025, 0.975])
        return Interval(value=value * unit, low=float(low) * unit, high=float(high) * unit)

    return HeldOut(
        rows=len(y),
        rmse=figure(lambda columns: np.sqrt(np.mean(columns[0], -1)), error**2, unit=unit),
        mae=figure(lambda columns: np.asarray(np.mean(columns[0], -1)), np.abs(error), unit=unit),
        r2=figure(_r_squared, squared, modelled),
        coverage95=figure(
            lambda columns: np.asarray(np.mean(columns[0], -1)),
            (z <= scipy.special.ndtri(0.975)).astype(float),
        ),
        nlpd=figure(lambda columns: np.asarray(np.mean(columns[0], -1)), density),
        rmse_decades=(
            figure(lambda columns: np.sqrt(np.mean(columns[0], -1)), squared)
            if transform is Transform.LOG10
            else None
        ),
        calibration={
            level: float(np.mean(z <= scipy.special.ndtri(0.5 + 0.5 * level))) for level in LEVELS
        },
        sharpness=float(np.mean(predicted.sd / unit)) * unit,
    )


def _modelled_scale(
    y: Floats, predicted: Prediction, transform: Transform, unit: float
) -> tuple[Floats, Floats, Floats]:
    """Response, centre and deviation on the scale on which the prediction is normal."""
    if transform is Transform.IDENTITY:
        return y / unit, predicted.mean / unit, np.maximum(predicted.sd / unit, 1e-300)
    low, high = np.log10(predicted.low95), np.log10(predicted.high95)
    width = (high - low) / (2.0 * float(scipy.special.ndtri(0.975)))
    return np.log10(y), np.log10(predicted.median), np.maximum(width, 1e-15)


def _r_squared(columns: Floats) -> Floats:
    squared, values = columns
    total = np.var(values, axis=-1)
    explained = 1.0 - np.mean(squared, -1) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, explained, 0.0))
