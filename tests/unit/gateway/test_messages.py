"""Query parameters and JSON as messages, and arrays of lines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.gateway.messages import message_from, values_of
from vistaflow_services.gateway.rows import _array

WATCH = registry_pb2.WatchStatesRequest.DESCRIPTOR
SUBMIT = query_pb2.SubmitQueryRequest.DESCRIPTOR


def test_parameters_become_fields() -> None:
    values = values_of(
        WATCH,
        [
            ("filter.kit_ids", "7"),
            ("filter.kitIds", "8"),
            ("filter.statuses", "finished"),
            ("filter.labels.team.name", "a"),
            ("mode", "EVERY_ROW"),
            ("include_left", "true"),
            ("progress_interval", "0.5s"),
        ],
    )
    message = message_from(WATCH, values)
    assert list(message.filter.kit_ids) == [7, 8]
    assert (list(message.filter.statuses), message.mode, message.include_left) == ([4], 1, True)
    assert dict(message.filter.labels) == {"team.name": "a"}
    assert message.progress_interval.nanos == 500_000_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("filter", "{}"),
        ("filter.nothing", "1"),
        ("filter.kit_ids.x", "1"),
        ("mode", "SOME_ROWS"),
        ("include_left", "yes"),
        ("after_revision", "1.5"),
        ("after_revision", "9" * 30),
        ("progress_interval", "long"),
        ("filter.labels", "a"),
    ],
)
def test_a_mistake_is_one_violation(name: str, text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        message_from(WATCH, values_of(WATCH, [(name, text)]))
    assert len(caught.value.violations) == 1


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(InvalidError, match="twice"):
        values_of(SUBMIT, [("limit", "1"), ("limit", "2")])


@pytest.mark.parametrize("blocks", [[], [b'{"a":1}\n'], [b'{"a":1}\n{"a"', b":2}\n", b"3\n4\n"]])
async def test_lines_become_one_array(blocks: list[bytes]) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    found = b"".join([part async for part in _array(lines())])
    objects = [line for line in b"".join(blocks).splitlines() if line]
    assert found == b"[" + b",\n".join(objects) + b"]\n"
