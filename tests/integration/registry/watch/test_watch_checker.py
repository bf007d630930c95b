"""What judges the watchers sees every kind of fault."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from watch_checker import Message, Seen, judge


def row(revision: int) -> Seen:
    return Seen(revision, f"row {revision}")


def delta(*revisions: int, through: int | None = None, at: float = 0.0) -> Message:
    return Message(
        kind="delta",
        revision=through if through is not None else revisions[-1],
        rows=tuple(map(row, revisions)),
        at=at,
    )


APPENDS = [[row(1)], [row(2), row(3)], [row(4)], [row(5), row(6)]]


def test_a_true_history_has_no_fault() -> None:
    messages = [
        Message(kind="synced", revision=0),
        delta(1, 2, 3),
        Message(kind="bookmark", revision=3),
        Message(kind="resume", revision=3),
        delta(4),
        delta(5, 6),
    ]
    assert judge(messages, APPENDS).told() == {}


@pytest.mark.parametrize(
    ("broken", "messages"),
    [
        ("complete", [delta(1, 2, 3), delta(5, 6)]),
        ("ordered", [delta(1), delta(4), delta(2, 3, through=4), delta(5, 6)]),
        ("unique", [delta(1, 2, 3), delta(2, 3, through=3), delta(4), delta(5, 6)]),
        ("atomic", [delta(1), delta(2), delta(3), delta(4), delta(5, 6)]),
        (
            "resumable",
            [delta(1, 2, 3), Message(kind="resume", revision=1), delta(4), delta(5, 6)],
        ),
        (
            "bookmarked",
            [delta(1), Message(kind="bookmark", revision=3), delta(2, 3), delta(4), delta(5, 6)],
        ),
        ("bookmarked", [delta(1, 2, 3), delta(4, at=9.0), delta(5, 6, at=9.0)]),
        ("invented", [delta(1, 2, 3), delta(4), delta(5, 6), delta(7)]),
    ],
)
def test_a_broken_promise_is_seen(broken: str, messages: list[Message]) -> None:
    assert broken in judge(messages, APPENDS, silence=5.0).told()


def test_rows_outside_the_filter_and_after_the_end_are_not_missed() -> None:
    messages = [delta(2, 3), delta(4)]
    assert judge(messages, APPENDS, after=1).told() == {}
    assert judge([delta(1, through=3)], APPENDS, wanted=lambda r: r.revision == 1).told() == {}


def of_task(revision: int) -> Seen:
    return Seen(revision, f"row {revision}", revision % 2)


TASKS = [[of_task(1)], [of_task(2), of_task(3)], [of_task(4)], [of_task(5), of_task(6)]]


def latest(*revisions: int, folded: int, through: int | None = None) -> Message:
    return Message(
        kind="delta",
        revision=through or revisions[-1],
        rows=tuple(map(of_task, revisions)),
        folded=folded,
    )


def test_a_true_history_of_the_latest_row_of_each_task_has_no_fault() -> None:
    for messages in (
        [latest(2, 3, folded=1), latest(5, 6, folded=1)],
        [latest(5, 6, folded=4)],
        [latest(1, folded=0), latest(2, 3, folded=0), latest(4, folded=0), latest(5, 6, folded=0)],
    ):
        assert judge(messages, TASKS, latest=True).told() == {}


@pytest.mark.parametrize(
    ("broken", "messages"),
    [
        ("folded", [latest(5, 6, folded=3)]),
        ("folded", [latest(5, 6, folded=5)]),
        ("folded", [latest(1, 3, folded=0), latest(5, 6, folded=2)]),
        ("complete", [latest(6, folded=5)]),
        ("complete", [latest(1, folded=0), latest(3, 4, folded=1), latest(6, folded=1)]),
    ],
)
def test_a_wrong_fold_is_seen(broken: str, messages: list[Message]) -> None:
    assert broken in judge(messages, TASKS, latest=True).told()


def test_rows_that_leave_the_filter_are_looked_for_and_kept_apart() -> None:
    def told(left: tuple[int, ...], rows: tuple[int, ...] = (1,)) -> dict[str, list[str]]:
        message = Message(
            kind="delta", revision=6, rows=tuple(map(row, rows)), left=tuple(map(row, left))
        )
        return judge(
            [message], APPENDS, wanted=lambda each: each.revision == 1, leaving={4, 6}
        ).told()

    assert told((4, 6)) == {}
    assert set(told((4,))) == {"complete"}
    assert set(told((4, 5, 6))) == {"filtered"}
    assert set(told((6,), (1, 4))) == {"filtered"}
