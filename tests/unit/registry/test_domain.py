"""What a kit, a job and a filter are: the rules that everything else stands on."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistaflow_services.registry.domain import (
    APPENDABLE_EXTERNAL,
    APPENDABLE_LEASED,
    NO_COUNTS,
    PENDING,
    PROGRESS_TASK,
    PROJECT_LABEL,
    RETRYABLE,
    TASK_TRANSITIONS,
    TERMINAL,
    TRANSITIONS,
    Counts,
    Job,
    Kit,
    StateFilter,
    StateRow,
    Status,
    count,
    edition,
    find_cycle,
    first_name,
    has_labels,
    kit_row_id,
    kit_status,
    moved,
    same,
)

INIT, QUEUED, RUNNING, FINISHED, FAILED, CANCELED = Status
NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB_ID = uuid.UUID(int=7)


def row(**fields) -> StateRow:
    told = {
        "revision": 5,
        "batch": 5,
        "kit_id": 1,
        "job_id": JOB_ID,
        "job_type": "DOE",
        "task_name": "t",
        "status": RUNNING,
        "current_order": 1,
        "attempt": 1,
        "seq": 0,
        "created_at": NOW,
    }
    return StateRow(**(told | fields))


def job(name: str = "doe", **fields) -> Job:
    told = {"job_id": JOB_ID, "kit_id": 1, "job_type": "DOE", "current_order": 1}
    return Job(name=name, **(told | fields))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], INIT),
        ([INIT], INIT),
        ([INIT, QUEUED], QUEUED),
        ([INIT, QUEUED, RUNNING], RUNNING),
        ([FINISHED], FINISHED),
        # What is finished has left the queue, but not all is done.
        ([FINISHED, INIT], RUNNING),
        ([FINISHED, QUEUED], RUNNING),
        ([CANCELED], CANCELED),
        ([CANCELED, FINISHED, RUNNING, QUEUED, INIT], CANCELED),
        ([FAILED], FAILED),
        ([FAILED, CANCELED], FAILED),
        ([CANCELED, FAILED], FAILED),
        ([FAILED, FINISHED, RUNNING, QUEUED, INIT], FAILED),
    ],
)
def test_the_status_of_a_kit_follows_from_its_jobs(
    statuses: list[Status], expected: Status
) -> None:
    assert kit_status(count(statuses)) is expected


def test_a_failure_comes_before_a_cancel_however_many_jobs_are_either() -> None:
    for failed, canceled in itertools.product((0, 1, 9), repeat=2):
        expected = FAILED if failed else CANCELED if canceled else FINISHED
        assert kit_status((0, 0, 0, 1, failed, canceled)) is expected


@given(st.lists(st.sampled_from(list(Status))), st.sampled_from(list(Status)))
def test_counts_that_follow_moves_are_those_counted_anew(statuses, after) -> None:
    counts: Counts = NO_COUNTS
    for status in statuses:
        counts = moved(counts, None, status)
    assert counts == count(statuses)
    if statuses:
        assert moved(counts, statuses[0], after) == count([*statuses[1:], after])


def test_finished_is_the_end_and_only_a_retry_leaves_failed_or_canceled() -> None:
    assert TRANSITIONS[FINISHED] == frozenset()
    for status in RETRYABLE:
        assert TRANSITIONS[status] == {QUEUED, INIT}
    for table in (APPENDABLE_EXTERNAL, APPENDABLE_LEASED, TASK_TRANSITIONS):
        for status in TERMINAL:
            assert table[status] == frozenset()


def test_nothing_is_appended_that_a_job_may_not_do() -> None:
    for table in (APPENDABLE_EXTERNAL, APPENDABLE_LEASED):
        for status in Status:
            assert table[status] <= TRANSITIONS[status]
    assert {
        status: TERMINAL if status == RUNNING else frozenset() for status in Status
    } == APPENDABLE_LEASED


def test_a_task_never_goes_back_to_init_and_may_tell_its_progress() -> None:
    assert all(INIT not in allowed for allowed in TASK_TRANSITIONS.values())
    assert RUNNING in TASK_TRANSITIONS[RUNNING]
    assert QUEUED not in TASK_TRANSITIONS[QUEUED]


def test_the_sample_of_a_leased_jobs_progress_is_no_work() -> None:
    tasks = {name: row(task_name=name) for name in ("t", PROGRESS_TASK)}
    assert job(tasks=tasks).task_counts() == count([RUNNING])
    assert job(tasks=tasks, external=True).task_counts() == count([RUNNING, RUNNING])


def test_a_copy_does_not_show_in_what_it_is_of() -> None:
    old = job(tasks={"t": row()}, labels={"a": "b"})
    new = old.copy()
    new.tasks["u"] = row(task_name="u")
    new.status = FAILED
    assert (list(old.tasks), old.status) == (["t"], INIT)
    kit = Kit(kit_id=1, name="k", jobs={JOB_ID: old})
    copied = kit.copy()
    copied.jobs[JOB_ID].status = CANCELED
    copied.jobs[uuid.UUID(int=8)] = new
    assert (list(kit.jobs), old.status) == ([JOB_ID], INIT)
    assert same(old, status=QUEUED) == job(tasks=old.tasks, labels={"a": "b"}, status=QUEUED)


def test_a_job_differs_by_more_than_its_tasks_and_progress() -> None:
    old = job()
    new = old.copy()
    new.tasks["t"] = row()
    assert not new.differs(old)
    new.worker = "w"
    assert new.differs(old)


def test_the_time_of_the_commit_stands_where_it_was_pending_and_nowhere_else() -> None:
    earlier = NOW - timedelta(days=1)
    waiting = job(created_at=PENDING, started_at=PENDING, finished_at=None)
    done = job(created_at=earlier, started_at=earlier, finished_at=PENDING)
    kit = Kit(kit_id=1, name="k", created_at=earlier)
    kit.jobs = {JOB_ID: waiting, uuid.UUID(int=8): done}
    kit.settle(NOW)
    assert (kit.created_at, kit.updated_at) == (earlier, NOW)
    assert (waiting.created_at, waiting.started_at, waiting.finished_at) == (NOW, NOW, None)
    assert (done.created_at, done.started_at, done.finished_at) == (earlier, earlier, NOW)


def test_jobs_are_in_the_order_of_their_places_then_as_they_were_made() -> None:
    made = [(2, 10), (1, 12), (1, 11)]
    kit = Kit(kit_id=1, name="k")
    for number, (order, revision) in enumerate(made):
        each = job(f"j{number}", current_order=order, first_revision=revision)
        kit.jobs[uuid.UUID(int=number)] = each
    assert [each.name for each in kit.ordered_jobs()] == ["j2", "j1", "j0"]


def test_a_successor_stands_for_the_job_whose_place_it_took() -> None:
    kit = Kit(kit_id=1, name="k")
    for number, name in enumerate(["train", "train@2", "train@10", "test"]):
        kit.jobs[uuid.UUID(int=number)] = job(name)
    assert [first_name(each) for each in ("train", "train@10")] == ["train", "train"]
    assert [edition(each) for each in ("train", "train@10")] == [1, 10]
    latest = kit.job_named("train")
    assert latest is not None
    assert latest.name == "train@10"
    assert kit.job_named("train@2") is None
    assert {name: each.name for name, each in kit.current_jobs().items()} == {
        "train": "train@10",
        "test": "test",
    }


@pytest.mark.parametrize(
    ("fields", "restricts_kits", "restricts_rows", "wanted"),
    [
        ({}, False, False, True),
        ({"kit_ids": frozenset({1})}, False, False, True),
        ({"kit_ids": frozenset({2})}, False, False, False),
        ({"job_types": frozenset({"DOE"})}, False, True, True),
        ({"job_types": frozenset({"QUERY"})}, False, True, False),
        ({"statuses": frozenset({"RUNNING"})}, False, True, True),
        ({"statuses": frozenset({"FAILED"})}, False, True, False),
        ({"job_ids": frozenset({JOB_ID})}, False, True, True),
        ({"job_ids": frozenset({uuid.UUID(int=1)})}, False, True, False),
        ({"labels": (("a", "b"),)}, True, False, True),
        ({"labels": (("a", "c"),)}, True, False, False),
        ({"labels": (("a", "b"), ("x", "y"))}, True, False, False),
        ({"project": "p"}, True, False, True),
        ({"project": "q"}, True, False, False),
        # From a time on, and until before another.
        ({"recorded_after": NOW}, False, True, True),
        ({"recorded_after": NOW + timedelta(microseconds=1)}, False, True, False),
        ({"recorded_before": NOW}, False, True, False),
        ({"recorded_before": NOW + timedelta(microseconds=1)}, False, True, True),
    ],
)
def test_a_filter_wants_what_meets_all_it_names(
    fields: dict, restricts_kits: bool, restricts_rows: bool, wanted: bool
) -> None:
    made = StateFilter(**fields)
    assert made.matches(row(), {"a": "b", PROJECT_LABEL: "p"}) is wanted
    assert (made.of_kits, made.of_rows) == (restricts_kits, restricts_rows)
    assert bool(made) is bool(fields)


def test_labels_are_had_if_each_wanted_pair_is_there() -> None:
    assert has_labels({"a": "b", "c": "d"}, [("a", "b"), ("c", "d")])
    assert not has_labels({"a": "b"}, [("a", "")])
    assert has_labels({}, [])


def test_kits_have_row_ids_of_their_own() -> None:
    assert kit_row_id(7) == uuid.UUID(int=7)
    assert len({kit_row_id(number) for number in range(1, 100)}) == 99


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)))
def test_a_cycle_that_is_told_is_one_and_none_is_missed(graph) -> None:
    cycle = find_cycle(graph)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(other in graph[one] for one, other in itertools.pairwise(cycle))
        return
    left = dict(graph)
    while left:
        free = [name for name, needs in left.items() if not any(need in left for need in needs)]
        assert free
        for name in free:
            del left[name]
