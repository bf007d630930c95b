from __future__ import annotations

import math

import pytest

from vistaflow_services.decks.deck import Response
from vistaflow_services.simulators.outcome import MAX_MESSAGE, Failure, Outcome, clipped, gated

GAIN = (Response(name="gain", unit="dB", low=0.0, high=200.0, measure="gain_db"),)


@pytest.mark.parametrize(
    ("values", "failure", "said"),
    [
        ({"gain_db": 80.0}, None, ""),
        ({"gain_db": "80.0"}, None, ""),
        ({}, Failure.CRASHED, "no `gain_db`"),
        ({"gain": 80.0}, Failure.CRASHED, "it returned gain"),
        ({"gain_db": "eighty"}, Failure.CRASHED, "not a number"),
        ({"gain_db": math.nan}, Failure.NO_CONVERGENCE, "`gain` is nan"),
        ({"gain_db": -math.inf}, Failure.NO_CONVERGENCE, "`gain` is -inf"),
        ({"gain_db": -1.0}, Failure.INFEASIBLE, "-1 dB, outside its physical range 0 to 200"),
        ({"gain_db": 1e9}, Failure.INFEASIBLE, "outside its physical range"),
    ],
)
def test_the_gate_lets_only_finite_physical_numbers_through(
    values: dict[str, object], failure: Failure | None, said: str
) -> None:
    outcome = gated({"w": 1.0}, GAIN, values, 0.5)
    assert outcome.failure is failure
    assert said in outcome.message
    assert outcome.responses == ({} if failure else {"gain": 80.0})


def test_an_outcome_is_the_same_after_json() -> None:
    outcome = Outcome(
        point={"w": 1.5, "n": 2, "kind": "a"}, failure=Failure.TIMEOUT, message="late", seconds=2.0
    )
    assert Outcome.from_dict(outcome.to_dict(), cached=False) == outcome


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot open /home/ann/secret/deck.cir now", "cannot open .../deck.cir now"),
        ('File "/usr/lib/python3/x.py", line 3', 'File ".../x.py", line 3'),
        ("3 V/us at 1/2 and n/a", "3 V/us at 1/2 and n/a"),
        ("bell \x07 and \x1b[31mred", "bell ? and ?[31mred"),
    ],
)
def test_messages_lose_host_paths_and_control_characters(said: str, shown: str) -> None:
    assert clipped(said) == shown


def test_long_messages_keep_their_end() -> None:
    told = clipped("x" * 10_000 + " the cause")
    assert len(told) == MAX_MESSAGE
    assert told.endswith("the cause")
