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
from dataclasses import dataclass, field, replace

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
        on_trial: Called with each trial as it ends.
    """
    space = SPACES[family]
    validation = _CrossValidation(
        family=family, X=X, targets=targets, folds=make_folds(len(X), folds, seed), seed=seed
    )
    proposals = _Proposals(space, seed)
    trials: list[TuningTrial] = []
    for number in range(trial_count):
        if number == 0 and not space.default:
            # The family chooses its own default from the rows: the sampler has no place for it.
            trial = validation.run(number, {}, _never)
        else:
            trial = proposals.run_next(number, validation)
        trials.append(trial)
        on_trial(trial)
    return trials


def best_tuning(trials: Sequence[TuningTrial]) -> TuningTrial | None:
    """The complete trial of smallest score; of equals the earliest, so the default if it ties."""
    complete = [trial for trial in trials if not (trial.pruned or trial.failure)]
    return min(complete, key=lambda trial: trial.score, default=None)


def _never(step: int, score: float) -> bool:
    return False


def _hopeless(trial: optuna.Trial) -> Callable[[int, float], bool]:
    def ask(step: int, score: float) -> bool:
        trial.report(score, step)
        return bool(trial.should_prune())

    return ask


@dataclass(frozen=True, kw_only=True)
class _CrossValidation:
    """The rows, responses and folds on which every setting of a family is scored."""

    family: str
    X: Array
    """Inputs (n, p)."""

    targets: Mapping[str, Array]
    """By response, its standardised values (n,)."""

    folds: Sequence[NDArray[np.int64]]
    """Rows of each fold; every row is in one of them."""

    seed: int

    def run(
        self, number: int, settings: Settings, is_hopeless: Callable[[int, float], bool]
    ) -> TuningTrial:
        """One setting over the folds, given up when the running score is hopeless.

        The score after a fold is mean_r sqrt(S_r / m): S_r is the sum of squared errors of
        response r over the m rows predicted so far, so that pruning compares settings on the same
        rows.
        """
        squares = dict.fromkeys(self.targets, 0.0)
        count = 0
        score = math.inf
        for step, fold in enumerate(self.folds):
            training = complement(len(self.X), fold)
            try:
                for name, target in self.targets.items():
                    surrogate = make_surrogate(self.family, settings, self.seed)
                    fitted = surrogate.fit(self.X[training], target[training])
                    mean, _ = fitted.predict(self.X[fold])
                    squares[name] += float(np.sum((mean - target[fold]) ** 2))
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                failure = f"{type(error).__name__}: {error}"[:500]
                return TuningTrial(
                    number=number, settings=settings, score=math.inf, failure=failure
                )
            count += len(fold)
            score = float(np.mean([math.sqrt(square / count) for square in squares.values()]))
            if step + 1 < len(self.folds) and is_hopeless(step, score):
                return TuningTrial(number=number, settings=settings, score=score, pruned=True)
        return TuningTrial(number=number, settings=settings, score=score)


class _Proposals:
    """Settings that the sampler proposes; one that it repeats is not fitted again."""

    def __init__(self, space: FamilySpace, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNING_FROM, n_warmup_steps=1),
        )
        self._default = dict(space.default)
        self._distributions = {
            name: setting.distribution() for name, setting in space.settings.items()
        }
        self._trials: dict[str, TuningTrial] = {}
        """Trials that were fitted, by their settings as JSON."""

    def run_next(self, number: int, validation: _CrossValidation) -> TuningTrial:
        """Runs the next proposal, the default for number 0, and reports its score."""
        if number == 0:
            self._study.enqueue_trial(self._default)
        with warnings.catch_warnings():
            # A default outside a distribution is tried as it is.
            warnings.simplefilter("ignore")
            proposal = self._study.ask(self._distributions)
        settings = dict(proposal.params)
        key = json.dumps(settings, sort_keys=True)
        if key in self._trials:
            # Fits are a function of settings and seed: this one would have the same score.
            trial = replace(self._trials[key], number=number, settings=settings)
        else:
            trial = validation.run(number, settings, _hopeless(proposal))
            self._trials[key] = trial
        if trial.failure:
            self._study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        elif trial.pruned:
            self._study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(proposal, trial.score)
        return trial
