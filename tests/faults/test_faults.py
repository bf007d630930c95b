"""Registries, PostgreSQL, networks and workers are broken; every promise holds.

Each run prints its seed; `python -m tests.faults --seed … --scenario …` makes the same choices.
"""

from __future__ import annotations

import os
import secrets
import shutil

import pytest

from tests.faults.conftest import Run
from tests.faults.runner import Outcome
from tests.faults.scenarios import SCENARIOS

SEED = int(os.environ.get("VISTAFLOW_FAULTS_SEED", "0")) or secrets.randbelow(1_000_000)
SHORT = {"die-in-commit": 4.0, "kill-postgres": 4.0, "zombie-workers": 4.0}
"""Seconds of load in `make test`."""


def expect_passed(harness: Run, name: str, seconds: float = 0.0) -> None:
    """A run that says nothing is made once more, for longer; another one is a failure."""
    report = harness(name, seed=SEED, seconds=seconds)
    if report.outcome is Outcome.INVALID:
        report = harness(name, seed=SEED, seconds=2 * report.seconds)
    if report.outcome is Outcome.IMPOSSIBLE:
        pytest.skip("; ".join(report.shortfalls))
    assert report.outcome is Outcome.PASSED, str(report)


@pytest.mark.parametrize("name", SHORT)
def test_no_promise_is_broken_for_a_short_while(harness: Run, name: str) -> None:
    expect_passed(harness, name, SHORT[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(harness: Run, name: str) -> None:
    expect_passed(harness, name)


KNOWN_BAD = {
    "id_cursor": ("calm-replicas", 3.0, {"complete"}),
    "no_fence": ("zombie-workers", 5.0, {"durable", "fenced", "verdicts"}),
    "ack_before_commit": ("kill-registry", 3.0, {"durable"}),
    "notify_only": ("missed-notices", 3.0, {"complete"}),
    "no_dedupe": ("die-in-commit", 6.0, {"unique"}),
    "naive_pool": ("end-backends", 12.0, {"recovered"}),
}
"""Of each deliberate bug: where it shows, seconds of load, and a promise it breaks."""
QUICK = ("id_cursor", "ack_before_commit")


TRIES = 3
"""Most of these bugs are races: one run may be lucky, three are not."""


def expect_caught(harness: Run, mutation: str) -> None:
    name, seconds, promises = KNOWN_BAD[mutation]
    for seed in range(SEED, SEED + TRIES):
        report = harness(name, seed=seed, seconds=seconds, mutation=mutation)
        if report.outcome is Outcome.VIOLATED:
            break
    assert report.outcome is Outcome.VIOLATED, str(report)
    assert promises & report.found.keys(), str(report)
    assert report.folder is not None
    assert (report.folder / "postgres.log").exists()
    assert list((report.folder / "histories").glob("writer-*.jsonl")) or mutation == "no_fence"
    shutil.rmtree(report.folder)


@pytest.mark.parametrize("mutation", QUICK)
def test_a_deliberate_bug_is_caught(harness: Run, mutation: str) -> None:
    expect_caught(harness, mutation)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [each for each in KNOWN_BAD if each not in QUICK])
def test_every_deliberate_bug_is_caught(harness: Run, mutation: str) -> None:
    expect_caught(harness, mutation)


@pytest.mark.slow
def test_a_run_in_which_too_little_happens_is_no_success(harness: Run) -> None:
    report = harness("die-in-locked-commit", seed=SEED, seconds=0.5)
    assert report.outcome is Outcome.INVALID
    assert report.shortfalls
