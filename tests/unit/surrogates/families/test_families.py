"""Polynomials, trees, and the choice among all families."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import qmc

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.surrogates.choice import (
    FAMILIES,
    FoldDone,
    check_hyper_parameters,
    choose_family,
    family_of,
)
from vistaflow_services.surrogates.families.forest import Forest, from_scikit_trees, from_xgboost
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess
from vistaflow_services.surrogates.families.polynomial import PolynomialRidge
from vistaflow_services.surrogates.families.trees import ExtraTrees, GradientBoosting
from vistaflow_services.surrogates.surrogate import Surrogate

Floats = NDArray[np.float64]
QUICK = {
    "extra_trees": {"trees": 50},
    "gradient_boosting": {"rounds": 60},
    "gp": {"starts": 1, "trend": 1},
}


def _rows(n: int, d: int, seed: int = 0) -> Floats:
    return np.asarray(qmc.LatinHypercube(d, rng=np.random.default_rng(seed)).random(n))


def _steps(X: Floats) -> Floats:
    """A response of plateaus, where smooth models ring."""
    return np.asarray(5.0 * (X[:, 0] > 0.8) + 3.0 * (X[:, 1] > 0.6))


def _waves(X: Floats) -> Floats:
    """A smooth response."""
    return np.asarray(np.sin(5.0 * X[:, 0]) * X[:, 1])


def _every_family() -> list[Surrogate]:
    return [
        GaussianProcess(),
        PolynomialRidge(),
        ExtraTrees(trees=50),
        GradientBoosting(rounds=60, engine="xgboost"),
        GradientBoosting(rounds=60, engine="scikit-learn"),
    ]


@pytest.mark.parametrize("surrogate", _every_family(), ids=lambda each: type(each).__name__)
def test_arrays_carry_every_family_to_the_bit(surrogate: Surrogate) -> None:
    X, new = _rows(60, 3), _rows(200, 3, seed=1)
    surrogate.fit(X, _steps(X))
    again = type(surrogate).from_arrays(surrogate.to_arrays())
    for before, after in zip(surrogate.predict(new), again.predict(new), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("surrogate", _every_family(), ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("n", [1, 3, 6])
def test_a_handful_of_rows_is_survived_by_every_family(surrogate: Surrogate, n: int) -> None:
    X = _rows(n, 2)
    mean, sd = surrogate.fit(X, np.arange(n, dtype=float)).predict(_rows(20, 2, seed=4))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert (sd > 0).all()


@pytest.mark.parametrize("surrogate", _every_family(), ids=lambda each: type(each).__name__)
def test_95_percent_bands_hold_about_95_percent_of_noisy_rows(surrogate: Surrogate) -> None:
    rng = np.random.default_rng(0)
    X, new = _rows(250, 3), rng.random((1500, 3))
    y = X @ [3.0, -1.0, 0.5] + rng.normal(0, 0.3, 250)
    truth = new @ [3.0, -1.0, 0.5] + rng.normal(0, 0.3, 1500)
    mean, sd = surrogate.fit(X, y).predict(new, noise=True)
    assert 0.9 <= np.mean(np.abs(mean - truth) <= 1.96 * sd) <= 0.985


def test_a_quadratic_is_recovered_by_the_polynomial() -> None:
    X, new = _rows(40, 3), _rows(100, 3, seed=1)

    def truth(x: Floats) -> Floats:
        return np.asarray(2 + x[:, 0] - 3 * x[:, 1] * x[:, 2] + x[:, 2] ** 2)

    mean, sd = PolynomialRidge().fit(X, truth(X)).predict(new)
    np.testing.assert_allclose(mean, truth(new), atol=1e-4)
    assert sd.max() < 1e-3


def test_a_straight_line_is_not_bent_by_too_many_columns() -> None:
    rng = np.random.default_rng(1)
    X = _rows(12, 5)
    model = PolynomialRidge().fit(X, 4 * X[:, 0] + rng.normal(0, 0.2, 12))
    new = _rows(300, 5, seed=2)
    mean, _ = model.predict(new)
    assert np.sqrt(np.mean((mean - 4 * new[:, 0]) ** 2)) < 0.5


def test_trees_out_of_scikit_learn_answer_as_there() -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    X, new = _rows(80, 4), _rows(300, 4, seed=1).astype(np.float32)
    model = ExtraTreesRegressor(20, random_state=0, n_jobs=1).fit(X, _steps(X))
    ours = from_scikit_trees(model.estimators_).leaves(new.astype(float)).mean(1)
    np.testing.assert_allclose(ours, model.predict(new), rtol=1e-12)


def test_trees_out_of_xgboost_answer_as_there_also_on_thresholds() -> None:
    import xgboost

    X = np.asarray(np.round(_rows(80, 4), 1), np.float32)
    rows = xgboost.DMatrix(X, label=_steps(X), nthread=1)
    booster = xgboost.train({"base_score": 0.0, "nthread": 1, "verbosity": 0}, rows, 30)
    ours = from_xgboost(booster).leaves(X.astype(float)).sum(1)
    np.testing.assert_allclose(ours, booster.predict(rows), atol=2e-5)


def test_trees_that_walk_in_circles_are_refused() -> None:
    arrays = ExtraTrees(trees=10).fit(_rows(30, 2), _rows(30, 2)[:, 0]).to_arrays()
    arrays["group0_left"] = np.zeros_like(arrays["group0_left"])
    with pytest.raises(ValueError, match="lead nowhere"):
        Forest.from_arrays(arrays, "group0_")


def test_two_features_do_not_starve_the_booster() -> None:
    X, new = _rows(200, 2), _rows(500, 2, seed=1)
    mean, _ = GradientBoosting().fit(X, _steps(X)).predict(new)
    assert np.sqrt(np.mean((mean - _steps(new)) ** 2)) / _steps(new).std() < 0.4


@pytest.mark.parametrize("engine", ["xgboost", "scikit-learn"])
def test_few_levels_at_few_rows_are_split_by_the_booster(engine: str) -> None:
    X = np.array([[a, b] for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)])
    y = 10 * X[:, 0] + X[:, 1]
    mean, _ = GradientBoosting(engine=engine).fit(X, y).predict(X)
    assert np.sqrt(np.mean((mean - y) ** 2)) < 0.35 * y.std()


def test_a_smooth_response_chooses_the_process_and_a_stepped_one_the_trees() -> None:
    X = _rows(100, 4)
    smooth, scores = choose_family(X, np.sin(4 * X[:, 0]) * X[:, 1], hyper_parameters=QUICK)
    assert family_of(smooth) == "gp"
    assert set(scores) == set(FAMILIES)
    assert scores["gp"]["rmse"] == min(each["rmse"] for each in scores.values())
    stepped, _ = choose_family(X, _steps(X), hyper_parameters=QUICK)
    assert family_of(stepped) in ("extra_trees", "gradient_boosting")


def test_the_choice_is_the_same_to_the_bit_for_the_same_seed() -> None:
    X = _rows(50, 2)
    first, second = (choose_family(X, _steps(X), hyper_parameters=QUICK, seed=4) for _ in range(2))
    assert first[1] == second[1]
    for before, after in zip(first[0].predict(X), second[0].predict(X), strict=True):
        np.testing.assert_array_equal(before, after)


def test_every_fold_is_reported_with_the_error_of_every_family() -> None:
    X = _rows(30, 2)
    seen: list[FoldDone] = []
    choose_family(X, X[:, 0], families=["gp", "polynomial_ridge"], folds=3, on_progress=seen.append)
    assert [(each.number, each.total) for each in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(set(each.rmse) == {"gp", "polynomial_ridge"} for each in seen)


def test_a_process_too_sure_of_itself_is_widened() -> None:
    X, new = _rows(200, 3), np.random.default_rng(9).random((2000, 3))

    def ishigami(unit: Floats) -> Floats:
        a, b, c = (np.pi * (2 * unit - 1)).T
        return np.asarray(np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a))

    settings = {"gp": {"kernel": "rbf", "trend": 1, "starts": 2}}
    chosen, _ = choose_family(X, ishigami(X), families=["gp"], hyper_parameters=settings)
    assert isinstance(chosen, GaussianProcess)
    assert chosen.calibration > 1.1
    mean, sd = chosen.predict(new, noise=True)
    wide = np.mean(np.abs(mean - ishigami(new)) <= 1.96 * sd)
    narrow = np.mean(np.abs(mean - ishigami(new)) <= 1.96 * sd / chosen.calibration)
    assert narrow < 0.9 <= wide


@pytest.mark.parametrize(
    ("response", "best"),
    [(_steps, "gradient_boosting"), (_waves, "gp")],
    ids=["rough", "smooth"],
)
def test_of_thousands_of_rows_a_process_learns_from_some_and_competes(
    response: Callable[[Floats], Floats], best: str
) -> None:
    X = np.random.default_rng(0).random((1600, 2))
    settings = {**QUICK, "gp": {"kernel": "rbf", "starts": 1, "max_iterations": 10}}
    chosen, scores = choose_family(
        X, response(X), families=["gp", "gradient_boosting"], folds=2, hyper_parameters=settings
    )
    assert family_of(chosen) == best
    assert set(scores) == {"gp", "gradient_boosting"}
    if isinstance(chosen, GaussianProcess):
        assert len(chosen.X) == 1500


@pytest.mark.parametrize("seed", range(3))
def test_trends_that_the_rows_cannot_tell_apart_give_the_simplest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.random((60, 6))
    # No trend at all: smooth in two of the parameters, beside noise.
    target = np.sin(6 * X[:, 0]) * np.cos(5 * X[:, 1]) + rng.normal(0, 0.3, 60)
    chosen, _ = choose_family(X, target, families=["gp"], folds=5, seed=seed)
    assert isinstance(chosen, GaussianProcess)
    assert chosen.trend == 0


def test_a_trend_that_the_rows_show_is_taken() -> None:
    X = np.random.default_rng(1).random((60, 4))
    target = (4 * (X - 0.5) ** 2).sum(1) + np.random.default_rng(2).normal(0, 0.01, 60)
    chosen, _ = choose_family(X, target, families=["gp"], folds=5)
    assert isinstance(chosen, GaussianProcess)
    assert chosen.trend == 2


def test_a_trend_that_halves_the_error_of_few_rows_is_taken() -> None:
    rng = np.random.default_rng(106)
    X = (np.argsort(rng.random((2, 20)), axis=1).T + rng.random((20, 2))) / 20
    # Branin: one standard error of so few rows is more than what the squares gain.
    x, y = 15 * X[:, 0] - 5, 15 * X[:, 1]
    target = (y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6) ** 2
    target += 10 * (1 - 1 / (8 * np.pi)) * np.cos(x)
    chosen, _ = choose_family(X, target, families=["gp"], folds=5, seed=6)
    assert isinstance(chosen, GaussianProcess)
    assert chosen.trend == 2


def test_hyper_parameters_are_checked_all_at_once() -> None:
    with pytest.raises(InvalidError) as raised:
        check_hyper_parameters(
            {
                "gp": {"kernel": "cubic"},
                "extra_trees": {"leaves": 3.0},
                "forest": {},
            }
        )
    fields = [each.field for each in raised.value.violations]
    assert fields == ["extra_trees.leaves", "forest", "gp"]


def test_whole_numbers_that_came_as_floats_are_made_whole() -> None:
    given = {"gradient_boosting": {"rounds": 50.0, "learning_rate": 1.0}, "gp": {"trend": 1.0}}
    checked = check_hyper_parameters(given)
    assert isinstance(checked["gradient_boosting"]["rounds"], int)
    assert isinstance(checked["gradient_boosting"]["learning_rate"], float)
    assert checked["gp"] == {"trend": 1}
