"""What came of running a design: as arrays, in words, and whether it is enough to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vistaflow_services.decks.deck import FailurePolicy
from vistaflow_services.doe.table import Results
from vistaflow_services.simulators.outcome import Failure, Outcome

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
                [each.responses.get(name, np.nan) if each.ok else np.nan for each in outcomes],
                dtype=np.float64,
            )
            for name in names
        },
        failures=[None if each.failure is None else str(each.failure) for each in outcomes],
        messages=[each.message if each.failure is not None else "" for each in outcomes],
        seconds=np.array([each.seconds for each in outcomes], dtype=np.float64),
        cached_count=sum(each.cached for each in outcomes),
        substituted_count=sum(each.substituted for each in outcomes),
    )


def failure_counts(results: Results) -> dict[str, int]:
    """Failed runs by kind, the most common first."""
    return dict(Counter(each for each in results.failures if each is not None).most_common())


def too_many_failed(results: Results, policy: FailurePolicy) -> str:
    """Why the design is not fit to go on with, for people to read; empty if it is."""
    count, failed = len(results.failures), int(results.failed.sum())
    if failed == count:
        which = "the only run" if count == 1 else f"all {count} runs"
        return f"{which} failed{most_common_failure(results)}"
    if failed > policy.max_failed_fraction * count:
        return (
            f"{failed} of {count} runs failed, more than the {policy.max_failed_fraction:.0%} "
            f"allowed{most_common_failure(results)}"
        )
    return ""


def most_common_failure(results: Results) -> str:
    """A clause naming the kind of most failures and what was said most often of them."""
    counts = failure_counts(results)
    if not counts:
        return ""
    kind, count = next(iter(counts.items()))
    said = Counter(
        message
        for message, failure in zip(results.messages, results.failures, strict=True)
        if failure == kind and message
    ).most_common(1)
    words = f": {_last_line(said[0][0])}" if said else ""
    return f"; mostly {kind} ({count}){words}"


def hint_of(results: Results) -> str:
    """What usually helps against the most common failure."""
    counts = failure_counts(results)
    return HINTS[Failure(next(iter(counts)))] if counts else ""


def _last_line(message: str) -> str:
    """The last line that says something: where programs put their error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
