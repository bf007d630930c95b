"""The covariance of a Gaussian process, factored once for predictions and derivatives.

    symbol         shape   unit  meaning
    K = L L'       (n, n)  1     correlation plus noise ratio
    F              (n, q)  1     trend columns; L^-1 F = Q R
    beta           (q,)    1     R^-1 Q'L^-1 z, generalised least squares
    e              (n,)    1     (I - Q Q') L^-1 z, the whitened residual
    weights        (n,)    1     L^-T e = K^-1 (z - F beta)
    variance               1     |e|^2 / (n - q)

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 2.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from vistaflow_services.surrogates.surrogate import Floats

TINY = 1e-12
"""Least ratio of a predicted variance to the process variance, so that none is 0."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a covariance, once factored, gives to predictions and derivatives."""

    lower: Floats
    """Cholesky factor of correlation + noise (n, n)."""
    trend: Floats
    """Trend columns whitened by `lower` (n, q)."""
    upper: Floats
    """R of the QR decomposition of `trend` (q, q)."""
    orthogonal: Floats
    """Q of the same (n, q)."""
    coefficients: Floats
    """Generalised least squares trend coefficients (q,)."""
    weights: Floats
    """Inverse covariance times the residuals (n,)."""
    variance: float
    """Process variance, restricted maximum likelihood estimate."""


def cholesky_with_jitter(matrix: Floats) -> tuple[Floats, float]:
    """Lower Cholesky factor, and the jitter that had to be added to the diagonal (mostly 0)."""
    jitter = 0.0
    while True:
        lifted = matrix if jitter == 0.0 else matrix + jitter * np.eye(len(matrix))
        lower, failed = scipy.linalg.lapack.dpotrf(lifted, lower=1, clean=1)
        if not failed and np.isfinite(lower[-1, -1]):
            return lower, jitter
        jitter = 1e-10 if jitter == 0.0 else jitter * 10.0
        if jitter > 1e-2:
            raise np.linalg.LinAlgError("covariance is not positive definite even with jitter")


def factor(K: Floats, z: Floats, trend: Floats) -> Factors:
    """Factors the correlation `K` (n, n) of responses `z` (n,) with trend columns (n, q)."""
    lower, _ = cholesky_with_jitter(K)
    white_trend = scipy.linalg.solve_triangular(lower, trend, lower=True, check_finite=False)
    white = scipy.linalg.solve_triangular(lower, z, lower=True, check_finite=False)
    orthogonal, upper = np.linalg.qr(white_trend)
    projected = orthogonal.T @ white
    residual = white - orthogonal @ projected
    freedom = max(1, len(z) - trend.shape[1])
    variance = float(residual @ residual) / freedom
    if len(z) <= trend.shape[1]:
        variance = 1.0  # nothing is left to estimate it from: the standardised variance
    return Factors(
        lower=lower,
        trend=white_trend,
        upper=upper,
        orthogonal=orthogonal,
        coefficients=scipy.linalg.solve_triangular(upper, projected, check_finite=False),
        weights=scipy.linalg.solve_triangular(
            lower, residual, lower=True, trans=1, check_finite=False
        ),
        variance=max(variance, TINY),
    )
