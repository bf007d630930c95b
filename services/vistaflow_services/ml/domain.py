"""What training and testing a model are: plans that are valid once made, and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import ConflictError, InvalidError, Violations
from vistaflow_services.surrogates.choice import (
    FAMILIES,
    FoldDone,
    check_hyper_parameters,
    choose_family,
)
from vistaflow_services.surrogates.dataset import Dataset, held_parameters
from vistaflow_services.surrogates.limits import MAX_FOLDS, MIN_FOLDS
from vistaflow_services.surrogates.metrics import HeldOut, held_out_figures
from vistaflow_services.surrogates.model import Model, ResponseModel
from vistaflow_services.surrogates.scaling import Scaler
from vistaflow_services.surrogates.surrogate import Floats
from vistaflow_services.surrogates.transforms import Prediction

DEFAULT_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How surrogates are trained.

    Raises:
        InvalidError: From the constructor, with every mistake under the name of its field.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    """The families to choose among, by name."""
    folds: int = DEFAULT_FOLDS
    """Folds of the cross-validation, 2 to 20."""
    seed: int = 0
    """Makes training repeatable to the bit."""
    hyper_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by family name, instead of the defaults."""

    def __post_init__(self) -> None:
        violations = Violations()
        if not MIN_FOLDS <= self.folds <= MAX_FOLDS:
            violations.add("folds", f"{self.folds} is not from {MIN_FOLDS} to {MAX_FOLDS}")
        if not self.families:
            violations.add("families", f"name at least one of {', '.join(FAMILIES)}")
        named: set[str] = set()
        for index, family in enumerate(self.families):
            if family not in FAMILIES:
                violations.add(
                    f"families[{index}]", f"no such family; there are {', '.join(FAMILIES)}"
                )
            elif family in named:
                violations.add(f"families[{index}]", f"`{family}` is named twice")
            named.add(family)
        try:
            object.__setattr__(
                self, "hyper_parameters", check_hyper_parameters(self.hyper_parameters)
            )
        except InvalidError as error:
            violations.extend("hyperparameters", error)
        violations.check()


@dataclass(frozen=True, kw_only=True)
class FoldReport:
    """One fold of one response is done."""

    response: str
    fold: FoldDone


def train(
    dataset: Dataset,
    scaler: Scaler,
    plan: TrainingPlan,
    *,
    deck_id: str = "",
    on_start: Callable[[str], None] = lambda _: None,
    on_fold: Callable[[FoldReport], None] = lambda _: None,
    on_response: Callable[[ResponseModel], None] = lambda _: None,
    workers: int = 1,
) -> Model:
    """Trains a surrogate of each response on the training rows.

    Responses are independent, so the model is the same to the bit for any number of `workers`.
    The callbacks are called from the workers' threads.

    Raises:
        ConflictError: If the scaler is not the dataset's.
    """
    scaler.check(dataset)
    if scaler.fitted_on != int(dataset.training.sum()):
        raise ConflictError(
            f"the scaler was fitted on {scaler.fitted_on} rows, "
            f"{int(dataset.training.sum())} are for training; run Scale again",
            reason="SCALER_MISMATCH",
        )
    inputs = scaler.inputs(dataset.features)

    def one(name: str) -> ResponseModel:
        on_start(name)
        # A row that lacks one response still teaches the others.
        rows = dataset.training & dataset.present(name)
        surrogate, scores = choose_family(
            inputs[rows],
            scaler.standardise(dataset, name)[rows],
            plan.families,
            plan.folds,
            plan.seed,
            lambda fold: on_fold(FoldReport(response=name, fold=fold)),
            plan.hyper_parameters,
        )
        scale = scaler.responses[name].scale
        trained = ResponseModel(
            name=name,
            surrogate=surrogate,
            unit=dataset.units.get(name, ""),
            scores={
                family: {**score, "rmse": score["rmse"] * scale} for family, score in scores.items()
            },
        )
        on_response(trained)
        return trained

    names = list(dataset.responses)
    with ThreadPoolExecutor(max(1, min(workers, len(names)))) as threads:
        responses = tuple(threads.map(one, names))
    return Model(
        space=dataset.space,
        scaler=scaler,
        responses=responses,
        deck_id=deck_id,
        held=held_parameters(dataset),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ResponseTest:
    """One response on the rows held out."""

    name: str
    unit: str
    row_ids: NDArray[np.int64]
    """The rows that have the response (n,)."""
    truth: Floats
    """What the simulator said (n,)."""
    predicted: Prediction
    figures: HeldOut


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelTest:
    """A model on the rows held out."""

    row_ids: NDArray[np.int64]
    """All of them."""
    responses: tuple[ResponseTest, ...]
    """Those that any of the rows has."""


def measure(model: Model, dataset: Dataset, *, seed: int = 0) -> ModelTest:
    """Measures a model on the rows that its dataset holds out.

    Raises:
        ConflictError: If the model was trained on another dataset.
        InvalidError: If no row is held out.
    """
    model.scaler.check(dataset)
    held_out = dataset.take(~dataset.training)
    if not len(held_out):
        raise InvalidError(
            "no row is held out, so nothing tells how good the model is; run Preprocess with a "
            "test_fraction above 0, such as 0.2"
        )
    predicted = model.predict_features(held_out.features)
    tests = []
    for response in model.responses:
        rows = held_out.present(response.name)
        if not rows.any():
            continue
        truth = held_out.responses[response.name][rows]
        prediction = Prediction(
            **{part: values[rows] for part, values in vars(predicted[response.name]).items()}
        )
        tests.append(
            ResponseTest(
                name=response.name,
                unit=response.unit,
                row_ids=held_out.row_ids[rows],
                truth=truth,
                predicted=prediction,
                figures=held_out_figures(
                    truth, prediction, model.transform(response.name), seed=seed
                ),
            )
        )
    return ModelTest(row_ids=held_out.row_ids, responses=tuple(tests))


def verdict(tests: Sequence[ResponseTest]) -> list[str]:
    """Plain sentences about responses that a user should not trust yet; empty if all are good."""
    sentences = []
    for test in tests:
        r2, coverage = test.figures.r2, test.figures.coverage95
        if r2.value < 0.5:
            sentences.append(
                f"{test.name}: the model explains {max(r2.value, 0):.0%} of the variance; add "
                "points to the design or leave the response out"
            )
        if coverage.high < 0.85:
            sentences.append(
                f"{test.name}: 95 % intervals hold {coverage.value:.0%} of the test rows; its "
                "deviations are too small"
            )
    return sentences
