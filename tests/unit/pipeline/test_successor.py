from __future__ import annotations

import pytest

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.pipeline.successor import has_no_deck


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"collect": "QUEUED", "design": "INIT"}, False),
        ({"collect": "RUNNING", "design": "INIT"}, False),
        ({"collect": "FAILED", "design": "INIT"}, True),
        ({"collect": "CANCELED", "design": "CANCELED"}, True),
        ({"collect": "FINISHED", "design": "FAILED"}, False),
        ({"collect": "FINISHED", "collect@2": "FAILED", "design@2": "INIT"}, True),
        ({"collect@9": "FINISHED", "collect@10": "FAILED"}, True),
        ({"collect@10": "FINISHED", "collect@9": "FAILED"}, False),
        ({"collector": "FAILED"}, False),
        ({}, False),
    ],
)
def test_a_kit_has_no_deck_if_the_last_collection_ended_without_one(
    statuses: dict[str, str], expected: bool
) -> None:
    jobs = [
        common_pb2.Job(name=name, status=common_pb2.Status.Value(f"STATUS_{status}"))
        for name, status in statuses.items()
    ]
    assert has_no_deck(registry_pb2.Kit(kit_id=7, jobs=jobs)) is expected
