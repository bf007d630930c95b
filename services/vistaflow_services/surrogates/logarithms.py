"""Whether a response is predicted better in its logarithm, by cross-validation.

| symbol | shape | unit | meaning |
|---|---|---|---|
| y | (n,) | the response's | values, all above 0 |
| u | (n,) | decades | log10 y |
| m, s | (n,) | that of y or u | mean and deviation of each row, predicted without its fold |

Both models are compared as densities of y itself. The normal density of u becomes one of y by
du / dy = 1 / (y ln 10), so the negative log density of a row is, without constants,

    as it is:          ((y - m) / s)^2 / 2 + ln s
    in its logarithm:  ((u - m) / s)^2 / 2 + ln s + ln(y ln 10)
"""

from __future__ import annotations

import numpy as np

from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess
from vistaflow_services.surrogates.surrogate import Floats, make_folds, negative_log_density

MOST_ROWS = 200
"""Rows that are looked at: enough to see which scale is smooth."""

FOLDS = 10


def logarithm_is_better(features: Floats, values: Floats, seed: int) -> bool:
    """Whether left-out rows are more probable under a model of log10 of the values.

    Args:
        features: Inputs of the models (n, d) in the unit cube.
        values: Responses (n,), all above 0.
        seed: Decides which rows are looked at, and the folds.
    """
    if len(values) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(values))[:MOST_ROWS])
        features, values = features[chosen], values[chosen]
    folds = make_folds(len(values), FOLDS, seed)
    as_it_is = _density(features, values, folds, seed)
    in_logarithm = _density(features, np.log10(values), folds, seed)
    return in_logarithm + float(np.mean(np.log(values * np.log(10.0)))) < as_it_is


def _density(features: Floats, target: Floats, folds: list[np.ndarray], seed: int) -> float:
    process = GaussianProcess(kernel="matern52", trend=1, starts=2, seed=seed)
    process.fit(features, target)
    mean, sd = process.leave_out(folds)
    return negative_log_density(target, mean, sd)
