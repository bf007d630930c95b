"""The families of models by name, and their choice by cross-validation.

    symbol  shape   unit          meaning
    X       (n, d)  1             features of the rows, in the unit cube
    y       (n,)    response's    responses
    F_k                           rows of fold k of K; each row is in one fold
    m       (n,)    response's    mean of each row, by the fit without the row's fold
    s       (n,)    response's    standard deviation of the same prediction
    z       (n,)    1             (y - m) / s
    rmse            response's    sqrt(mean((y - m)^2))
    nlpd            1             mean(z^2 / 2 + log s + log(2 pi) / 2), the negative log density
    c               1             sqrt(mean(z^2)) >= 1, what a process's deviations are widened by

Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009, sections 7.10
(cross-validation) and 7.10.1 (ties between models).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vistaflow_services.core.errors import Violations
from vistaflow_services.surrogates.families.gaussian_process import MAX_ROWS, GaussianProcess, Trend
from vistaflow_services.surrogates.families.kernels import KernelName
from vistaflow_services.surrogates.families.polynomial import PolynomialRidge
from vistaflow_services.surrogates.families.trees import ExtraTrees, GradientBoosting, GroupedTrees
from vistaflow_services.surrogates.surrogate import (
    Floats,
    Integers,
    Surrogate,
    as_training,
    complement,
    make_folds,
    score,
)

FAMILIES: dict[str, type[Any]] = {
    "gp": GaussianProcess,
    "polynomial_ridge": PolynomialRidge,
    "extra_trees": ExtraTrees,
    "gradient_boosting": GradientBoosting,
}
"""Every family by the name that specs and results use."""

Settings = Mapping[str, Any]
Scores = dict[str, dict[str, float]]

_TIE = 1.02
_TREND_TIE = 1.2
"""Largest ratio of the root mean squared errors of two trends that count as equal."""
_MAX_CALIBRATION = 10.0


@dataclass(frozen=True, kw_only=True)
class FoldDone:
    """One fold of the cross-validation of one response, as it is reported."""

    number: int
    """From 1."""
    total: int
    rmse: dict[str, float]
    """By family, on this fold's rows."""


def family_of(surrogate: Surrogate) -> str:
    """The name of a surrogate's family."""
    return next(name for name, kind in FAMILIES.items() if type(surrogate) is kind)


def check_hyper_parameters(settings: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """Hyper-parameters by family name, whole numbers made int.

    Raises:
        InvalidError: With a violation such as `gp.kernel` for each mistake.
    """
    violations = Violations()
    checked: dict[str, dict[str, Any]] = {}
    for family, values in sorted(settings.items()):
        if family not in FAMILIES:
            violations.add(family, f"no such family; there are {', '.join(FAMILIES)}")
            continue
        accepted = {
            name: parameter
            for name, parameter in inspect.signature(FAMILIES[family]).parameters.items()
            if name != "seed"
        }
        checked[family] = {}
        for name, value in sorted(values.items()):
            if name not in accepted:
                violations.add(
                    f"{family}.{name}", f"no such setting; there are {', '.join(accepted)}"
                )
            elif (
                isinstance(value, float)
                and value.is_integer()
                and "float" not in str(accepted[name].annotation)
            ):
                checked[family][name] = int(value)
            else:
                checked[family][name] = value
        try:
            make_surrogate(family, checked[family], 0)
        except (TypeError, ValueError) as error:
            violations.add(family, str(error))
    violations.check()
    return checked


def make_surrogate(family: str, settings: Settings, seed: int) -> Surrogate:
    """An unfitted surrogate of the family."""
    kind = FAMILIES[family]
    seeded = {"seed": seed} if "seed" in inspect.signature(kind).parameters else {}
    surrogate: Surrogate = kind(**{**settings, **seeded})
    return surrogate


def choose_family(
    X: ArrayLike,
    y: ArrayLike,
    families: Sequence[str] = tuple(FAMILIES),
    folds: int = 5,
    seed: int = 0,
    on_progress: Callable[[FoldDone], None] | None = None,
    hyper_parameters: Mapping[str, Settings] | None = None,
) -> tuple[Surrogate, Scores]:
    """Fits the family that predicts left-out rows best, to all rows.

    Every family predicts each fold by a fit without it; tree ensembles are grown so that one fit
    gives all of that (`GroupedTrees`). The smallest root mean squared error wins; among
    those within 2 % of it, the smallest negative log density. A Gaussian process first chooses
    kernel and trend by its closed-form cross-validation, and if left-out rows lie further off than
    its deviations say, these are widened to match (`GaussianProcess.calibration`). With more than
    1,500 rows it learns from that many of them.

    Args:
        X: Features (n, d).
        y: Responses (n,).
        families: Names out of `FAMILIES`.
        folds: Folds, at least 2; at most n are made.
        seed: Makes the choice repeatable.
        on_progress: Called after each fold.
        hyper_parameters: Settings by family name, used instead of the defaults.

    Returns:
        The fitted surrogate, and `rmse`, `r2`, `nlpd` by family name.
    """
    rows, target = as_training(X, y)
    settings = hyper_parameters or {}
    candidates = list(dict.fromkeys(families))
    if not candidates:
        raise ValueError("there is no family to choose from")
    parts = make_folds(len(rows), folds, seed) if len(rows) > 1 else []
    surrogates = {
        family: _candidate(family, rows, target, parts, settings.get(family, {}), seed)
        for family in candidates
    }
    left_out = _LeftOut(rows, target, parts, candidates)
    for number in range(1, len(parts) + 1):
        errors = {
            family: left_out.predict(number, family, surrogate, settings, seed)
            for family, surrogate in surrogates.items()
        }
        if on_progress:
            on_progress(FoldDone(number=number, total=len(parts), rmse=errors))
    scores = {
        family: score(target, left_out.means[family], left_out.deviations[family])
        for family in candidates
    }
    chosen = _smallest(scores)
    winner = surrogates[chosen]
    if isinstance(winner, GaussianProcess):
        # It was fitted to all rows when its kernel and trend were chosen.
        winner.calibration = left_out.calibration(chosen)
    elif not (isinstance(winner, GroupedTrees) and parts):
        # Grouped trees were grown on all rows with the folds.
        winner.fit(rows, target)
    return winner, scores


def _candidate(
    family: str,
    rows: Floats,
    target: Floats,
    parts: list[Integers],
    settings: Settings,
    seed: int,
) -> Surrogate:
    """The surrogate that stands for a family: unfitted, but for a Gaussian process."""
    if family == "gp":
        return _best_process(rows, target, parts, settings, seed)
    return make_surrogate(family, settings, seed)


class _LeftOut:
    """Predictions of each row by fits without its fold, by family.

    Rows that are in no fold (there is but one row) keep the mean and deviation of the responses.
    """

    def __init__(
        self, rows: Floats, target: Floats, parts: list[Integers], families: Sequence[str]
    ) -> None:
        self._rows, self._target, self._parts = rows, target, parts
        self.means = {family: np.full(len(rows), target.mean()) for family in families}
        self.deviations = {family: np.full(len(rows), target.std() or 1.0) for family in families}

    def predict(
        self,
        number: int,
        family: str,
        surrogate: Surrogate,
        settings: Mapping[str, Settings],
        seed: int,
    ) -> float:
        """Predicts the fold of this number, from 1; returns the root mean squared error on it."""
        fold = self._parts[number - 1]
        mean: Floats
        sd: Floats
        if isinstance(surrogate, GroupedTrees):
            if number == 1:
                # One fit grows a group of trees without each fold: it serves all folds.
                surrogate.fit(self._rows, self._target, folds=self._parts)
            mean, sd = (figures[fold] for figures in surrogate.out_of_fold)
        else:
            training = complement(len(self._rows), fold)
            unfitted = _again(surrogate, settings, seed)
            start = (
                {"start": surrogate.hyper_parameters}
                if isinstance(surrogate, GaussianProcess)
                else {}
            )
            unfitted.fit(self._rows[training], self._target[training], **start)
            mean, sd = unfitted.predict(self._rows[fold], noise=True)
        self.means[family][fold], self.deviations[family][fold] = mean, sd
        return float(np.sqrt(np.mean((mean - self._target[fold]) ** 2)))

    def calibration(self, family: str) -> float:
        """The factor c that makes the standardised residuals z of left-out rows at most 1 wide.

        c = sqrt(mean(z^2)), from 1 to `_MAX_CALIBRATION`; 1 for fewer than three rows.
        """
        z = (self._target - self.means[family]) / self.deviations[family]
        spread = float(np.sqrt(np.mean(z * z))) if len(self._rows) > 2 else 1.0
        return min(max(1.0, spread), _MAX_CALIBRATION)


def _smallest(scores: Mapping[str, Mapping[str, float]]) -> str:
    least = min(figures["rmse"] for figures in scores.values())
    tied = [name for name, figures in scores.items() if figures["rmse"] <= _TIE * least]
    return min(tied, key=lambda name: scores[name]["nlpd"])


def _again(whole: Any, settings: Mapping[str, Settings], seed: int) -> Any:
    """An unfitted surrogate like the one fitted to all rows."""
    if isinstance(whole, GaussianProcess):
        return GaussianProcess(
            kernel=whole.kernel,
            trend=whole.trend,
            noise=whole.noise,
            starts=1,
            seed=seed,
            max_iterations=whole.max_iterations,
        )
    family = family_of(whole)
    return make_surrogate(family, settings.get(family, {}), seed)


def _best_process(
    X: Floats, y: Floats, folds: list[Integers], settings: Settings, seed: int
) -> GaussianProcess:
    """A Gaussian process with the kernel and trend that predict left-out rows best.

    Each trend stands for the better of its kernels. Of the trends that the rows cannot tell from
    the best, the simplest is taken: a richer one gains nothing where there are rows, and runs away
    between and beyond them (Hastie, Tibshirani and Friedman, "The Elements of Statistical
    Learning", 2009, section 7.10: the rule of one standard error). Of few rows that error is large,
    so a tie also needs errors of like size.
    """
    if len(X) > MAX_ROWS:
        # The rows that each process would keep by itself, so that folds are folds of these.
        chosen = np.sort(np.random.default_rng(seed).permutation(len(X))[:MAX_ROWS])
        X, y = X[chosen], y[chosen]
        folds = make_folds(len(X), len(folds), seed)
    kernels: list[KernelName] = (
        [settings["kernel"]] if "kernel" in settings else ["rbf", "matern52"]
    )
    trends: list[Trend] = [settings["trend"]] if "trend" in settings else [0, 1, 2]
    rest = {name: value for name, value in settings.items() if name not in ("kernel", "trend")}
    processes: dict[str, GaussianProcess] = {}
    scores: Scores = {}
    errors: dict[str, Floats] = {}
    starts: dict[str, Floats | None] = dict.fromkeys(kernels)
    best_of_trend = []
    for trend in trends:
        for kernel in kernels:
            name = f"{kernel} {trend}"
            process = GaussianProcess(kernel=kernel, trend=trend, seed=seed, **rest)
            process.fit(X, y, start=starts[kernel])
            starts[kernel] = process.hyper_parameters
            processes[name] = process
            mean, sd = process.leave_out(folds)
            scores[name] = score(y, mean, sd)
            errors[name] = (mean - y) ** 2
        best_of_trend.append(
            _smallest({f"{kernel} {trend}": scores[f"{kernel} {trend}"] for kernel in kernels})
        )
    best = min(best_of_trend, key=lambda name: scores[name]["rmse"])
    simplest = next(name for name in best_of_trend if _is_tied(errors[name], errors[best]))
    return processes[simplest]


def _is_tied(errors: Floats, least: Floats) -> bool:
    """Whether squared errors (n,) are no larger than the least ones, by one standard error.

    Errors of one row by two models rise and fall together, so it is their differences that count.
    Whatever the standard error, a root mean square beyond `_TREND_TIE` times the least is no tie.
    """
    more = errors - least
    alike = errors.mean() <= _TREND_TIE**2 * least.mean()
    return bool(alike and more.mean() <= more.std() / np.sqrt(len(more)))
