"""What the messages of a job mean to the domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.expressions import suggest
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.ml.domain import DEFAULT_FOLDS, TrainingPlan
from vistaflow_services.surrogates.choice import FAMILIES
from vistaflow_services.surrogates.preparation import Preparation

FAMILY_NAMES: dict[pb.Family.ValueType, str] = {
    pb.FAMILY_GAUSSIAN_PROCESS: "gp",
    pb.FAMILY_POLYNOMIAL_RIDGE: "polynomial_ridge",
    pb.FAMILY_EXTRA_TREES: "extra_trees",
    pb.FAMILY_GRADIENT_BOOSTING: "gradient_boosting",
}
FAMILY_NUMBERS = {name: number for number, name in FAMILY_NAMES.items()}

MAX_FAMILIES = 100
DEFAULT_TEST_FRACTION = 0.2


def preparation_of(spec: pb.PreprocessSpec) -> Preparation:
    """How rows are made fit.

    Raises:
        InvalidError: With every mistake.
    """
    found = Violations()
    if spec.outliers not in pb.OutlierPolicy.values():
        found.add("outliers", f"{spec.outliers} is no outlier policy; give flag or drop")
    fraction = spec.test_fraction if spec.HasField("test_fraction") else DEFAULT_TEST_FRACTION
    try:
        made = Preparation(
            responses=tuple(spec.responses),
            test_fraction=fraction,
            seed=_seed(spec.seed, found),
            drop_outliers=spec.outliers == pb.OUTLIER_POLICY_DROP,
            log_responses=tuple(spec.log_responses),
        )
    except InvalidError as error:
        found.extend("", error)
    found.check()
    return made


def check_responses(spec: pb.PreprocessSpec, design: Mapping[str, Any]) -> None:
    """Raises `InvalidError` for each response that the design of this manifest does not have."""
    known = [each["name"] for each in design["responses"]]
    found = Violations()
    for field in ("responses", "log_responses"):
        names = getattr(spec, field)
        if field == "log_responses" and tuple(names) == (NO_RESPONSE,):
            continue
        for at, name in enumerate(names):
            if name not in known:
                found.add(f"{field}[{at}]", f"the design has no `{name}`{suggest(name, known)}")
    found.check()


def plan_of(spec: pb.TrainSpec) -> TrainingPlan:
    """How surrogates are trained.

    Raises:
        InvalidError: With every mistake.
    """
    found = Violations()
    named = spec.families[:MAX_FAMILIES]
    if len(spec.families) > len(named):
        found.add("families", f"{len(spec.families)} are named; there are {', '.join(FAMILIES)}")
    for at, each in enumerate(named):
        if each not in FAMILY_NAMES:
            found.add(f"families[{at}]", f"{each} is no family; there are {', '.join(FAMILIES)}")
    try:
        hyper_parameters = json_format.MessageToDict(spec.hyperparameters)
    except ValueError:
        found.add("hyperparameters", "holds NaN or an infinity; give numbers")
        hyper_parameters = {}
    for name, each in sorted(hyper_parameters.items()):
        if not isinstance(each, dict):
            found.add(f"hyperparameters.{name}", "give a mapping of settings")
            del hyper_parameters[name]
    families = [FAMILY_NAMES[each] for each in named if each in FAMILY_NAMES]
    try:
        made = TrainingPlan(
            families=tuple(families) or tuple(FAMILIES),
            folds=spec.folds or DEFAULT_FOLDS,
            seed=_seed(spec.seed, found),
            hyper_parameters=hyper_parameters,
        )
    except InvalidError as error:
        found.extend("", error)
    found.check()
    return made


def _seed(seed: int, found: Violations) -> int:
    if seed < 0:
        found.add("seed", f"{seed} is negative; give 0 or more")
    return max(0, seed)
