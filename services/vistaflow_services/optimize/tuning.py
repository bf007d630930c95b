"""Hyper-parameters of one family of models, by cross-validation.

A tree-structured Parzen estimator proposes, a median rule gives up on settings whose first folds
are already worse than most (Akiba et al., "Optuna", KDD 2019). The family's own defaults are
always the first trial: a random search that left them out lost to them in our measurements.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import NDArray

from vistaflow_services.surrogates.choice import make_surrogate
from vistaflow_services.surrogates.surrogate import complement, make_folds

Array = NDArray[np.float64]
Settings = dict[str, float | int | str]

STARTUP_TRIALS = 8
"""Trials drawn at random before the estimator proposes, the default's included."""

PRUNING_FROM = 5
"""Complete trials from which hopeless ones are given up."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of a hyper-parameter."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The range as the estimator takes it."""
        if self.whole:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices of a hyper-parameter."""

    choices: tuple[float | int | str, ...]

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The choices as the estimator takes them."""
        return optuna.distributions.CategoricalDistribution(self.choices)


@dataclass(frozen=True, kw_only=True)
class FamilySpace:
    """What may be tuned of a family."""

    settings: Mapping[str, Range | Options]
    """The hyper-parameters."""

    default: Settings = field(default_factory=dict)
    """The family's defaults where all are values of `settings`; empty where it chooses itself."""


SPACES: Mapping[str, FamilySpace] = {
    "gp": FamilySpace(
        settings={
            "kernel": Options(choices=("matern52", "rbf")),
            "trend": Options(choices=(0, 1, 2)),
            "starts": Range(low=1, high=8, whole=True),
            "max_iterations": Range(low=20, high=200, log=True, whole=True),
        },
        default={"kernel": "matern52", "trend": 0, "starts": 3, "max_iterations": 60},
    ),
    "polynomial_ridge": FamilySpace(
        settings={
            "degree": Options(choices=(1, 2)),
            "penalty": Range(low=1e-8, high=1e4, log=True),
        },
    ),
    "extra_trees": FamilySpace(
        settings={
            "trees": Range(low=50, high=600, log=True, whole=True),
            "min_samples_leaf": Range(low=1, high=12, log=True, whole=True),
            "max_features": Range(low=0.2, high=1.0),
        },
        default={"trees": 300, "min_samples_leaf": 1, "max_features": 1.0},
    ),
    "gradient_boosting": FamilySpace(
        settings={
            "rounds": Range(low=50, high=1000, log=True, whole=True),
            "learning_rate": Range(low=0.01, high=0.3, log=True),
            "max_depth": Range(low=2, high=8, whole=True),
            "subsample": Range(low=0.5, high=1.0),
            "min_samples_leaf": Range(low=1, high=20, log=True, whole=True),
            "penalty": Range(low=0.01, high=10.0, log=True),
        },
        default={
            "rounds": 400,
            "learning_rate": 0.05,
            "max_depth": 4,
            "subsample": 0.8,
            "min_samples_leaf": 2,
            "penalty": 1.0,
        },
    ),
}
"""By family name; the defaults are those of the families' constructors, which a test checks."""


@dataclass(frozen=True, kw_only=True)
class TuningTrial:
    """One setting that was tried."""

    number: int
    """From 0; 0 is the default."""

    settings: Settings
    """The hyper-parameters; empty for a default that the family chooses itself."""

    score: float
    """Mean cross-validated RMSE over the responses, in units of their spread."""

    pruned: bool = False
    """Whether it was given up before the last fold; the score is then of the folds so far."""

    failure: str = ""
    """What went wrong, if the family could not be fitted."""


def tune_family(
    family: str,
    X: Array,
    targets: Mapping[str, Array],
    *,
    trial_count: int,
    folds: int,
    seed: int,
    on_trial: Callable[[TuningTrial], None] = lambda trial: None,
) -> list[TuningTrial]:
    """Tries settings of a family; the same seed gives the same trials.

    Args:
        family: Its name.
        X: Inputs of the training rows (n, p).
        targets: By response, its standardised values (n,).
        trial_count: Trials in all, the default's included.
        folds: Folds of the cross-validation.
        seed: Fixes folds, proposals and what is random in the family.
        on_trial: Told each trial as it ends.
    """
    space = SPACES[family]
    distributions = {name: each.distribution() for name, each in space.settings.items()}
    parts = make_folds(len(X), folds, seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNING_FROM, n_warmup_steps=1),
    )
    done: list[TuningTrial] = []
    known: dict[str, TuningTrial] = {}
    for number in range(trial_count):
        if number == 0 and not space.default:
            made = _cross_validated(family, {}, X, targets, parts, seed, number, _never)
        else:
            if number == 0:
                study.enqueue_trial(dict(space.default))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asked = study.ask(distributions)
            key = json.dumps(asked.params, sort_keys=True)
            if key in known:
                again = known[key]
                made = TuningTrial(
                    number=number,
                    settings=dict(asked.params),
                    score=again.score,
                    pruned=again.pruned,
                    failure=again.failure,
                )
            else:
                made = _cross_validated(
                    family, dict(asked.params), X, targets, parts, seed, number, _hopeless(asked)
                )
                known[key] = made
            if made.failure:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            elif made.pruned:
                study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(asked, made.score)
        done.append(made)
        on_trial(made)
    return done


def best_tuning(trials: Sequence[TuningTrial]) -> TuningTrial | None:
    """The complete trial of smallest score; of equals the earliest, so the default if it ties."""
    complete = [each for each in trials if not (each.pruned or each.failure)]
    return min(complete, key=lambda each: each.score, default=None)


def _never(step: int, score: float) -> bool:
    return False


def _hopeless(trial: optuna.Trial) -> Callable[[int, float], bool]:
    def ask(step: int, score: float) -> bool:
        trial.report(score, step)
        return bool(trial.should_prune())

    return ask


def _cross_validated(
    family: str,
    settings: Settings,
    X: Array,
    targets: Mapping[str, Array],
    parts: Sequence[NDArray[np.int64]],
    seed: int,
    number: int,
    is_hopeless: Callable[[int, float], bool],
) -> TuningTrial:
    """One setting over the folds, given up when the running score is hopeless."""
    squares = dict.fromkeys(targets, 0.0)
    count = 0
    score = math.inf
    for step, fold in enumerate(parts):
        kept = complement(len(X), fold)
        try:
            for name, target in targets.items():
                fitted = make_surrogate(family, settings, seed).fit(X[kept], target[kept])
                mean, _ = fitted.predict(X[fold])
                squares[name] += float(np.sum((mean - target[fold]) ** 2))
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            told = f"{type(error).__name__}: {error}"[:500]
            return TuningTrial(number=number, settings=settings, score=math.inf, failure=told)
        count += len(fold)
        score = float(np.mean([math.sqrt(each / count) for each in squares.values()]))
        if step + 1 < len(parts) and is_hopeless(step, score):
            return TuningTrial(number=number, settings=settings, score=score, pruned=True)
    return TuningTrial(number=number, settings=settings, score=score)
