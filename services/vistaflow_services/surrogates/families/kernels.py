"""Stationary covariances with one length per feature (automatic relevance determination).

    symbol  shape   unit  meaning
    A, B    (m, d)  1     rows of features, in the unit cube
    l       (d,)    1     length of each feature; `inverse` is 1 / l
    r       (m, n)  1     |(a - b) / l|
    rbf             1     exp(-r^2 / 2)
    matern52        1     (1 + q + q^2 / 3) exp(-q), q = sqrt(5) r
    G       (m, n)  1     -k'(r) / r: what all derivatives have in common

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 4.2.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vistaflow_services.surrogates.surrogate import Floats

KernelName = Literal["rbf", "matern52"]
_ROOT5 = np.sqrt(5.0)


def squared_distances(A: Floats, B: Floats, inverse: Floats) -> Floats:
    """Squared distances between the rows of `A` (m, d) and `B` (n, d) in units of the lengths."""
    a, b = A * inverse, B * inverse
    return np.asarray(
        np.maximum(np.sum(a * a, 1)[:, None] + np.sum(b * b, 1)[None] - 2.0 * (a @ b.T), 0.0)
    )


def covariance(kernel: KernelName, A: Floats, B: Floats, inverse: Floats) -> Floats:
    """Correlations (m, n) of the rows of `A` with those of `B`; `inverse` is 1 / length."""
    return covariance_and_slope(kernel, A, B, inverse)[0]


def covariance_and_slope(
    kernel: KernelName, A: Floats, B: Floats, inverse: Floats
) -> tuple[Floats, Floats]:
    """Correlations K and the slope G from which every derivative follows.

    For feature j with length l_j: dK/dlog(l_j) = G (a_j - b_j)^2 / l_j^2 and
    dK/da_j = -G (a_j - b_j) / l_j^2 (Rasmussen and Williams, "Gaussian Processes", 2006, 4.2).
    """
    r2 = squared_distances(A, B, inverse)
    if kernel == "rbf":
        correlation = np.exp(-0.5 * r2)
        return correlation, correlation
    scaled = _ROOT5 * np.sqrt(r2)
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled * scaled / 3.0) * decay, (5.0 / 3.0) * (1.0 + scaled) * decay
