"""What messages become: words, UTC times, plain values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import struct_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.models import (
    Bookmark,
    Counts,
    Delta,
    Snapshot,
    Synced,
    event_of,
    job_of,
    job_type_value,
    job_type_word,
    kit_of,
    seen_at,
    state_of,
    status_value,
    status_word,
    struct_dict,
)

AT = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)


def test_every_status_and_job_type_is_a_word_and_back() -> None:
    for name, value in common_pb2.Status.items():
        assert status_word(value) == name.removeprefix("STATUS_")
        assert status_value(status_word(value)) == status_value(name.lower()) == value
    for name, value in common_pb2.JobType.items():
        assert job_type_word(value) == name.removeprefix("JOB_TYPE_")
        assert job_type_value(job_type_word(value)) == value


def test_what_a_newer_server_says_is_kept_as_its_number() -> None:
    assert status_word(77) == "77"
    assert job_type_word(78) == "78"
    assert event_of(pb.WatchStatesResponse(revision=3)) is None


def test_a_row_has_its_time_in_utc_and_its_metadata_as_values() -> None:
    message = common_pb2.State(
        revision=7, kit_id=2, job_type=common_pb2.JOB_TYPE_DOE, status=common_pb2.STATUS_RUNNING
    )
    message.created_at.FromDatetime(AT)
    message.metadata.update({"whole": 3, "part": 0.5, "deep": [{"n": 2}, None, True], "text": "3"})

    state = state_of(message)

    assert (state.revision, state.job_type, state.status) == (7, "DOE", "RUNNING")
    assert state.created_at == AT
    assert state.metadata == {
        "whole": 3,
        "part": 0.5,
        "deep": [{"n": 2}, None, True],
        "text": "3",
    }
    assert isinstance(state.metadata["whole"], int)
    assert state_of(common_pb2.State()).created_at is None


def test_numbers_too_large_for_a_float_stay_floats() -> None:
    message = struct_pb2.Struct()
    message.update({"big": 2.0**60, "small": -5.0, "none": 0.0})

    told = struct_dict(message)

    assert isinstance(told["big"], float)
    assert [type(told[each]) for each in ("small", "none")] == [int, int]
    assert struct_dict(struct_pb2.Struct()) == {}


def test_a_job_knows_how_long_it_ran() -> None:
    message = common_pb2.Job(name="design", job_type=common_pb2.JOB_TYPE_DOE)
    assert job_of(message).elapsed is None
    assert job_of(message).progress is None
    message.started_at.FromDatetime(datetime.now(UTC) - timedelta(seconds=5))
    running = job_of(message).elapsed
    assert running is not None
    assert 5 <= running.total_seconds() < 6
    message.started_at.FromDatetime(AT)
    message.finished_at.FromDatetime(AT + timedelta(seconds=3))
    message.progress.completed = 4
    job = job_of(message)
    assert job.elapsed == timedelta(seconds=3)
    assert job.progress is not None
    assert job.progress.completed == 4


def test_a_job_shown_as_it_was_ran_until_then() -> None:
    message = pb.Kit(jobs=[common_pb2.Job(job_type=common_pb2.JOB_TYPE_DOE)] * 2)
    for job in message.jobs:
        job.started_at.FromDatetime(AT)
    message.jobs[1].finished_at.FromDatetime(AT + timedelta(seconds=3))
    past = seen_at(kit_of(message), AT + timedelta(seconds=9))
    assert [job.elapsed for job in past.jobs] == [timedelta(seconds=9), timedelta(seconds=3)]


@pytest.mark.parametrize(
    ("status", "counts", "terminal"),
    [
        ("FINISHED", {"finished_count": 2}, True),
        ("FAILED", {"failed_count": 1, "init_count": 3}, True),
        ("FAILED", {"failed_count": 1, "running_count": 1}, False),
        ("CANCELED", {"canceled_count": 1, "queued_count": 1}, False),
        ("RUNNING", {"running_count": 1}, False),
        ("INIT", {}, False),
    ],
)
def test_a_kit_is_terminal_once_nothing_of_it_moves(
    status: str, counts: dict[str, int], terminal: bool
) -> None:
    kit = kit_of(pb.Kit(status=status_value(status), job_counts=common_pb2.StatusCounts(**counts)))

    assert kit.is_terminal is terminal


def test_a_kit_in_a_notebook_is_a_table_without_markup_of_its_own() -> None:
    job = common_pb2.Job(name="a<b", job_type=common_pb2.JOB_TYPE_DOE, reason="<script>")
    shown = kit_of(pb.Kit(kit_id=3, name="<i>x</i>", jobs=[job]))._repr_html_()

    assert "&lt;i&gt;x&lt;/i&gt;" in shown
    assert "<script>" not in shown


def test_events_are_told_apart() -> None:
    counts = pb.KitCounts(
        kit_id=4,
        status=common_pb2.STATUS_RUNNING,
        job_counts=common_pb2.StatusCounts(running_count=1, finished_count=2),
    )
    delta = event_of(
        pb.WatchStatesResponse(
            revision=9, delta=pb.Delta(states=[common_pb2.State(revision=9)], kit_counts=[counts])
        )
    )
    assert isinstance(delta, Delta)
    assert [each.revision for each in delta.states] == [9]
    assert delta.kit_statuses == {4: "RUNNING"}
    assert delta.kit_counts == {4: Counts(running=1, finished=2)}
    assert delta.kit_counts[4].total == 3
    assert event_of(pb.WatchStatesResponse(revision=1, synced=pb.Synced())) == Synced(revision=1)
    assert event_of(pb.WatchStatesResponse(revision=2, bookmark=pb.Bookmark())) == Bookmark(
        revision=2
    )
    assert event_of(pb.WatchStatesResponse(revision=3, end=pb.End())) is None
    snapshot = event_of(
        pb.WatchStatesResponse(revision=5, snapshot=pb.Snapshot(kits=[pb.Kit(kit_id=1)]))
    )
    assert isinstance(snapshot, Snapshot)
    assert snapshot.kits[0].kit_id == 1
