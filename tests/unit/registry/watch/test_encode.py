"""Deltas put together by hand are what protobuf would have written."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import StateRow, kit_status
from vistaflow_services.registry.log.hub import Entry
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.watch import encode


def a_row(revision: int, metadata: str) -> StateRow:
    return StateRow(
        revision=revision,
        batch=revision,
        kit_id=2**31 - 1,
        job_id=uuid.uuid4(),
        job_type="DOE",
        task_name="ü" * 50,
        status="RUNNING",
        current_order=1,
        attempt=3,
        seq=2**40,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        metadata_json=metadata,
        reason="r" * 4096,
    )


@pytest.mark.parametrize("size", [0, 1, 300])
@pytest.mark.parametrize("revision", [1, 127, 128, 2**40])
def test_a_delta_reads_back_as_its_rows_and_counts(size: int, revision: int) -> None:
    rows = [a_row(revision + n, '{"note": "' + "x" * 37 * n + '"}') for n in range(size)]
    counts = {7: (1, 0, 0, 2, 0, 0), 2**31 - 1: (0, 0, 0, 0, 300, 0)}
    entries = [Entry(row) for row in rows]
    (first,) = encode.deltas(entries, counts, revision + size, before=0)
    again = encode.deltas(entries, counts, revision + size, before=0)
    assert again == [first], "the second time from kept bytes"
    assert pb.WatchStatesResponse.FromString(first) == pb.WatchStatesResponse(
        delta=pb.Delta(
            states=[translate.state_to_proto(row) for row in rows],
            kit_counts=[
                pb.KitCounts(
                    kit_id=kit_id,
                    status=translate.status_to_proto(kit_status(kit)),
                    job_counts=translate.counts_to_proto(kit),
                )
                for kit_id, kit in counts.items()
            ],
        ),
        revision=revision + size,
    )


def test_rows_that_left_and_the_folded_count_read_back_too() -> None:
    stay, left = a_row(8, ""), a_row(9, '{"n": 1}')
    shared = [Entry(stay), Entry(left)]
    encode.deltas(shared, {}, 9, before=7)  # as another watcher, whose rows both are, was sent them
    (message,) = encode.deltas(shared[:1], {}, 300, before=7, left=shared[1:], folded=2**33)
    assert pb.WatchStatesResponse.FromString(message) == pb.WatchStatesResponse(
        delta=pb.Delta(
            states=[translate.state_to_proto(stay)],
            left=[translate.state_to_proto(left)],
            folded_count=2**33,
        ),
        revision=300,
    )


@pytest.mark.parametrize("name", ["a", "ü" * 100])
def test_a_named_event_reads_back_as_its_name_and_the_event(name: str) -> None:
    event = pb.WatchStatesResponse(revision=5, bookmark=pb.Bookmark(head_revision=2**40))
    assert pb.WatchManyResponse.FromString(
        encode.named(name, event.SerializeToString())
    ) == pb.WatchManyResponse(name=name, event=event)
