"""What judges the watchers sees every kind of fault."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

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
