"""The families of models by name, and their choice by cross-validation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vistaflow_services.core.errors import Violations
from vistaflow_services.surrogates.gaussian_process import MAX_ROWS, GaussianProcess, Trend
from vistaflow_services.surrogates.kernels import KernelName
from vistaflow_services.surrogates.polynomial import PolynomialRidge
from vistaflow_services.surrogates.surrogate import (
    Floats,
    Integers,
    Surrogate,
    as_training,
    complement,
    make_folds,
    score,
)
from vistaflow_services.surrogates.trees import ExtraTrees, GradientBoosting, GroupedTrees

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
    found = Violations()
    checked: dict[str, dict[str, Any]] = {}
    for family, values in sorted(settings.items()):
        if family not in FAMILIES:
            found.add(family, f"no such family; there are {', '.join(FAMILIES)}")
            continue
        known = {
            name: each
            for name, each in inspect.signature(FAMILIES[family]).parameters.items()
            if name != "seed"
        }
        checked[family] = {}
        for name, value in sorted(values.items()):
            if name not in known:
                found.add(f"{family}.{name}", f"no such setting; there are {', '.join(known)}")
            elif (
                isinstance(value, float)
                and value.is_integer()
                and "float" not in str(known[name].annotation)
            ):
                checked[family][name] = int(value)
            else:
                checked[family][name] = value
        try:
            make_surrogate(family, checked[family], 0)
        except (TypeError, ValueError) as error:
            found.add(family, str(error))
    found.check()
    return checked


def make_surrogate(family: str, settings: Settings, seed: int) -> Surrogate:
    """An unfitted surrogate of the family."""
    kind = FAMILIES[family]
    seeded = {"seed": seed} if "seed" in inspect.signature(kind).parameters else {}
    made: Surrogate = kind(**{**settings, **seeded})
    return made


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
    fitted: dict[str, Surrogate] = {}
    for family in candidates:
        given = settings.get(family, {})
        fitted[family] = (
            _best_process(rows, target, parts, given, seed)
            if family == "gp"
            else make_surrogate(family, given, seed)
        )
    means = {family: np.full(len(rows), target.mean()) for family in candidates}
    deviations = {family: np.full(len(rows), target.std() or 1.0) for family in candidates}
    for number, fold in enumerate(parts, start=1):
        kept = complement(len(rows), fold)
        errors = {}
        for family, whole in fitted.items():
            if isinstance(whole, GroupedTrees):
                if number == 1:
                    whole.fit(rows, target, folds=parts)
                mean, sd = (each[fold] for each in whole.out_of_fold)
            else:
                again = _again(whole, settings, seed)
                start = (
                    {"start": whole.hyper_parameters} if isinstance(whole, GaussianProcess) else {}
                )
                again.fit(rows[kept], target[kept], **start)
                mean, sd = again.predict(rows[fold], noise=True)
            means[family][fold], deviations[family][fold] = mean, sd
            errors[family] = float(np.sqrt(np.mean((mean - target[fold]) ** 2)))
        if on_progress:
            on_progress(FoldDone(number=number, total=len(parts), rmse=errors))
    scores = {each: score(target, means[each], deviations[each]) for each in candidates}
    chosen = _smallest(scores)
    winner = fitted[chosen]
    if isinstance(winner, GaussianProcess):
        z = (target - means[chosen]) / deviations[chosen]
        spread = float(np.sqrt(np.mean(z * z))) if len(rows) > 2 else 1.0
        winner.calibration = min(max(1.0, spread), _MAX_CALIBRATION)
    elif not (isinstance(winner, GroupedTrees) and parts):
        winner.fit(rows, target)
    return winner, scores


def _smallest(scores: Mapping[str, Mapping[str, float]]) -> str:
    least = min(each["rmse"] for each in scores.values())
    tied = [name for name, each in scores.items() if each["rmse"] <= _TIE * least]
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
    Learning", 2009, section 7.10: the rule of one standard error).
    """
    if len(X) > MAX_ROWS:
        # The rows that each process would keep by itself, so that folds are folds of these.
        kept = np.sort(np.random.default_rng(seed).permutation(len(X))[:MAX_ROWS])
        X, y = X[kept], y[kept]
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
    """
    more = errors - least
    return bool(more.mean() <= more.std() / np.sqrt(len(more)))
