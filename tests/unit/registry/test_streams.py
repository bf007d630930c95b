"""The window of a stream."""

from __future__ import annotations

from vistaflow_services.registry import streams
from vistaflow_services.registry.streams import Window


def run(window: Window, *, lag: float, rows: int, rounds: int, start: float = 100.0) -> float:
    """A writer that sends whatever it may; its acknowledgements take `lag` seconds."""
    now = start
    for _ in range(rounds):
        if not window.grant() and window.credit < rows:
            window.grant_idle()
        sent = 0
        while window.credit >= rows:
            assert window.take(rows)
            sent += 1
        for _ in range(sent):
            window.acked(rows, now, now + lag)
            window.grant()
        now += lag
    return now


def test_no_more_rows_are_taken_than_were_granted() -> None:
    window = Window()
    assert not window.take(1)
    assert window.grant() == streams.FIRST_WINDOW
    assert window.take(streams.FIRST_WINDOW)
    assert not window.take(1)


def test_slow_acknowledgements_shrink_the_window_to_its_least_and_no_further() -> None:
    window = Window()
    run(window, lag=0.5, rows=10, rounds=50)
    assert window.size == streams.MIN_WINDOW


def test_soon_acknowledgements_of_a_writer_that_uses_its_credit_up_grow_it_to_its_most() -> None:
    window = Window()
    run(window, lag=0.001, rows=100, rounds=500)
    assert window.size == streams.MAX_WINDOW


def test_what_is_granted_and_not_acknowledged_never_exceeds_the_most() -> None:
    window = Window()
    now = 100.0
    for lag in (0.001, 0.2, 0.001, 0.2, 0.001):
        now = run(window, lag=lag, rows=100, rounds=300, start=now)
        assert window.credit + window.unacked <= streams.MAX_WINDOW


def test_a_window_that_shrank_still_lets_two_of_the_writers_messages_through() -> None:
    window = Window()
    window.grant()
    window.grant_idle()
    run(window, lag=0.5, rows=700, rounds=50)
    assert window.size == 1400


def test_a_silent_writer_is_granted_the_largest_message_once() -> None:
    window = Window()
    run(window, lag=0.5, rows=10, rounds=50)
    assert window.credit < 1000
    window.grant_idle()
    assert window.credit == 1000
    assert window.grant_idle() == 0
