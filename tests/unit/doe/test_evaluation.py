from __future__ import annotations

import math

import pytest

from vistaflow_services.decks.deck import FailurePolicy
from vistaflow_services.doe.evaluation import (
    failure_counts,
    hint_of,
    most_common_failure,
    results_of,
    too_many_failed,
)
from vistaflow_services.simulators.outcome import Failure, Outcome


def outcome(failure: Failure | None = None, message: str = "", **fields: bool) -> Outcome:
    responses = {} if failure else {"ion": 1.5}
    return Outcome(
        point={"x": 1.0},
        responses=responses,
        failure=failure,
        message=message,
        seconds=0.5,
        **fields,
    )


MIXED = [
    outcome(),
    outcome(Failure.TIMEOUT, "30 s were not enough"),
    outcome(Failure.CRASHED, "Traceback\n  line 3\nZeroDivisionError: division by zero\n"),
    outcome(Failure.CRASHED, "Traceback\n  line 9\nZeroDivisionError: division by zero\n"),
    outcome(Failure.CRASHED, "Traceback\n  line 3\nZeroDivisionError: division by zero\n"),
    outcome(cached=True),
    outcome(substituted=True),
]


def test_outcomes_become_arrays_in_their_order() -> None:
    results = results_of(MIXED, ["ion"])
    assert [math.isnan(each) for each in results.responses["ion"]] == [
        each.failure is not None for each in MIXED
    ]
    assert results.failed.tolist() == [False, True, True, True, True, False, False]
    assert (results.cached_count, results.substituted_count) == (1, 1)
    assert results.evaluated
    assert failure_counts(results) == {"CRASHED": 3, "TIMEOUT": 1}


def test_the_most_common_failure_is_told_by_its_last_line() -> None:
    told = most_common_failure(results_of(MIXED, ["ion"]))
    assert told == (
        ": 3 × CRASHED: ZeroDivisionError: division by zero; 1 × TIMEOUT: 30 s were not enough"
    )
    assert hint_of(results_of(MIXED, ["ion"])).startswith("correct the deck")


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.57, "4 of 7 runs failed, more than the 57% allowed"),
        (0.58, ""),
        (1.0, ""),
    ],
)
def test_a_design_is_refused_over_the_fraction_its_policy_allows(
    fraction: float, message: str
) -> None:
    told = too_many_failed(results_of(MIXED, ["ion"]), FailurePolicy(max_failed_fraction=fraction))
    assert told == message


def test_a_design_without_a_single_good_run_is_refused_whatever_the_policy() -> None:
    results = results_of([outcome(Failure.LICENSE, "none free")], ["ion"])
    told = too_many_failed(results, FailurePolicy(max_failed_fraction=1.0))
    assert told == "the only run failed"
