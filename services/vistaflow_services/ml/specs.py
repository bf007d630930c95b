"""What the messages of a job mean to the domain."""

from __future__ import annotations

from google.protobuf import json_format

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.designs.manifest import DesignManifest
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
    violations = Violations()
    if spec.outliers not in pb.OutlierPolicy.values():
        violations.add("outliers", f"{spec.outliers} is no outlier policy; give flag or drop")
    fraction = spec.test_fraction if spec.HasField("test_fraction") else DEFAULT_TEST_FRACTION
    try:
        preparation = Preparation(
            responses=tuple(spec.responses),
            test_fraction=fraction,
            seed=_seed(spec.seed, violations),
            drop_outliers=spec.outliers == pb.OUTLIER_POLICY_DROP,
            log_responses=tuple(spec.log_responses),
        )
    except InvalidError as error:
        violations.extend("", error)
    violations.check()
    return preparation


def check_responses(spec: pb.PreprocessSpec, design: DesignManifest) -> None:
    """Raises `InvalidError` for each response that a design does not have."""
    designed = list(design.units)
    violations = Violations()
    for field in ("responses", "log_responses"):
        names = getattr(spec, field)
        if field == "log_responses" and tuple(names) == (NO_RESPONSE,):
            continue
        for index, name in enumerate(names):
            if name not in designed:
                violations.add(
                    f"{field}[{index}]", f"the design has no `{name}`{suggest(name, designed)}"
                )
    violations.check()


def plan_of(spec: pb.TrainSpec) -> TrainingPlan:
    """How surrogates are trained.

    Raises:
        InvalidError: With every mistake.
    """
    violations = Violations()
    named = spec.families[:MAX_FAMILIES]
    if len(spec.families) > len(named):
        violations.add(
            "families", f"{len(spec.families)} are named; there are {', '.join(FAMILIES)}"
        )
    for index, family in enumerate(named):
        if family not in FAMILY_NAMES:
            violations.add(
                f"families[{index}]", f"{family} is no family; there are {', '.join(FAMILIES)}"
            )
    try:
        hyper_parameters = json_format.MessageToDict(spec.hyperparameters)
    except ValueError:
        violations.add("hyperparameters", "holds NaN or an infinity; give numbers")
        hyper_parameters = {}
    for name, family in sorted(hyper_parameters.items()):
        if not isinstance(family, dict):
            violations.add(f"hyperparameters.{name}", "give a mapping of settings")
            del hyper_parameters[name]
    families = [FAMILY_NAMES[family] for family in named if family in FAMILY_NAMES]
    try:
        plan = TrainingPlan(
            families=tuple(families) or tuple(FAMILIES),
            folds=spec.folds or DEFAULT_FOLDS,
            seed=_seed(spec.seed, violations),
            hyper_parameters=hyper_parameters,
        )
    except InvalidError as error:
        violations.extend("", error)
    violations.check()
    return plan


def _seed(seed: int, violations: Violations) -> int:
    if seed < 0:
        violations.add("seed", f"{seed} is negative; give 0 or more")
    return max(0, seed)
