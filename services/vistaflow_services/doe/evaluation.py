"""The outcomes of a design's runs: as arrays, as texts, and whether too many failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vistaflow_services.decks.deck import FailurePolicy
from vistaflow_services.decks.space import Point
from vistaflow_services.designs.table import Results
from vistaflow_services.simulators.outcome import Failure, Outcome, reasons_of, reasons_text

_ANEW = "`vistaflow retry KIT --deck FOLDER`, which keeps the points that are still valid"
HINTS = {
    Failure.CRASHED: f"correct the deck as the message says, then {_ANEW}; if the machine caused "
    "the failure, use `vistaflow retry KIT`",
    Failure.NO_CONVERGENCE: f"narrow the ranges, or loosen the deck's solver settings: {_ANEW}",
    Failure.TIMEOUT: "`vistaflow retry KIT` runs these points again, if the machine was busy; or "
    f"raise the deck's `timeout` or coarsen its mesh: {_ANEW}",
    Failure.INFEASIBLE: "narrow the ranges, add a constraint, or widen the responses' ranges: "
    f"{_ANEW}",
    Failure.LICENSE: "free a licence, then `vistaflow retry KIT`: finished points are kept",
}
"""What usually helps, by kind of failure."""


def results_of(outcomes: Sequence[Outcome], names: Sequence[str]) -> Results:
    """Outcomes in point order as arrays, one a response of `names`."""
    return Results(
        responses={
            name: np.array(
                [
                    outcome.responses.get(name, np.nan) if outcome.ok else np.nan
                    for outcome in outcomes
                ],
                dtype=np.float64,
            )
            for name in names
        },
        failures=[
            None if outcome.failure is None else str(outcome.failure) for outcome in outcomes
        ],
        messages=[outcome.message if outcome.failure is not None else "" for outcome in outcomes],
        logs=[outcome.log if outcome.failure is not None else "" for outcome in outcomes],
        seconds=np.array([outcome.seconds for outcome in outcomes], dtype=np.float64),
        cached_count=sum(outcome.cached for outcome in outcomes),
        substituted_count=sum(outcome.substituted for outcome in outcomes),
    )


def failure_counts(results: Results) -> dict[str, int]:
    """Failed runs by kind, the most common first."""
    return dict(
        Counter(failure for failure in results.failures if failure is not None).most_common()
    )


def too_many_failed(results: Results, policy: FailurePolicy) -> str:
    """Why the design is not fit to go on with, for people to read; empty if it is."""
    count, failed = len(results.failures), int(results.failed.sum())
    if failed == count:
        which = "the only run" if count == 1 else f"all {count} runs"
        return f"{which} failed"
    if failed > policy.max_failed_fraction * count:
        return (
            f"{failed} of {count} runs failed, more than the {policy.max_failed_fraction:.0%} "
            "allowed"
        )
    return ""


def most_common_failure(results: Results) -> str:
    """A clause with the reasons of most failures."""
    text = reasons_text(reasons_of(results.failures, results.messages))
    return f": {text}" if text else ""


def reason_records(results: Results) -> list[dict[str, Any]]:
    """The reasons of most failures as JSON-able values, with the row of an example."""
    return [
        {
            "failure": reason.failure,
            "message": reason.message,
            "count": reason.count,
            "row_id": reason.place,
        }
        for reason in reasons_of(results.failures, results.messages)[:MOST_REASONS]
    ]


def failed_rows(results: Results, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Failed points as JSON-able values, of each reason the first with what it printed."""
    firsts = {reason["row_id"] for reason in reason_records(results)[:3]}
    rows = [
        {
            "row_id": place,
            "parameters": points[place],
            "failure": failure,
            "message": results.messages[place][:300],
            "log": results.logs[place][-6000:] if place in firsts else "",
        }
        for place, failure in enumerate(results.failures)
        if failure is not None
    ]
    # The first of each reason, then as many others as a row of the log has room for.
    rows.sort(key=lambda row: (row["row_id"] not in firsts, row["row_id"]))
    size = 0
    for number, row in enumerate(rows):
        size += len(json.dumps(row))
        if size > MOST_BYTES:
            return rows[:number]
    return rows


MOST_REASONS = 5
MOST_BYTES = 32 * 1024
"""Most bytes of the failed points that the row of a failed job holds."""


def hint_of(results: Results) -> str:
    """What usually helps against the most common failure."""
    counts = failure_counts(results)
    return HINTS[Failure(next(iter(counts)))] if counts else ""
