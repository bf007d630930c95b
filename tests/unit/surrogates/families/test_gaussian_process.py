"""The Gaussian process: derivatives, accuracy, honesty, and the corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad
from scipy.stats import qmc

from vistaflow_services.surrogates.families.gaussian_process import (
    GaussianProcess,
    Trend,
    cholesky_with_jitter,
)
from vistaflow_services.surrogates.families.kernels import KernelName
from vistaflow_services.surrogates.surrogate import make_folds

Floats = NDArray[np.float64]
KERNELS: tuple[KernelName, ...] = ("rbf", "matern52")
TRENDS: tuple[Trend, ...] = (0, 1, 2)


def _rows(n: int, d: int, seed: int = 0) -> Floats:
    return np.asarray(qmc.LatinHypercube(d, rng=np.random.default_rng(seed)).random(n))


def _smooth(X: Floats) -> Floats:
    return np.sin(5 * X[:, 0]) + X[:, 1] ** 2


def borehole(unit: Floats) -> Floats:
    low = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
    high = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])
    rw, r, tu, hu, tl, hl, length, kw = (low + unit * (high - low)).T
    log = np.log(r / rw)
    flow = 2 * np.pi * tu * (hu - hl)
    return np.asarray(flow / (log * (1 + 2 * length * tu / (log * rw**2 * kw) + tu / tl)))


def otl(unit: Floats) -> Floats:
    low, high = np.array([50, 25, 0.5, 1.2, 0.25, 50]), np.array([150, 70, 3, 2.5, 1.2, 300])
    rb1, rb2, rf, rc1, rc2, beta = (low + unit * (high - low)).T
    base, gain = 12 * rb2 / (rb1 + rb2), beta * (rc2 + 9)
    return np.asarray(
        (base + 0.74) * gain / (gain + rf)
        + 11.35 * rf / (gain + rf)
        + 0.74 * rf * gain / ((gain + rf) * rc1)
    )


def friedman(unit: Floats) -> Floats:
    a, b, c, d, e = unit[:, :5].T
    return np.asarray(10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("trend", TRENDS)
def test_the_gradient_of_the_likelihood_is_the_one_of_differences(
    kernel: KernelName, trend: Trend
) -> None:
    X = _rows(30, 3)
    process = GaussianProcess(kernel=kernel, trend=trend).fit(X, _smooth(X))
    columns = np.hstack([np.ones((30, 1)), X - 0.5, (X - 0.5) ** 2])[:, : 1 + 3 * trend]
    z = (_smooth(X) - _smooth(X).mean()) / _smooth(X).std()

    def value(log: Floats) -> float:
        return process._negative_log_posterior(log, X, z, columns)[0]

    def slope(log: Floats) -> Floats:
        return process._negative_log_posterior(log, X, z, columns)[1]

    at = np.array([-0.5, 0.1, 0.3, -6.0])
    assert check_grad(value, slope, at) < 1e-4 * np.linalg.norm(slope(at))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("trend", TRENDS)
def test_gradients_of_mean_and_deviation_are_those_of_differences(
    kernel: KernelName, trend: Trend
) -> None:
    X = _rows(25, 3)
    process = GaussianProcess(kernel=kernel, trend=trend).fit(X, 7 + 3 * _smooth(X))
    process.calibration = 1.3
    point, step = np.array([0.21, 0.63, 1.07]), 1e-6
    mean, sd, dmean, dsd = process.gradient(point)
    assert (mean, sd) == pytest.approx([each[0] for each in process.predict(point)])
    for j in range(3):
        ahead, behind = point.copy(), point.copy()
        ahead[j] += step
        behind[j] -= step
        (up, wide), (down, narrow) = process.predict(ahead), process.predict(behind)
        assert dmean[j] == pytest.approx((up[0] - down[0]) / (2 * step), rel=1e-3, abs=1e-5)
        assert dsd[j] == pytest.approx((wide[0] - narrow[0]) / (2 * step), rel=2e-3, abs=1e-5)


def test_gradients_of_several_points_are_those_of_each() -> None:
    X = _rows(25, 3)
    process = GaussianProcess(trend=1).fit(X, _smooth(X))
    points = _rows(4, 3, seed=9)
    together = process.gradient(points)
    for at, point in enumerate(points):
        for all_of, one in zip(together, process.gradient(point), strict=True):
            np.testing.assert_allclose(all_of[at], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "dimension", "limit"),
    [(borehole, 8, 0.0021), (otl, 6, 0.0024), (friedman, 10, 0.001)],
)
def test_two_hundred_points_reach_the_published_error_with_honest_bands(
    function: Callable[[Floats], Floats], dimension: int, limit: float
) -> None:
    X, new = _rows(200, dimension, seed=1), np.random.default_rng(100).random((2000, dimension))
    mean, sd = GaussianProcess(kernel="rbf", trend=2).fit(X, function(X)).predict(new, noise=True)
    truth = function(new)
    error = np.sqrt(np.mean((mean - truth) ** 2)) / truth.std()
    assert error <= 1.15 * limit
    assert 0.9 <= np.mean(np.abs(mean - truth) <= 1.96 * sd) <= 0.995


def test_a_fit_of_two_hundred_rows_evaluates_the_likelihood_at_most_200_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate = GaussianProcess._negative_log_posterior
    counts = []

    def counted(process: GaussianProcess, *arguments: Any) -> tuple[float, Floats]:
        counts[-1] += 1
        return evaluate(process, *arguments)

    monkeypatch.setattr(GaussianProcess, "_negative_log_posterior", counted)
    X = _rows(200, 8)
    for seed in range(3):
        counts.append(0)
        GaussianProcess(seed=seed).fit(X, borehole(X))
    # Each is a factorisation of the kernel's matrix; benchmarks/surrogates.py times them.
    assert max(counts) <= 200


def test_noise_is_learnt_and_told_apart_from_the_response() -> None:
    X = _rows(150, 2)
    y = _smooth(X) + np.random.default_rng(0).normal(0, 0.1, 150)
    process = GaussianProcess().fit(X, y)
    _, bare = process.predict(X)
    _, noisy = process.predict(X, noise=True)
    assert process.noise_sd == pytest.approx(0.1, rel=0.25)
    np.testing.assert_allclose(noisy**2 - bare**2, process.noise_sd**2, rtol=1e-6)


def test_leaving_folds_out_in_closed_form_is_fitting_without_them() -> None:
    X = _rows(40, 2)
    y = _smooth(X)
    folds = make_folds(40, 5, seed=0)
    process = GaussianProcess(trend=1).fit(X, y)
    mean, sd = process.leave_out(folds)
    for fold in folds:
        kept = np.setdiff1d(np.arange(40), fold)
        arrays = process.to_arrays()
        arrays |= {"rows": X[kept], "responses": np.asarray(arrays["responses"])[kept]}
        without = GaussianProcess.from_arrays(arrays)
        expected_mean, expected_sd = without.predict(X[fold], noise=True)
        np.testing.assert_allclose(mean[fold], expected_mean, rtol=1e-5, atol=1e-7)
        # The closed form keeps the process variance of all rows.
        assert without._factors is not None
        assert process._factors is not None
        ratio = np.sqrt(process._factors.variance / without._factors.variance)
        np.testing.assert_allclose(sd[fold], expected_sd * ratio, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("trend", TRENDS)
def test_a_handful_of_rows_gives_finite_predictions(n: int, trend: Trend) -> None:
    X = _rows(n, 4)
    process = GaussianProcess(trend=trend).fit(X, X[:, 0] + 5)
    mean, sd = process.predict(_rows(10, 4, seed=3))
    assert np.isfinite(mean).all()
    assert (sd > 0).all()
    assert all(np.isfinite(each).all() for each in process.gradient(np.full(4, 0.3)))
    assert all(np.isfinite(each).all() for each in process.leave_out(make_folds(n, 2, 0)))


def test_a_constant_response_is_predicted_as_it_is() -> None:
    X = _rows(20, 3)
    mean, sd = GaussianProcess(trend=2).fit(X, np.full(20, -4.5)).predict(_rows(5, 3, seed=2))
    np.testing.assert_allclose(mean, -4.5)
    assert (sd > 0).all()
    assert sd.max() < 1e-4


def test_repeated_rows_and_collinear_features_are_survived() -> None:
    X = np.repeat(_rows(15, 2), 3, axis=0)
    one_hot = np.column_stack([X, X[:, 0] > 0.5, X[:, 0] <= 0.5]).astype(float)
    process = GaussianProcess(kernel="rbf", trend=2, noise=0.0).fit(one_hot, _smooth(X))
    mean, _ = process.predict(one_hot)
    np.testing.assert_allclose(mean, _smooth(X), atol=1e-3)


def test_jitter_is_added_only_where_it_is_needed() -> None:
    assert cholesky_with_jitter(np.eye(3))[1] == 0.0
    singular = np.ones((3, 3))
    lower, jitter = cholesky_with_jitter(singular)
    assert 0 < jitter <= 1e-8
    np.testing.assert_allclose(lower @ lower.T, singular, atol=1e-7)


def test_the_same_seed_gives_the_same_bits() -> None:
    X = _rows(60, 3)
    first, second = (GaussianProcess(seed=3).fit(X, _smooth(X)).to_arrays() for _ in range(2))
    assert all(
        np.array_equal(first[name], second[name], equal_nan=name == "noise") for name in first
    )


def test_arrays_carry_the_whole_process() -> None:
    X, new = _rows(40, 3), _rows(30, 3, seed=5)
    process = GaussianProcess(kernel="rbf", trend=1).fit(X, _smooth(X))
    process.calibration = 1.7
    again = GaussianProcess.from_arrays(process.to_arrays())
    for before, after in zip(process.predict(new), again.predict(new), strict=True):
        np.testing.assert_array_equal(before, after)


def test_more_rows_than_it_keeps_are_thinned() -> None:
    X = np.random.default_rng(0).random((1700, 2))
    process = GaussianProcess(starts=1, max_iterations=15).fit(X, _smooth(X))
    assert process.X.shape == (1500, 2)
    mean, _ = process.predict(X)
    assert np.abs(mean - _smooth(X)).max() < 0.01


@pytest.mark.parametrize(
    ("X", "y", "told"),
    [
        ([[0.1], [np.nan]], [1.0, 2.0], "finite"),
        ([[0.1], [0.2]], [1.0, np.inf], "finite"),
        ([[0.1], [0.2]], [1.0], "2 rows but 1 responses"),
        (np.empty((0, 2)), [], "no row"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(X: Floats, y: Floats, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GaussianProcess().fit(X, y)


def test_rows_of_another_width_are_refused() -> None:
    X = _rows(10, 3)
    with pytest.raises(ValueError, match="has 3 features, these rows have 2"):
        GaussianProcess().fit(X, _smooth(X)).predict(X[:, :2])
