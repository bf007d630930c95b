"""Registries, PostgreSQL, networks and workers are broken; every promise holds.

Each run prints its seed; `python -m tests.faults --seed … --scenario …` makes the same choices.
"""

from __future__ import annotations

import os
import secrets
import shutil

import pytest

from tests.faults.conftest import Run
from tests.faults.report import Outcome, Report
from tests.faults.scenarios import SCENARIOS

SEED = int(os.environ.get("VISTAFLOW_FAULTS_SEED", "0")) or secrets.randbelow(1_000_000)
SHORT = {"die-in-commit": (2.0, 4), "kill-postgres": (2.0, 3), "zombie-workers": (2.0, 1)}
"""What `make test` looks at: seconds of load, and faults, however long these take."""


def expect_passed(report: Report) -> None:
    if report.outcome is Outcome.IMPOSSIBLE:
        pytest.skip("; ".join(report.shortfalls))
    assert report.outcome is Outcome.PASSED, str(report)


@pytest.mark.parametrize("name", SHORT)
def test_no_promise_is_broken_for_a_short_while(harness: Run, name: str) -> None:
    seconds, faults = SHORT[name]
    expect_passed(harness(name, seed=SEED, seconds=seconds, least_faults=faults))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(harness: Run, name: str) -> None:
    """A run in which too little happened is a failure, as it says nothing."""
    expect_passed(harness(name, seed=SEED))


KNOWN_BAD = {
    "id_cursor": ("calm-replicas", 3.0, {"complete"}),
    "no_fence": ("zombie-workers", 5.0, {"durable", "fenced", "verdicts"}),
    "ack_before_commit": ("kill-registry", 3.0, {"durable", "complete"}),
    "notify_only": ("missed-notices", 3.0, {"complete"}),
    "no_dedupe": ("die-in-commit", 6.0, {"unique"}),
    "naive_pool": ("end-backends", 20.0, {"recovered"}),
}
"""Of each deliberate bug: where it shows, seconds of load, and a promise it breaks."""
QUICK = ("id_cursor", "ack_before_commit")


TRIES = 3
"""Most of these bugs are races: one run may be lucky, three are not."""


def expect_caught(harness: Run, mutation: str, *, times: int = 1) -> None:
    name, seconds, promises = KNOWN_BAD[mutation]
    caught = 0
    for seed in range(SEED, SEED + TRIES * times):
        report = harness(name, seed=seed, seconds=seconds, least_faults=0, mutation=mutation)
        caught += report.outcome is Outcome.VIOLATED and bool(promises & report.found.keys())
        assert report.outcome is not Outcome.VIOLATED or report.folder is not None
        if report.folder is not None:
            assert (report.folder / "postgres.log").exists()
            shutil.rmtree(report.folder)
        if caught == times:
            return
    raise AssertionError(f"caught {caught} times, not {times}: {report}")


@pytest.mark.parametrize("mutation", QUICK)
def test_a_deliberate_bug_is_caught(harness: Run, mutation: str) -> None:
    expect_caught(harness, mutation)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", KNOWN_BAD)
def test_every_deliberate_bug_is_caught_again_and_again(harness: Run, mutation: str) -> None:
    expect_caught(harness, mutation, times=3)


@pytest.mark.slow
def test_a_run_in_which_too_little_happens_is_no_success(harness: Run) -> None:
    report = harness("calm", seed=SEED, seconds=0.5, least_faults=1)
    assert report.outcome is Outcome.INVALID
    assert report.shortfalls == ["0 faults, not 1"]
