"""What a run says of itself."""

from __future__ import annotations

from tests.faults.report import Outcome, Report, table
from tests.faults.scenarios import Scenario

SCENARIO = Scenario(
    says="for these tests", seconds=60.0, least_faults=4, least_deaths=2, points=("a", "b")
)


def report(**fields: object) -> Report:
    made = {
        "scenario": "made up",
        "seed": 1,
        "seconds": 60.0,
        "is_whole": True,
        "least_faults": 4,
        "hits": {"a": 1, "b": 1},
        "figures": {"appends": 1e5, "delivered": 1e6},
        "faults": {"died at a": 2, "died at b": 2, "kill postgres": 1},
    }
    return Report(**{**made, **fields})  # type: ignore[arg-type]


def judged(**fields: object) -> Report:
    made = report(**fields)
    made.judge(SCENARIO)
    return made


def test_a_run_with_enough_of_everything_passes() -> None:
    assert judged().outcome is Outcome.PASSED


def test_a_broken_promise_counts_for_more_than_too_little_of_anything() -> None:
    assert judged(found={"durable": ["a row"]}, faults={}).outcome is Outcome.VIOLATED


def test_too_little_of_anything_makes_a_run_invalid() -> None:
    for fields, shortfall in (
        ({"least_faults": 6}, "5 faults, not 6"),
        ({"faults": {"died at a": 9, "died at b": 1}}, "1 deaths at b, not 2"),
        ({"hits": {"a": 1}}, "failpoint b was never reached"),
        ({"figures": {"appends": 1e5, "delivered": 9.0}}, "9 delivered, not 12000"),
        ({"figures": {"appends": 5.0, "delivered": 1e6}}, "5 appends, not 480"),
    ):
        made = judged(**fields)  # type: ignore[arg-type]
        assert made.outcome is Outcome.INVALID
        assert made.shortfalls == [shortfall]


def test_a_short_look_asks_for_its_faults_alone() -> None:
    assert judged(is_whole=False, figures={}, faults={"kill": 4}).outcome is Outcome.PASSED


def test_a_shorter_run_is_asked_for_less() -> None:
    assert judged(seconds=30.0, faults={"died at a": 3, "died at b": 1}).outcome is Outcome.PASSED


def test_the_table_adds_up_the_runs_without_a_deliberate_bug() -> None:
    bad = report(mutation="no_fence", found={"fenced": ["twice"]}, took=1.0)
    lines = table([report(took=2.0), report(took=3.0), bad]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    told = dict(zip(cells[0], cells[-1], strict=True))
    assert told["scenario"] == "all 2 without a bug"
    assert (told["kills"], told["at points"], told["postgres"]) == ("8", "8", "2")
    assert (told["delivered"], told["violations"], told["s"]) == ("2,000,000", "0", "5")
    assert dict(zip(cells[0], cells[-2], strict=True))["violations"] == "1"
