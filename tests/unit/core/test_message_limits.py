"""Messages that share one answer: as many as fit."""

from __future__ import annotations

import pytest

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.ml.messages import check_answer
from vistaflow_services.pipeline.servicer import MISTAKES_BYTES, mistake_messages


def state(size: int) -> common.State:
    return common.State(reason="x" * size)


@pytest.mark.parametrize("size", [1, 10, 1_000, 100_000, 3_000_000])
def test_as_many_as_fit_are_taken_and_no_more(size: int) -> None:
    taken = fitting([size] * (MESSAGE_BYTES // size + 10 if size > 100 else 500_000), state)
    answer = pb.ListStatesResponse(states=taken)
    assert answer.ByteSize() <= MESSAGE_BYTES
    assert answer.ByteSize() > MESSAGE_BYTES - 2 * (size + 20) * (1 + len(taken) // 2)


def test_the_first_is_taken_however_large_it_is() -> None:
    assert len(fitting([5_000_000, 1], state)) == 1
    assert fitting([], state) == []


def test_predictions_that_do_not_fit_one_answer_are_refused_with_how_many_do() -> None:
    names = [f"response_{n:03}" for n in range(100)]
    check_answer(names, 500)
    with pytest.raises(InvalidError) as refused:
        check_answer(names, 10_000)
    assert refused.value.reason == "ANSWER_TOO_LARGE"
    assert refused.value.violations[0].field == "points"


def test_of_very_many_mistakes_the_first_are_told_and_how_many_there_are() -> None:
    mistakes = [FieldViolation(field=f"f{n}", description="wrong " * 50) for n in range(5_000)]
    told = mistake_messages(mistakes)
    assert sum(each.ByteSize() for each in told) <= MISTAKES_BYTES + 100
    assert told[0].field == "f0"
    assert told[-1].description.startswith(f"and {5_001 - len(told):,} more mistakes")
    assert len(mistake_messages(mistakes[:3])) == 3
