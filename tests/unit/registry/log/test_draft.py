from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    ExistsError,
    InvalidError,
    NotFoundError,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import Head, Job, Kit, Status, Verdict
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.changes import Recorded
from vistaflow_services.registry.log.draft import PIECE_JOBS, Draft, piece_jobs

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCEPTED, DUPLICATE, REJECTED, STALE = Verdict


class Log:
    """A board on which each command is committed by itself."""

    def __init__(self) -> None:
        self.board = Board()
        self.head = Head(
            last_id=0, last_kit_id=0, epoch=uuid.uuid4(), commit_id=uuid.uuid4(), oldest_id=1
        )
        self.seqs: dict[tuple[uuid.UUID, int, int], Recorded] = {}
        self.rows = []
        self.unfinished: dict[uuid.UUID, c.Change] = {}

    def do(self, command: c.Command):
        draft = Draft(self.board, self.head, self.seqs, self.unfinished)
        answer = draft.apply(command)
        draft.settle(NOW)
        self.board.adopt(draft)
        for row in draft.rows:
            if row.seq:
                content = row.task_name, row.status, row.reason, row.metadata_json
                self.seqs[row.job_id, row.attempt, row.seq] = Recorded(
                    row.revision, frozenset({content})
                )
        self.rows += draft.rows
        self.head = Head(
            last_id=draft.last_id,
            last_kit_id=draft.last_kit_id,
            epoch=self.head.epoch,
            commit_id=uuid.uuid4(),
            oldest_id=1,
        )
        return answer

    def kit(self, *jobs: c.NewJob) -> Kit:
        return self.do(c.CreateKit(name="kit", jobs=jobs)).kit

    def job(self, job_id: uuid.UUID) -> Job:
        kit = self.board.kit(self.board.kit_of(job_id) or 0)
        assert kit is not None
        return kit.jobs[job_id]

    def append(self, job_id: uuid.UUID, *steps: str, **fields) -> list[c.Result]:
        items = tuple(c.Item(job_id=job_id, status=status, **fields) for status in steps)
        return list(self.do(c.Append(items=items)).results)

    def verdict(self, job_id: uuid.UUID, status: str, **fields) -> Verdict:
        return self.append(job_id, status, **fields)[0].verdict

    def story(self) -> list[tuple[str, str]]:
        """Names and statuses of the rows, in order."""
        return [(self.job(row.job_id).name + row.task_name, row.status) for row in self.rows]


def new(
    name: str,
    *needs: str,
    external: bool = False,
    max_attempts: int = 3,
    current_order: int = 0,
) -> c.NewJob:
    return c.NewJob(
        job_id=uuid.uuid4(),
        name=name,
        job_type="DOE",
        current_order=current_order,
        depends_on=needs,
        external=external,
        max_attempts=max_attempts,
    )


@pytest.fixture
def log() -> Log:
    return Log()


def brought_to(log: Log, status: str, external: bool) -> uuid.UUID:
    """The id of a job in this status."""
    first, job = new("first", external=True), new("job", external=external)
    if status == Status.INIT:
        job = new("job", "first", external=external)
    log.kit(first, job)
    if status in (Status.INIT, Status.QUEUED):
        return job.job_id
    if status == Status.CANCELED:
        log.do(c.CancelJob(job_id=job.job_id))
        return job.job_id
    if external:
        log.append(job.job_id, Status.RUNNING)
    else:
        log.do(c.Grant(job_id=job.job_id, worker="w", lease_seconds=5))
    if status != Status.RUNNING:
        log.append(job.job_id, status, attempt=1)
    return job.job_id


ALLOWED_EXTERNAL = {
    (Status.INIT, Status.CANCELED),
    (Status.QUEUED, Status.RUNNING),
    (Status.QUEUED, Status.CANCELED),
    (Status.RUNNING, Status.FINISHED),
    (Status.RUNNING, Status.FAILED),
    (Status.RUNNING, Status.CANCELED),
    (Status.RUNNING, Status.QUEUED),
}
ALLOWED_LEASED = {
    (Status.RUNNING, Status.FINISHED),
    (Status.RUNNING, Status.FAILED),
    (Status.RUNNING, Status.CANCELED),
}


@pytest.mark.parametrize("external", [True, False], ids=["external", "leased"])
@pytest.mark.parametrize("after", Status)
@pytest.mark.parametrize("before", Status)
def test_an_append_moves_a_job_only_as_the_table_says(
    log: Log, before: Status, after: Status, external: bool
) -> None:
    job_id = brought_to(log, before, external)
    head = log.head.last_id

    (result,) = log.append(job_id, after, attempt=log.job(job_id).attempt * (not external))

    if (before, after) in (ALLOWED_EXTERNAL if external else ALLOWED_LEASED):
        assert (result.verdict, log.job(job_id).status) == (ACCEPTED, after)
    else:
        assert (result.verdict, result.revision, log.job(job_id).status) == (REJECTED, 0, before)
        assert f"from {before} to {after}; allowed: " in result.detail
        assert log.head.last_id == head


def test_a_rejection_says_what_is_allowed(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    (result,) = log.append(job_id, Status.INIT)
    assert result.detail == (
        "job cannot go from RUNNING to INIT; allowed: QUEUED, FINISHED, FAILED, CANCELED"
    )


def test_a_task_moves_only_while_its_job_runs(log: Log) -> None:
    job_id = brought_to(log, Status.QUEUED, True)
    assert log.verdict(job_id, Status.RUNNING, task_name="t") is REJECTED
    log.append(job_id, Status.RUNNING)
    steps = [Status.QUEUED, Status.RUNNING, Status.RUNNING, Status.FINISHED, Status.RUNNING]
    verdicts = [result.verdict for result in log.append(job_id, *steps, task_name="t")]
    assert verdicts == [ACCEPTED, ACCEPTED, ACCEPTED, ACCEPTED, REJECTED]


def test_a_repeated_seq_is_a_duplicate_with_the_first_revision(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    first, again = log.append(job_id, Status.RUNNING, Status.RUNNING, task_name="t", seq=7)
    (later,) = log.append(job_id, Status.RUNNING, task_name="t", seq=7)
    assert (first.verdict, again.verdict, later.verdict) == (ACCEPTED, DUPLICATE, DUPLICATE)
    assert first.revision == again.revision == later.revision


@pytest.mark.parametrize(
    "other",
    [{"task_name": "u"}, {"reason": "why"}, {"metadata_json": '{"n":1}'}],
    ids=lambda other: next(iter(other)),
)
def test_another_row_under_a_seq_that_is_taken_is_refused_and_names_the_first(
    log: Log, other: dict[str, str]
) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    row = {"status": Status.RUNNING, "task_name": "t", "seq": 7}
    items = tuple(c.Item(job_id=job_id, **fields) for fields in (row, row | other))
    together = log.do(c.Append(items=items)).results
    head = log.head.last_id
    (later,) = log.do(c.Append(items=items[1:])).results
    for result in (together[1], later):
        assert (result.verdict, result.revision, result.reason) == (REJECTED, 0, "SEQ_REUSED")
        assert result.detail == (
            f"seq 7 of attempt 1 belongs to another row, recorded at revision {head}; "
            "use a different seq for each row"
        )
    assert log.head.last_id == head


def test_another_status_under_a_seq_that_is_taken_is_refused(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    first, other = log.append(job_id, Status.RUNNING, Status.FINISHED, task_name="t", seq=7)
    assert (first.verdict, other.verdict, other.reason) == (ACCEPTED, REJECTED, "SEQ_REUSED")


def test_a_seq_that_was_skipped_may_come_late(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    assert log.verdict(job_id, Status.RUNNING, task_name="t", seq=7) is ACCEPTED
    assert log.verdict(job_id, Status.RUNNING, task_name="t", seq=3) is ACCEPTED
    assert log.verdict(job_id, Status.RUNNING, task_name="t", seq=7) is DUPLICATE


def test_a_lost_attempt_is_stale_whatever_it_says(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, False)
    log.do(c.Lose(job_id=job_id, attempt=1, worker="w"))
    assert log.verdict(job_id, Status.FINISHED, attempt=1) is STALE
    log.do(c.Grant(job_id=job_id, worker="v", lease_seconds=5))
    assert log.verdict(job_id, Status.FINISHED, attempt=1) is STALE
    assert log.verdict(job_id, Status.RUNNING, attempt=1, task_name="t") is STALE
    assert log.verdict(job_id, Status.FINISHED) is STALE
    assert log.verdict(job_id, Status.FINISHED, attempt=2) is ACCEPTED


def test_rows_of_unknown_jobs_and_of_other_kits_are_rejected(log: Log) -> None:
    job_id = brought_to(log, Status.QUEUED, True)
    assert log.verdict(uuid.uuid4(), Status.RUNNING) is REJECTED
    assert log.verdict(job_id, Status.RUNNING, kit_id=9) is REJECTED
    assert log.verdict(job_id, Status.RUNNING, job_type="QUERY") is REJECTED


def test_the_last_dependency_to_finish_queues_the_job_in_the_same_append(log: Log) -> None:
    a, b = new("a", external=True), new("b", external=True)
    log.kit(a, b, new("c", "a", "b"), new("d", "c"))
    log.append(a.job_id, Status.RUNNING, Status.FINISHED)
    log.rows.clear()
    log.append(b.job_id, Status.RUNNING, Status.FINISHED)
    assert log.story() == [("b", "RUNNING"), ("b", "FINISHED"), ("c", "QUEUED")]
    assert len({row.batch for row in log.rows}) == 1
    assert [row.kit_counts for row in log.rows] == [
        (2, 0, 1, 1, 0, 0),
        (2, 0, 0, 2, 0, 0),
        (1, 1, 0, 2, 0, 0),
    ]


def test_a_failure_is_named_by_all_that_waits_for_it(log: Log) -> None:
    a = new("a", external=True)
    kit = log.kit(a, new("b", "a"), new("c", "b"), new("d"))
    log.append(a.job_id, Status.RUNNING)
    log.append(a.job_id, Status.FAILED, reason="no licence")
    reasons = {job.name: job.reason for job in log.board.kit(kit.kit_id).jobs.values()}
    cause = "waits for a, which is FAILED: no licence"
    assert reasons == {"a": "no licence", "b": cause, "c": cause, "d": ""}

    log.do(c.RetryJob(job_id=a.job_id))
    assert [job.reason for job in log.board.kit(kit.kit_id).jobs.values()][1:3] == ["", ""]


def test_attempts_are_used_up_by_faults_and_not_by_workers_that_leave(log: Log) -> None:
    job = new("job", max_attempts=2)
    log.kit(job)
    for number, counts in enumerate([False, True, False, True], start=1):
        granted = log.do(c.Grant(job_id=job.job_id, worker="w", lease_seconds=5))
        assert granted.job.attempt == number
        log.do(c.Release(job_id=job.job_id, attempt=number, worker="w", counts=counts))
    assert log.job(job.job_id).status == Status.FAILED
    assert "all 2 attempts are used up" in log.job(job.job_id).reason

    log.do(c.RetryKit(kit_id=1))
    assert (log.job(job.job_id).status, log.job(job.job_id).failures) == (Status.QUEUED, 0)


def test_only_the_worker_that_holds_an_attempt_gives_it_back(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, False)
    holder = log.job(job_id).worker
    log.rows.clear()

    assert not log.do(c.Release(job_id=job_id, attempt=1, worker="another", counts=True))
    assert log.rows == []
    assert (log.job(job_id).status, log.job(job_id).worker) == (Status.RUNNING, holder)
    assert log.do(c.Release(job_id=job_id, attempt=1, worker=holder))
    assert log.job(job_id).status == Status.QUEUED


def test_a_job_without_an_order_comes_last_even_after_the_largest_order(log: Log) -> None:
    largest = 2**31 - 1
    kit = log.kit(new("first"), new("last", current_order=largest))
    log.do(c.CreateJob(kit_id=kit.kit_id, job=new("added")))
    jobs = log.board.kit(kit.kit_id).ordered_jobs()
    assert [(job.name, job.current_order) for job in jobs] == [
        ("first", 1),
        ("last", largest),
        ("added", largest),
    ]


def test_a_lost_attempt_leaves_a_row_and_a_new_one_starts_without_its_tasks(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, False)
    log.append(job_id, Status.RUNNING, task_name="/t", attempt=1)
    log.rows.clear()
    assert log.do(c.Lose(job_id=job_id, attempt=1, worker="w"))
    assert not log.do(c.Lose(job_id=job_id, attempt=1, worker="w"))
    assert log.story() == [("jobattempt-1", "FAILED"), ("job", "QUEUED")]
    granted = log.do(c.Grant(job_id=job_id, worker="v", lease_seconds=5))
    assert (granted.job.attempt, granted.job.tasks) == (2, {})


def test_only_a_queued_leased_job_is_granted_and_only_once(log: Log) -> None:
    job, external = new("job"), new("external", external=True)
    log.kit(job, external, new("waits", "job"))
    waits = next(each for each in log.board.kit(1).jobs.values() if each.name == "waits")
    assert log.do(c.Grant(job_id=external.job_id, worker="w", lease_seconds=5)) is None
    assert log.do(c.Grant(job_id=waits.job_id, worker="w", lease_seconds=5)) is None
    assert log.do(c.Grant(job_id=uuid.uuid4(), worker="w", lease_seconds=5)) is None
    assert log.do(c.Grant(job_id=job.job_id, worker="w", lease_seconds=5)) is not None
    assert log.do(c.Grant(job_id=job.job_id, worker="v", lease_seconds=5)) is None
    log.append(job.job_id, Status.FINISHED, attempt=1, result_json='{"x": 1}')
    granted = log.do(c.Grant(job_id=waits.job_id, worker="w", lease_seconds=5))
    assert [each.result_json for each in granted.inputs] == ['{"x": 1}']


def test_a_canceled_kit_goes_on_from_where_it_was(log: Log) -> None:
    a, b = new("a", external=True), new("b", "a")
    log.kit(a, b, new("c", "b"))
    log.append(a.job_id, Status.RUNNING, Status.FINISHED)
    assert log.do(c.CancelKit(kit_id=1)).count == 2
    with pytest.raises(ConflictError, match="it is over"):
        log.do(c.CancelKit(kit_id=1))
    change = log.do(c.RetryKit(kit_id=1))
    assert [job.status for job in change.kit.ordered_jobs()] == ["FINISHED", "QUEUED", "INIT"]
    with pytest.raises(ConflictError, match="FAILED or CANCELED"):
        log.do(c.RetryKit(kit_id=1))


def finished(log: Log, *names: str) -> None:
    """Brings jobs, whose names are ours to choose, to FINISHED."""
    for name in names:
        job = log.board.kit(1).job_named(name)
        log.do(c.Grant(job_id=job.job_id, worker="w", lease_seconds=9))
        log.append(job.job_id, "FINISHED", attempt=1)


def statuses(log: Log) -> dict[str, str]:
    return {job.name: str(job.status) for job in log.board.kit(1).ordered_jobs()}


def test_a_replaced_job_has_a_successor_for_which_retried_jobs_wait(log: Log) -> None:
    log.kit(new("a"), new("b", "a"), new("c", "b"))
    finished(log, "a")
    (first,) = [job for job in log.board.kit(1).jobs.values() if job.name == "a"]
    failing = log.board.kit(1).job_named("b")
    log.do(c.Grant(job_id=failing.job_id, worker="w", lease_seconds=9))
    log.append(failing.job_id, "FAILED", attempt=1)
    other = c.Replacement(name="a", spec_type="t/x", spec=b"other")
    change = log.do(c.RetryKit(kit_id=1, replacements=(other,), reason="corrected", actor="ann"))
    assert statuses(log) == {"a": "FINISHED", "a@2": "QUEUED", "b": "INIT", "c": "INIT"}
    successor = log.board.kit(1).job_named("a")
    assert (successor.spec, successor.current_order, first.spec) == (b"other", 1, b"")
    assert [(row.reason, row.actor, row.metadata) for row in log.rows[-2:]] == [
        ("corrected", "ann", {"event": "REPLACES", "job_id": str(first.job_id)}),
        ("corrected", "ann", {"event": "RETRIED"}),
    ]
    finished(log, "a")
    assert (change.count, statuses(log)["b"]) == (2, "QUEUED")
    granted = log.do(c.Grant(job_id=failing.job_id, worker="w", lease_seconds=9))
    assert [(each.name, each.job_id) for each in granted.inputs] == [("a", successor.job_id)]


def test_what_is_finished_and_depends_on_a_replaced_job_is_done_again(log: Log) -> None:
    log.kit(new("a"), new("b", "a"), new("c", "a", "b"), new("d"))
    finished(log, "a", "b", "c", "d")
    replacement = (c.Replacement(name="a"),)
    log.do(c.RetryKit(kit_id=1, replacements=replacement))
    finished(log, "a", "b", "c")
    log.do(c.RetryKit(kit_id=1, replacements=replacement))
    assert statuses(log) == {
        **{name: "FINISHED" for name in ("a", "a@2", "b", "b@2", "c", "c@2", "d")},
        **{"a@3": "QUEUED", "b@3": "INIT", "c@3": "INIT"},
    }
    assert log.board.kit(1).status == Status.RUNNING
    finished(log, "a", "b", "c")
    assert log.board.kit(1).status == Status.FINISHED


def test_a_job_is_replaced_only_when_it_and_what_depends_on_it_stand_still(log: Log) -> None:
    log.kit(new("a"), new("b", "a"))
    replacement = (c.Replacement(name="a"),)
    with pytest.raises(ConflictError, match="'a' is QUEUED; only a FINISHED job can be replaced"):
        log.do(c.RetryKit(kit_id=1, replacements=replacement))
    finished(log, "a")
    with pytest.raises(ConflictError, match="'b' is QUEUED and depends on a job to be replaced"):
        log.do(c.RetryKit(kit_id=1, replacements=replacement))
    with pytest.raises(InvalidError, match="the kit has no job named 'x'"):
        log.do(c.RetryKit(kit_id=1, replacements=(c.Replacement(name="x"),)))
    assert statuses(log) == {"a": "FINISHED", "b": "QUEUED"}


def test_a_refused_command_changes_nothing(log: Log) -> None:
    log.kit(new("a"))
    head = log.head.last_id
    for command, error in [
        (c.CreateJob(kit_id=1, job=new("a")), ExistsError),
        (c.CreateJob(kit_id=9, job=new("b")), NotFoundError),
        (c.CreateJob(kit_id=1, job=new("b", "x")), InvalidError),
        (c.CancelKit(kit_id=9), NotFoundError),
        (c.RetryJob(job_id=uuid.uuid4()), NotFoundError),
    ]:
        with pytest.raises(error):
            log.do(command)
    assert (log.head.last_id, len(log.board.kit(1).jobs)) == (head, 1)


def test_a_draft_leaves_the_board_as_it_was(log: Log) -> None:
    job_id = brought_to(log, Status.RUNNING, True)
    draft = Draft(log.board, log.head, {})
    draft.apply(c.Append(items=(c.Item(job_id=job_id, status="FINISHED", task_name="t"),)))
    draft.apply(c.Append(items=(c.Item(job_id=job_id, status="FINISHED"),)))
    assert (log.job(job_id).status, log.job(job_id).tasks) == (Status.RUNNING, {})
    assert log.board.kit(1).counts == (0, 1, 1, 0, 0, 0)


def test_the_board_forgets_what_was_touched_longest_ago() -> None:
    log = Log()
    log.board = Board(max_weight=6)
    for _ in range(5):
        log.kit(new("a", external=True), new("b"))
        log.board.trim()
    assert [kit_id for kit_id in range(1, 6) if log.board.kit(kit_id)] == [3, 4, 5]


def many(log: Log, number: int) -> Kit:
    return log.kit(*(new(f"j{place}") for place in range(number)))


def test_a_change_of_more_jobs_than_a_commit_takes_is_made_in_pieces() -> None:
    log = Log()
    kit = many(log, PIECE_JOBS * 2 + 1)
    request = c.Request(
        request_id=uuid.uuid4(),
        method="CancelKit",
        body_sha256="",
        data_json="{}",
        encode=lambda answer: b"",
    )
    sizes = []
    before = len(log.rows)
    answer = log.do(c.CancelKit(kit_id=kit.kit_id, request=request))
    while isinstance(answer, c.Unfinished):
        sizes.append(len(log.rows) - before)
        before = len(log.rows)
        log.unfinished = {answer.change.change_id: answer.change}
        answer = log.do(c.GoOn(request=request))
    sizes.append(len(log.rows) - before)
    assert sizes == [PIECE_JOBS, PIECE_JOBS, 1]
    assert (answer.count, answer.revision) == (len(kit.jobs), log.head.last_id)
    assert all(job.status == "CANCELED" for job in answer.kit.jobs.values())


@pytest.mark.parametrize(
    ("reason", "jobs"),
    [("", PIECE_JOBS), ("why", PIECE_JOBS), ("x" * 8192, 128), ("\U0001f600" * 4096, 64)],
)
def test_a_piece_holds_fewer_jobs_the_longer_the_reason_is(reason: str, jobs: int) -> None:
    assert piece_jobs(reason) == jobs


def test_a_job_that_moved_before_its_turn_is_left_alone_and_not_counted() -> None:
    log = Log()
    kit = many(log, PIECE_JOBS + 2)
    jobs = kit.ordered_jobs()
    answer = log.do(c.CancelKit(kit_id=kit.kit_id, reason="over"))
    assert isinstance(answer, c.Unfinished)
    change = answer.change
    log.do(c.CancelJob(job_id=jobs[-1].job_id, reason="before its turn"))
    log.unfinished = {change.change_id: change}
    request = replace(change.request, request_id=change.change_id)
    answer = log.do(c.GoOn(request=request))
    assert answer.count == PIECE_JOBS + 1
    assert log.job(jobs[-1].job_id).reason == "before its turn"
    assert log.job(jobs[-2].job_id).reason == "over"


def test_a_job_made_after_a_change_began_is_not_changed_by_it() -> None:
    log = Log()
    kit = many(log, PIECE_JOBS + 1)
    answer = log.do(c.CancelKit(kit_id=kit.kit_id))
    log.unfinished = {answer.change.change_id: answer.change}
    later = log.do(c.CreateJob(kit_id=kit.kit_id, job=new("later"))).job
    request = replace(answer.change.request, request_id=answer.change.change_id)
    assert log.do(c.GoOn(request=request)).count == PIECE_JOBS + 1
    assert log.job(later.job_id).status == "QUEUED"


def test_the_jobs_of_a_kit_depend_on_a_bounded_number_of_others_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vistaflow_services.registry.log.draft.MAX_NEEDS_A_KIT", 3)
    log = Log()
    kit = log.kit(new("a"), new("b"), new("c", "a", "b"))
    log.do(c.CreateJob(kit_id=kit.kit_id, job=new("d", "a")))
    with pytest.raises(ExhaustedError, match="3 exist already"):
        log.do(c.CreateJob(kit_id=kit.kit_id, job=new("e", "a")))
