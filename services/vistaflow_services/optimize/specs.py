"""From the messages that ask for studies to the domain; mistakes carry field paths."""

from __future__ import annotations

from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.optimize.domain import StudyPlan, TuningPlan

FAMILIES = {
    ml_pb2.FAMILY_GAUSSIAN_PROCESS: "gp",
    ml_pb2.FAMILY_POLYNOMIAL_RIDGE: "polynomial_ridge",
    ml_pb2.FAMILY_EXTRA_TREES: "extra_trees",
    ml_pb2.FAMILY_GRADIENT_BOOSTING: "gradient_boosting",
}

DEFAULT_TRIALS = 30
DEFAULT_FOLDS = 5


def study_plan(spec: pb.OptimizeDesignSpec) -> StudyPlan:
    """The plan of a study.

    Raises:
        InvalidError: With every mistake, under its path in the spec.
    """
    violations = Violations()
    if not spec.design:
        violations.add("design", "missing: name the DOE job, or give the id of an evaluated design")
    plan = None
    try:
        plan = StudyPlan(
            goals=spec.goals,
            budget=spec.budget,
            batch_size=spec.batch_size,
            tolerance=spec.tolerance,
            seed=spec.seed,
        )
    except InvalidError as error:
        violations.extend("", error)
    violations.check()
    assert plan is not None
    return plan


def tuning_plan(spec: pb.TuneModelSpec) -> TuningPlan:
    """The plan of a tuning study.

    Raises:
        InvalidError: With every mistake, under its path in the spec.
    """
    violations = Violations()
    if not spec.scaler:
        violations.add("scaler", "missing: name the scale job, or give its id")
    if spec.family and spec.family not in FAMILIES:
        violations.add(
            "family", f"{spec.family} is no family; there are {', '.join(FAMILIES.values())}"
        )
    plan = None
    try:
        plan = TuningPlan(
            family=FAMILIES.get(spec.family, "unknown" if spec.family else ""),
            response=spec.response,
            trial_count=spec.trial_count or DEFAULT_TRIALS,
            folds=spec.folds or DEFAULT_FOLDS,
            seed=spec.seed,
        )
    except InvalidError as error:
        violations.extend("", error)
    violations.check()
    assert plan is not None
    return plan
