"""Responses that span decades are modelled in their logarithm; this is the way there and back.

    symbol   shape  unit         meaning
    u        (n,)   decades      log10 y, predicted as normal with mean m and deviation s
    v        (n,)   1            (s ln 10)^2, the variance of ln y
    mean     (n,)   response's   exp(m ln 10 + v / 2)
    sd       (n,)   response's   mean sqrt(exp(v) - 1)
    median   (n,)   response's   10^m; the 95 % interval is 10^(m - 1.96 s) to 10^(m + 1.96 s)

Source: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", 1994, chapter 14
(the log-normal distribution).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.surrogates.surrogate import Floats

_LN10 = float(np.log(10.0))
_Z95 = 1.959963984540054
_MIN_RATIO = 1e3
_SKEWED_RATIO = 10.0
_SKEWNESS = 1.5
_MAX_EXPONENT = 700.0


class Transform(StrEnum):
    """How a response is laid out for the models."""

    IDENTITY = "identity"
    LOG10 = "log10"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A response predicted at some points, each field (n,) and in the response's unit."""

    mean: Floats
    sd: Floats
    median: Floats
    """What half of the outcomes stay below; the better guess where logarithms are used."""
    low95: Floats
    """Lower end of the central 95 % interval."""
    high95: Floats
    """Upper end of it."""


def spans_decades(y: ArrayLike) -> bool:
    """Whether a response is better modelled in its logarithm.

    It must be above zero everywhere, and span three decades; or span one, be skewed to large
    values (skewness above 1.5) and be less than half as skewed in its logarithm.
    """
    values = np.asarray(y, float)
    if len(values) < 3 or not np.isfinite(values).all() or values.min() <= 0:
        return False
    ratio = values.max() / values.min()
    if ratio >= _MIN_RATIO:
        return True
    skew = _skewness(values)
    return bool(
        ratio >= _SKEWED_RATIO
        and skew > _SKEWNESS
        and abs(_skewness(np.log10(values))) < 0.5 * skew
    )


def _skewness(values: Floats) -> float:
    largest = float(np.abs(values).max())
    # Divided first: the cube of a large number overflows, that of a small one vanishes.
    scaled = values / largest if largest > 0 else values
    centred = scaled - scaled.mean()
    spread = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean(centred**3)) / spread**3 if spread > 1e-100 else 0.0


def forward(transform: Transform, y: ArrayLike) -> Floats:
    """Responses as the models see them."""
    values = np.asarray(y, float)
    return np.log10(values) if transform is Transform.LOG10 else values


def backward(
    transform: Transform, mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> Prediction:
    """A normal prediction on the models' scale, in the response's unit.

    On the log scale the outcome is log-normal and mean and deviation are its moments: the mean
    lies above the median, much above it where the deviation is a decade or more.
    """
    low, high = mean - _Z95 * sd, mean + _Z95 * sd
    if transform is Transform.IDENTITY:
        return Prediction(mean=mean, sd=sd, median=mean, low95=low, high95=high)
    variance = (sd * _LN10) ** 2
    centre = np.exp(np.minimum(mean * _LN10 + 0.5 * variance, _MAX_EXPONENT))
    half = np.minimum(0.5 * variance, _MAX_EXPONENT)
    # sqrt(exp(v) - 1), written so that it neither cancels nor overflows
    spread = np.exp(half) * np.sqrt(-np.expm1(-variance))
    with np.errstate(over="ignore"):
        deviation = np.minimum(centre * spread, np.finfo(float).max)
    bounded = [np.power(10.0, np.clip(exponents, -300.0, 300.0)) for exponents in (mean, low, high)]
    return Prediction(
        mean=centre, sd=deviation, median=bounded[0], low95=bounded[1], high95=bounded[2]
    )
