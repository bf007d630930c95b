"""The Gaussian process against scikit-learn's, on functions of engineering.

    python benchmarks/surrogates.py [--seeds 5]

Both learn from the same 10 points a parameter and search the likelihood from as many starts.
NRMSE is the error at 1,000 other points over their standard deviation; coverage is the share of
them within the 95 % interval, so 0.95 is right; times are of the processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from vistaflow_services.decks.space import Parameter, Scale, Space
from vistaflow_services.designs.generators import unit_points
from vistaflow_services.designs.recipe import Array, Generator, Recipe, Region
from vistaflow_services.simulators.functions import FUNCTIONS
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess

STARTS = 3
TESTS = 1024
POINTS_PER_PARAMETER = 10

RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "branin": ((-5, 10), (0, 15)),
    "otl": ((50, 150), (25, 70), (0.5, 3), (1.2, 2.5), (0.25, 1.2), (50, 300)),
    "piston": (
        (30, 60), (0.005, 0.02), (0.002, 0.01), (1000, 5000), (9e4, 1.1e5), (290, 296), (340, 360)
    ),
    "borehole": (
        (0.05, 0.15), (100, 50000), (63070, 115600), (990, 1110),
        (63.1, 116), (700, 820), (1120, 1680), (9855, 12045),
    ),
    "wing": (
        (150, 200), (220, 300), (6, 10), (-10, 10), (16, 45),
        (0.5, 1), (0.08, 0.18), (2.5, 6), (1700, 2500), (0.025, 0.08),
    ),
}  # fmt: skip
LOGARITHMIC = {("borehole", "r")}

Fitted = Callable[[Array], tuple[Array, Array]]


def space_of(name: str) -> Space:
    return Space(
        parameters=tuple(
            Parameter(
                name=parameter,
                low=low,
                high=high,
                scale=Scale.LOG if (name, parameter) in LOGARITHMIC else Scale.LINEAR,
            )
            for parameter, (low, high) in zip(FUNCTIONS[name].inputs, RANGES[name], strict=True)
        )
    )


def responses(name: str, unit: Array) -> Array:
    columns = Region(space=space_of(name)).decode(unit)
    function = FUNCTIONS[name]
    return np.asarray(function.compute(*columns.values())[function.outputs[0]])


def own(kernel: Any) -> Callable[[Array, Array, int], Fitted]:
    def fit(X: Array, y: Array, seed: int) -> Fitted:
        return GaussianProcess(kernel=kernel, starts=STARTS, seed=seed).fit(X, y).predict

    return fit


def sklearn(correlation: Callable[[Array], Any]) -> Callable[[Array, Array, int], Fitted]:
    def fit(X: Array, y: Array, seed: int) -> Fitted:
        lengths = correlation(np.full(X.shape[1], 0.5))
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * lengths + WhiteKernel(1e-6, (1e-10, 1.0))
        model = GaussianProcessRegressor(
            kernel, n_restarts_optimizer=STARTS - 1, normalize_y=True, random_state=seed
        )
        model.fit(X, y)
        return lambda rows: model.predict(rows, return_std=True)

    return fit


FITS: dict[str, Callable[[Array, Array, int], Fitted]] = {
    "sklearn matern52": sklearn(lambda start: Matern(start, (0.02, 50.0), nu=2.5)),
    "sklearn rbf": sklearn(lambda start: RBF(start, (0.02, 50.0))),
    "own matern52": own("matern52"),
    "own rbf": own("rbf"),
}


def measure(name: str, fit: Callable[[Array, Array, int], Fitted], seed: int) -> list[float]:
    dimension = len(RANGES[name])
    recipe = Recipe(generator=Generator.LHS_ESE, size=POINTS_PER_PARAMETER * dimension, seed=seed)
    X = unit_points(recipe, Region(space=space_of(name)))
    y = responses(name, X)
    tests = qmc.Sobol(dimension, rng=1000 + seed).random(TESTS)
    truth = responses(name, tests)
    begun = time.process_time()
    mean, sd = fit(X, y, seed)(tests)
    spent = time.process_time() - begun
    error = float(np.sqrt(np.mean((mean - truth) ** 2)) / truth.std())
    return [error, float(np.mean(np.abs(mean - truth) <= 1.96 * sd)), spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"surrogates: medians of {seeds} seeds; ratios to scikit-learn's Matern 5/2")
    for name in RANGES:
        dimension = len(RANGES[name])
        title = f"{name}, {POINTS_PER_PARAMETER * dimension} points of {dimension}"
        print(f"\n{title:28}{'NRMSE':>9}{'ratio':>8}{'coverage':>10}{'CPU':>9}{'ratio':>8}")
        base: list[float] = []
        for label, fit in FITS.items():
            runs = [measure(name, fit, seed) for seed in range(seeds)]
            error, covered, spent = map(statistics.median, zip(*runs, strict=True))
            base = base or [error, spent]
            print(
                f"  {label:26}{error:>9.2e}{error / base[0]:>8.2f}{covered:>10.3f}"
                f"{spent:>8.2f}s{spent / base[1]:>8.3f}"
            )


if __name__ == "__main__":
    main()
