"""The rows of a job under way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from vistaflow_services.designs.journal import NAME, Journal, read_journal


def rows(*numbers: int) -> pa.Table:
    return pa.table({"number": list(numbers), "failure": pa.array([None] * len(numbers))}).cast(
        pa.schema({"number": pa.int64(), "failure": pa.string()})
    )


Begin = Callable[..., Journal]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins the journal of an attempt of the job whose folder is `tmp_path`."""
    with contextlib.ExitStack() as stack:

        def begin(number: int = 1, task: bytes = b"") -> Journal:
            folder = tmp_path / str(number)
            folder.mkdir(parents=True)
            journal = Journal(folder, task)
            stack.callback(journal.close)
            return journal

        yield begin


def numbers(job: Path, offset: int = 0, limit: int = 0) -> list[int]:
    return [row["number"] for row in read_journal(job, offset=offset, limit=limit)]


def test_rows_are_read_while_more_are_written(tmp_path: Path, begin: Begin) -> None:
    assert numbers(tmp_path) == []
    journal = begin()
    journal.write(rows(0, 1, 2))
    assert numbers(tmp_path) == [0, 1, 2]
    journal.write(rows())
    journal.write(rows(3, 4))
    assert numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert numbers(tmp_path, offset=2, limit=2) == [2, 3]
    assert numbers(tmp_path, offset=4) == [4]
    assert numbers(tmp_path, offset=9) == []


def test_a_batch_that_is_half_written_is_left_out(tmp_path: Path, begin: Begin) -> None:
    journal = begin()
    journal.write(rows(0, 1))
    whole = (tmp_path / "1" / NAME).stat().st_size
    journal.write(rows(2, 3))
    path = tmp_path / "1" / NAME
    data = path.read_bytes()
    for size in (whole, whole + 1, len(data) - 1):
        path.write_bytes(data[:size])
        assert numbers(tmp_path) == [0, 1]
    for size in range(0, whole, 7):
        path.write_bytes(data[:size])
        assert numbers(tmp_path) == []


def test_the_rows_of_a_killed_attempt_stay_until_the_next_has_more(
    tmp_path: Path, begin: Begin
) -> None:
    killed = begin(9, b"goals")
    killed.write(rows(0, 1, 2))
    again = begin(10, b"goals")
    assert numbers(tmp_path) == [0, 1, 2]
    again.write(rows(0))
    assert numbers(tmp_path) == [0, 1, 2]
    again.write(rows(1, 2, 3))
    assert numbers(tmp_path) == [0, 1, 2, 3]


def test_an_attempt_with_something_else_to_do_counts_alone(tmp_path: Path, begin: Begin) -> None:
    begin(1, b"goals").write(rows(0, 1, 2))
    begin(2, b"other goals").write(rows(5))
    assert numbers(tmp_path) == [5]


def test_a_column_of_nulls_keeps_the_type_of_the_first_batch(tmp_path: Path, begin: Begin) -> None:
    journal = begin()
    journal.write(rows(0))
    journal.write(pa.table({"number": [1], "failure": pa.array([None])}))
    assert numbers(tmp_path) == [0, 1]
