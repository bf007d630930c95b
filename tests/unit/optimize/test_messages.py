from __future__ import annotations

from typing import Any

import pytest

from vistaflow_services.optimize.messages import study_message, trial_message
from vistaflow_services.search.manifest import ConstraintRecord

TRIAL: dict[str, Any] = {
    "number": 3,
    "origin": "infill",
    "point": {"x": 1.0},
    "simulated": {"y": 2.0},
    "objective": 2.0,
    "feasible": False,
    "constraints": [{"text": "y <= 1", "value": 2.0, "limit": 1.0, "met": False}],
}
RESULT: dict[str, Any] = {
    "kind": "design",
    "goals": "minimize y; y <= 1",
    "best": {**TRIAL, "predicted": {"y": None}},
    "responses": [{"name": "y", "unit": "V"}],
    "evaluations": {"total": 4, "simulated": 3, "cached": 1, "failed": 0},
    "trials": {"uri": "artifact://jobs/j/1/trials.parquet", "sha256": "ab", "bytes": 5},
    "plots": [],
}
"""What version 0.1.0 published, without the keys that came later."""


def test_the_result_of_an_earlier_version_is_read() -> None:
    study = study_message("j", RESULT)

    assert (study.stop_reason, study.evaluation_count, study.model_id) == ("budget", 4, "")
    assert not study.HasField("design_best")
    assert (study.best.number, study.comparisons[0].run_count) == (3, 1)
    assert study.constraints[0].miss == 1.0


@pytest.mark.parametrize("key", ["kind", "goals", "best", "responses", "evaluations", "trials"])
def test_a_result_without_a_key_that_is_needed_cannot_be_read(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        study_message("j", {name: value for name, value in RESULT.items() if name != key})


@pytest.mark.parametrize(("value", "miss"), [(None, None), (0.25, 0.75)])
def test_the_sides_of_a_constraint_give_how_far_it_is_missed(
    value: float | None, miss: float | None
) -> None:
    record = ConstraintRecord.read({"text": "y >= 1", "value": value, "limit": 1.0, "met": False})

    assert record.miss == miss
    assert record.to_dict()["miss"] == miss


@pytest.mark.parametrize(
    ("value", "limit", "met", "margin", "active"),
    [
        (3.0, 5.0, True, 2.0, False),
        (5.0, 3.0, True, 2.0, False),
        (99.5, 100.0, True, 0.5, True),
        (101.0, 100.0, False, -1.0, False),
    ],
)
def test_a_constraint_has_its_margin_and_is_active_with_hardly_any(
    value: float, limit: float, met: bool, margin: float, active: bool
) -> None:
    constraint = {"text": "y <= 1", "value": value, "limit": limit, "met": met}
    constraint["miss"] = 0.0 if met else abs(value - limit)
    study = study_message("s", {**RESULT, "best": {**RESULT["best"], "constraints": [constraint]}})
    assert (study.constraints[0].margin, study.constraints[0].active) == (margin, active)


def test_a_trial_says_how_long_it_ran_what_was_predicted_and_what_it_printed() -> None:
    row = {
        "number": 4,
        "origin": "infill",
        "x.a": 1.0,
        "y.v": None,
        "objective": None,
        "feasible": False,
        "failure": "NO_CONVERGENCE",
        "message": "step 3",
        "log": "giving up",
        "mean.v": 2.0,
        "sd.v": 0.5,
        "mean.w": None,
        "sd.w": None,
        "cached": True,
        "seconds": 1.25,
    }
    trial = trial_message(row)

    assert trial.run_duration.ToMilliseconds() == 1250
    assert trial.cached
    assert set(trial.predicted) == {"v"}
    assert (trial.predicted["v"].mean, trial.predicted["v"].standard_deviation) == (2.0, 0.5)
    assert (trial.message, trial.log) == ("step 3", "giving up")


def test_a_trial_of_an_earlier_version_says_nothing_of_its_run() -> None:
    row = {"number": 0, "origin": "doe", "objective": 1.0, "feasible": True, "failure": None}
    trial = trial_message(row)

    assert not trial.HasField("run_duration")
    assert not trial.predicted
