"""Which rows a filter wants."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from vistaflow_services.registry.domain import StateFilter, StateRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEAST = timedelta(microseconds=1)


def row_of(time: datetime) -> StateRow:
    return StateRow(
        revision=1,
        batch=1,
        kit_id=1,
        job_id=uuid.UUID(int=1),
        job_type="DOE",
        task_name="t",
        status="RUNNING",
        current_order=1,
        attempt=1,
        seq=0,
        created_at=time,
    )


@pytest.mark.parametrize(
    ("time", "after", "before"),
    [(NOW - LEAST, False, True), (NOW, True, False), (NOW + LEAST, True, False)],
    ids=["earlier", "the moment itself", "later"],
)
def test_a_row_of_the_moment_itself_is_after_it_and_not_before_it(
    time: datetime, after: bool, before: bool
) -> None:
    assert StateFilter(recorded_after=NOW).matches(row_of(time)) is after
    assert StateFilter(recorded_before=NOW).matches(row_of(time)) is before
