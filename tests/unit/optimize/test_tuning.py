import inspect

import numpy as np
import pytest

from vistaflow_services.optimize.tuning import SPACES, TuningTrial, best_tuning, tune_family
from vistaflow_services.surrogates.choice import FAMILIES, check_hyper_parameters


def _table(count: int = 60) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    X = rng.random((count, 3))
    y = np.sin(6 * X[:, 0]) + X[:, 1] ** 2 + 0.05 * rng.normal(size=count)
    return X, {"y": (y - y.mean()) / y.std()}


def _tuned(family: str, trial_count: int = 12, seed: int = 0) -> list[TuningTrial]:
    X, targets = _table()
    return tune_family(family, X, targets, trial_count=trial_count, folds=3, seed=seed)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_defaults_of_a_tuned_family_are_those_of_its_constructor(family: str) -> None:
    known = inspect.signature(FAMILIES[family]).parameters
    assert set(SPACES[family].settings) <= set(known)
    if SPACES[family].default:
        assert SPACES[family].default == {
            name: known[name].default for name in SPACES[family].settings
        }


@pytest.mark.parametrize("family", ["gp", "polynomial_ridge", "extra_trees"])
def test_the_default_is_the_first_trial_and_the_best_is_at_least_as_good(family: str) -> None:
    trials = _tuned(family, trial_count=3)
    assert trials[0].settings == SPACES[family].default
    assert [each.number for each in trials] == list(range(3))
    best = best_tuning(trials)
    assert best is not None
    assert best.score <= trials[0].score
    assert check_hyper_parameters({family: best.settings}) == {family: best.settings}


def test_the_same_seed_tries_the_same_settings_with_the_same_scores() -> None:
    assert _tuned("polynomial_ridge") == _tuned("polynomial_ridge")


def test_hopeless_settings_are_given_up_before_their_last_fold() -> None:
    trials = _tuned("polynomial_ridge", trial_count=40)
    pruned = [each for each in trials if each.pruned]
    assert pruned
    best = best_tuning(trials)
    assert best is not None
    assert best.score < min(each.score for each in pruned)


def test_each_trial_is_told_as_it_ends() -> None:
    told: list[TuningTrial] = []
    X, targets = _table()
    trials = tune_family(
        "polynomial_ridge", X, targets, trial_count=4, folds=2, seed=1, on_trial=told.append
    )
    assert told == trials
