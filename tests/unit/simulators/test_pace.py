"""How long the rest takes, and how that is said."""

from __future__ import annotations

import pytest

from vistaflow._spans import span_text
from vistaflow_services.simulators.pace import Pace


def test_the_rest_takes_as_long_a_run_as_those_that_were_made() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])

    assert pace.left(0, 10) == 0  # nothing is known yet
    now[0] += 60
    assert pace.left(2, 10) == 300
    assert pace.left(12, 0) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1e-5, "1 ms"), (0.04, "40 ms"), (0.4, "0.4 s"), (9.96, "10 s"), (119.4, "119 s"),
        (120, "2 min"), (7199, "120 min"),
        (7200, "2 h"), (48 * 3600, "2 d"), (6.2 * 86400, "6 d"),
    ],
)  # fmt: skip
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
