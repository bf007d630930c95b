"""The ledger's rules of queueing, committing and giving up, on a journal in memory.

What it does on a real database is in tests/integration/registry/log/test_ledger.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from vistaflow_services.core.errors import (
    ExhaustedError,
    ExistsError,
    NotFoundError,
    UnavailableError,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import Head, StateRow, Verdict
from vistaflow_services.registry.log import ledger as module
from vistaflow_services.registry.log.journal import Answered, Outcome
from vistaflow_services.registry.log.ledger import Lane, Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryJournal:
    """A log in memory that does what a test tells it: waits, errs, loses its connection."""

    def __init__(self) -> None:
        self.head_row = Head(
            last_id=0, last_kit_id=0, epoch=uuid.uuid4(), commit_id=uuid.uuid4(), oldest_id=1
        )
        self.rows: list[StateRow] = []
        self.kept: dict[uuid.UUID, Answered] = {}
        self.connected = False
        self.writes = 0
        """Commits begun."""
        self.locks = 0
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.begun = asyncio.Event()
        self.before: list[Callable[[], None]] = []
        """What happens before each of the next commits; may raise."""
        self.after: list[Callable[[], None]] = []
        """What happens after each of the next commits, before their answers; may raise."""
        self.last_commit: uuid.UUID | None = None

    async def connect(self) -> Outcome:
        self.connected = True
        self.head_row = dataclasses.replace(self.head_row, commit_id=uuid.uuid4())
        return Outcome(head=self.head_row, commit_id=self.last_commit, committed_at=NOW)

    async def close(self) -> None:
        self.connected = False

    async def make_room(self, last_id: int) -> None:
        """There is room."""

    async def head(self) -> Head:
        return self.head_row

    async def lock(self) -> Head:
        self.locks += 1
        return self.head_row

    async def unlock(self) -> None:
        """Nothing is held."""

    async def rows_after(self, revision: int, limit: int = 5000) -> list[StateRow]:
        return [row for row in self.rows if row.revision > revision][:limit]

    async def kits(self, kit_ids: Any) -> dict[int, Any]:
        return {}

    async def kits_of(self, job_ids: Any) -> dict[uuid.UUID, int]:
        return {}

    async def recorded(self, wanted: Any) -> dict[Any, Any]:
        return {}

    async def changes(self, change_ids: Any) -> dict[Any, Any]:
        return {}

    async def answers(self, request_ids: Any) -> dict[uuid.UUID, Answered]:
        return {each: self.kept[each] for each in request_ids if each in self.kept}

    async def forget_requests(self, seconds: float, trail_seconds: float) -> None:
        """They are kept."""

    async def write(self, draft: Any, commit_id: uuid.UUID, answers: Any) -> datetime | None:
        self.writes += 1
        self.begun.set()
        await self.may_write.wait()
        if self.before:
            self.before.pop(0)()
        if draft.head.commit_id != self.head_row.commit_id:
            return None
        self.rows += draft.rows
        self.head_row = dataclasses.replace(
            self.head_row,
            last_id=draft.last_id,
            last_kit_id=draft.last_kit_id,
            commit_id=commit_id,
        )
        self.last_commit = commit_id
        for request, response in answers:
            if request.request_id is not None:
                self.kept[request.request_id] = Answered(
                    method=request.method,
                    body_sha256=request.body_sha256,
                    response=response,
                    created_at=NOW,
                )
        if self.after:
            self.after.pop(0)()
        return NOW

    def lose(self) -> None:
        """Loses the connection, in the middle of what it does."""
        self.connected = False
        raise psycopg.OperationalError("the connection is lost")

    def refuse(self, error: type[psycopg.Error]) -> Callable[[], None]:
        def raise_it() -> None:
            raise error("no")

        return raise_it

    def append_elsewhere(self) -> None:
        """Another replica appends a row to the first job."""
        revision = self.head_row.last_id + 1
        row = dataclasses.replace(self.rows[0], revision=revision, batch=revision, task_name="x")
        self.rows.append(row)
        self.head_row = dataclasses.replace(self.head_row, last_id=revision, commit_id=uuid.uuid4())


class Published:
    def __init__(self) -> None:
        self.revisions: list[int] = []

    def publish(self, rows: Any) -> None:
        self.revisions += [row.revision for row in rows]


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def ledger(journal: MemoryJournal, published: Published) -> AsyncIterator[Ledger]:
    made = Ledger(journal, published)  # type: ignore[arg-type]
    await made.start()
    yield made
    journal.may_write.set()
    await made.stop()


@pytest.fixture
async def job_id(ledger: Ledger) -> uuid.UUID:
    """An external job that is RUNNING, at revision 2."""
    job = c.NewJob(job_id=uuid.uuid4(), name="doe", job_type="DOE", current_order=0, external=True)
    await ledger.submit(c.CreateKit(name="kit", jobs=(job,)))
    await ledger.submit(c.Append(items=(c.Item(job_id=job.job_id, status="RUNNING"),)))
    return job.job_id


def row(job_id: uuid.UUID, name: str = "t", **fields: Any) -> c.Append:
    return c.Append(items=(c.Item(job_id=job_id, status="RUNNING", task_name=name),), **fields)


def request(request_id: uuid.UUID, body: str = "") -> c.Request:
    return c.Request(
        request_id=request_id,
        method="AppendStates",
        body_sha256=body,
        data_json="{}",
        encode=lambda answer: b"%d" % answer.revision,
    )


async def in_flight(ledger: Ledger, journal: MemoryJournal, command: c.Command) -> asyncio.Future:
    """A command whose commit does not end before `journal.may_write` is set."""
    journal.may_write.clear()
    journal.begun.clear()
    sent = ledger.queue(command, Lane())
    async with asyncio.timeout(60):
        await journal.begun.wait()
    return sent


async def test_commands_that_come_during_a_commit_share_the_next_one(
    ledger: Ledger, journal: MemoryJournal, published: Published, job_id: uuid.UUID
) -> None:
    first = await in_flight(ledger, journal, row(job_id, "first"))
    others = [ledger.queue(row(job_id, f"t{n}"), Lane()) for n in range(5)]
    assert ledger.waiting_count == 5
    commits = ledger.commits
    journal.may_write.set()
    assert (await first).revision == 3
    assert [(await each).revision for each in others] == [4, 5, 6, 7, 8]
    assert ledger.commits == commits + 2
    assert published.revisions == list(range(1, 9))


def open_calls(ledger: Ledger, job_id: uuid.UUID, count: int) -> list[asyncio.Task[Any]]:
    """Unary calls that are open at once."""
    return [asyncio.create_task(ledger.submit(row(job_id, f"t{n}"))) for n in range(count)]


async def turns() -> None:
    """Many turns of the event loop, after which all that waits for no time has happened."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def gathering(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> list[asyncio.Task[Any]]:
    """Two calls that wait, without an end, for a third one that was just answered."""
    monkeypatch.setattr(module, "GATHER_SECONDS", 3600.0)
    journal.may_write.clear()
    journal.begun.clear()
    (first,) = open_calls(ledger, job_id, 1)
    await asyncio.wait_for(journal.begun.wait(), 60)
    others = open_calls(ledger, job_id, 2)
    await turns()
    journal.may_write.set()
    await asyncio.wait_for(first, 60)
    await turns()
    assert (ledger.waiting_count, ledger.head) == (2, 3)
    return others


async def test_with_three_calls_open_a_commit_waits_for_all_of_them(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, gathering: list[asyncio.Task[Any]]
) -> None:
    begun = journal.writes
    third = ledger.submit(row(job_id, "again"))
    answers = await asyncio.wait_for(asyncio.gather(*gathering, third), 60)
    assert [answer.revision for answer in answers] == [4, 5, 6]
    assert journal.writes == begun + 1


async def test_what_a_stream_sends_ends_the_wait_for_calls(
    ledger: Ledger, job_id: uuid.UUID, gathering: list[asyncio.Task[Any]]
) -> None:
    sent = ledger.queue(row(job_id, "of a stream"), Lane())
    answers = await asyncio.wait_for(asyncio.gather(*gathering, sent), 60)
    assert [answer.revision for answer in answers] == [4, 5, 6]


async def test_a_large_command_ends_the_wait_for_calls(
    ledger: Ledger,
    job_id: uuid.UUID,
    gathering: list[asyncio.Task[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGE_ROWS", 3)
    large = ledger.submit(many_rows(job_id, "x"))
    answers = await asyncio.wait_for(asyncio.gather(*gathering, large), 60)
    assert [answer.revision for answer in answers] == [4, 5, 9]


async def test_a_ledger_that_stops_commits_or_refuses_the_calls_that_wait_for_others(
    ledger: Ledger, journal: MemoryJournal, gathering: list[asyncio.Task[Any]]
) -> None:
    journal.connected = False
    await ledger.stop()
    for outcome in await asyncio.gather(*gathering, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)


async def test_calls_wait_for_one_that_does_not_come_back_only_for_a_moment(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    journal.may_write.clear()
    journal.begun.clear()
    (first,) = open_calls(ledger, job_id, 1)
    await asyncio.wait_for(journal.begun.wait(), 60)
    others = open_calls(ledger, job_id, 2)
    await turns()
    journal.may_write.set()
    answers = await asyncio.wait_for(asyncio.gather(first, *others), 60)
    assert [answer.revision for answer in answers] == [3, 4, 5]


@pytest.mark.parametrize("callers", [1, 2])
async def test_one_or_two_callers_never_wait_for_a_larger_batch(
    ledger: Ledger, job_id: uuid.UUID, callers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 3600.0)

    async def call(name: str) -> None:
        for _ in range(20):
            await ledger.submit(row(job_id, name))

    await asyncio.wait_for(asyncio.gather(*(call(f"t{n}") for n in range(callers))), 60)
    assert ledger.head == 2 + 20 * callers


async def test_streams_never_wait_for_a_larger_batch(
    ledger: Ledger, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 3600.0)

    async def stream(name: str) -> None:
        lane = Lane()
        for _ in range(20):
            await ledger.queue(row(job_id, name), lane)

    await asyncio.wait_for(asyncio.gather(*(stream(f"t{n}") for n in range(8))), 60)
    assert ledger.head == 2 + 20 * 8


async def test_more_commands_than_may_wait_are_turned_away_and_the_others_are_committed(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    waiting = [ledger.queue(row(job_id, f"t{n}"), Lane()) for n in range(3)]
    for send in (lambda: ledger.queue(row(job_id), Lane()), lambda: ledger.submit(row(job_id))):
        with pytest.raises(ExhaustedError, match="too many requests are waiting"):
            await send()
    assert ledger.waiting_count == 3
    journal.may_write.set()
    assert [(await each).revision for each in (first, *waiting)] == [3, 4, 5, 6]
    assert (await ledger.submit(row(job_id))).revision == 7


async def test_a_commit_takes_about_so_many_rows_and_the_rest_the_next(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 4)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    sent = [ledger.queue(row(job_id, f"t{n}"), Lane()) for n in range(10)]
    begun = journal.writes
    journal.may_write.set()
    await asyncio.gather(first, *sent)
    assert journal.writes == begun + 3


async def test_a_commit_takes_about_so_many_bytes_and_the_rest_the_next(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    first = await in_flight(ledger, journal, row(job_id, "first"))
    # Four such rows are as much as the rows that one commit takes.
    large = '{"a":"%s"}' % ("x" * (module.MAX_ROWS * module.BYTES_A_ROW // 4))
    sent = [
        ledger.queue(
            c.Append(
                items=(
                    c.Item(job_id=job_id, status="RUNNING", task_name=f"t{n}", metadata_json=large),
                )
            ),
            Lane(),
        )
        for n in range(10)
    ]
    begun = journal.writes
    journal.may_write.set()
    await asyncio.gather(first, *sent)
    assert journal.writes == begun + 3


def many_rows(job_id: uuid.UUID, name: str, count: int = 4) -> c.Append:
    """One append of several rows."""
    return c.Append(
        items=tuple(
            c.Item(job_id=job_id, status="RUNNING", task_name=f"{name}{n}") for n in range(count)
        )
    )


async def test_what_is_queued_with_large_commands_waits_for_one_of_them_at_most(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_ROWS", 3)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    sent: list[asyncio.Future[Any]] = [ledger.queue(row(job_id, "small"), Lane())]
    sent += [ledger.queue(many_rows(job_id, name), Lane()) for name in "xyz"]
    sent.append(ledger.queue(row(job_id, "after"), Lane()))
    journal.before.append(lambda: sent.append(ledger.queue(row(job_id, "later"), Lane())))
    journal.before.append(lambda: sent.append(ledger.queue(row(job_id, "last"), Lane())))
    journal.may_write.set()
    await first
    while not all(each.done() for each in sent):
        await asyncio.gather(*sent)
    names = [each.task_name for each in journal.rows[3:]]
    singles = ["small", "after", "later", "last"]
    assert names[:2] == ["small", "after"]
    assert [name for name in names if name[0] in "xyz"] == [
        f"{name}{n}" for name in "xyz" for n in range(4)
    ]
    assert sorted(name for name in names if name in singles) == sorted(singles)
    # Between two small commands that wait there is one large one, not all three.
    assert names.index("last") <= names.index("z0")


async def test_the_commands_of_a_lane_are_in_order_though_one_is_large(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_ROWS", 3)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    lane = Lane()
    sent = [
        ledger.queue(command, lane)
        for command in (
            row(job_id, "a"),
            many_rows(job_id, "b"),
            row(job_id, "c"),
            many_rows(job_id, "d"),
            row(job_id, "e"),
        )
    ]
    journal.may_write.set()
    await asyncio.gather(first, *sent)
    assert [each.task_name for each in journal.rows[3:]] == [
        "a",
        *(f"b{n}" for n in range(4)),
        "c",
        *(f"d{n}" for n in range(4)),
        "e",
    ]
    assert lane.large_count == 0
    # Nothing large of it waits any more: it is among the others again.
    await ledger.queue(row(job_id, "f"), lane)
    assert ledger.waiting_count == 0


async def test_what_the_ledger_refuses_as_it_stops_includes_large_commands(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_ROWS", 3)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    large = ledger.queue(many_rows(job_id, "x"), Lane())
    assert ledger.waiting_count == 1
    journal.connected = False
    await ledger.stop()
    first.cancel()
    with pytest.raises(UnavailableError, match="stopping"):
        await large


async def test_commands_for_which_there_is_no_time_in_a_commit_are_the_next_ones_in_order(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAKE_SECONDS", -1.0)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    sent = [ledger.queue(row(job_id, f"t{n}"), Lane()) for n in range(5)]
    begun = journal.writes
    journal.may_write.set()
    answers = await asyncio.gather(first, *sent)
    assert [answer.revision for answer in answers] == [3, 4, 5, 6, 7, 8]
    assert journal.writes == begun + 5


async def test_a_large_commit_is_made_beside_the_event_loop_and_a_small_one_in_it(
    ledger: Ledger, job_id: uuid.UUID
) -> None:
    threads: list[int] = []

    def encode(answer: Any) -> bytes:
        threads.append(threading.get_ident())
        return b""

    for count in (1, module.LARGE_BATCH + 1):
        items = tuple(
            c.Item(job_id=job_id, status="RUNNING", task_name=f"t{n}") for n in range(count)
        )
        made = dataclasses.replace(request(uuid.uuid4()), encode=encode)
        await ledger.submit(c.Append(items=items, request=made))
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()


async def test_what_a_caller_takes_back_before_its_commit_does_not_happen(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    first = await in_flight(ledger, journal, row(job_id, "first"))
    gone, kept = (ledger.queue(row(job_id, name), Lane()) for name in ("gone", "kept"))
    gone.cancel()
    journal.may_write.set()
    await asyncio.gather(first, kept)
    assert [each.task_name for each in journal.rows[2:]] == ["first", "kept"]


async def test_who_waited_long_enough_is_told_that_the_outcome_is_unknown(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    first = await in_flight(ledger, journal, row(job_id, "first"))
    late = ledger.submit(row(job_id, "late"), seconds=0.01)
    with pytest.raises(UnavailableError, match="the outcome is unknown"):
        await asyncio.wait_for(late, 60)
    journal.may_write.set()
    await first
    assert (await ledger.submit(row(job_id, "next"))).revision == 4
    assert [each.task_name for each in journal.rows[2:]] == ["first", "next"]


async def test_a_batch_is_made_again_on_what_another_replica_wrote(
    ledger: Ledger, journal: MemoryJournal, published: Published, job_id: uuid.UUID
) -> None:
    journal.before.append(journal.append_elsewhere)
    # The kit is no longer held after what happened to it elsewhere: the journal has none.
    answer = await ledger.submit(row(job_id))
    assert (journal.locks, answer.results[0].verdict) == (1, Verdict.REJECTED)
    assert published.revisions == [1, 2, 3]
    assert ledger.head == 3


@pytest.mark.parametrize("happened", [True, False], ids=["committed", "not committed"])
async def test_what_became_of_a_commit_is_found_out_when_its_answer_is_lost(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, happened: bool
) -> None:
    (journal.after if happened else journal.before).append(journal.lose)
    answer = await ledger.submit(row(job_id))
    assert (answer.revision, answer.results[0].verdict) == (3, Verdict.ACCEPTED)
    assert [each.revision for each in journal.rows] == [1, 2, 3]


async def test_none_of_a_lane_is_committed_after_one_that_failed_and_others_are(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    lane = Lane()
    failing = await in_flight(ledger, journal, row(job_id, "failing"))
    failing_lane = ledger.queue(row(job_id, "of the lane"), lane)
    lane.broken = True
    other = ledger.queue(row(job_id, "other"), Lane())
    journal.may_write.set()
    await asyncio.gather(failing, other)
    with pytest.raises(UnavailableError, match="what came before it was not recorded"):
        await failing_lane
    assert [each.task_name for each in journal.rows[2:]] == ["failing", "other"]


async def test_a_commit_that_the_database_refuses_breaks_the_lanes_of_its_commands(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    lane = Lane()
    journal.before.append(journal.refuse(psycopg.errors.QueryCanceled))
    with pytest.raises(UnavailableError, match="cannot commit now"):
        await ledger.queue(row(job_id), lane)
    assert lane.broken
    with pytest.raises(UnavailableError, match="what came before it"):
        await ledger.queue(row(job_id), lane)
    assert [each.revision for each in journal.rows] == [1, 2]


async def test_a_full_disk_is_told_and_sheds_what_comes_next(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    journal.before.append(journal.refuse(psycopg.errors.DiskFull))
    with pytest.raises(ExhaustedError, match="the disk of the database is full"):
        await ledger.submit(row(job_id))
    begun = journal.writes
    with pytest.raises(ExhaustedError, match="the disk of the database is full"):
        await ledger.submit(row(job_id))
    assert (journal.writes, ledger.ready) == (begun, False)


async def test_a_commit_that_conflicts_is_tried_again_but_not_without_end(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    conflict = journal.refuse(psycopg.errors.SerializationFailure)
    journal.before += [conflict] * (module.TRIES - 1)
    assert (await ledger.submit(row(job_id))).revision == 3
    journal.before += [conflict] * module.TRIES
    begun = journal.writes
    with pytest.raises(UnavailableError):
        await ledger.submit(row(job_id))
    assert journal.writes == begun + module.TRIES


async def test_of_one_batch_the_command_with_a_bug_fails_alone(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    def fail(answer: Any) -> bytes:
        raise KeyError("a bug")

    buggy = dataclasses.replace(request(uuid.uuid4()), encode=fail)
    first = await in_flight(ledger, journal, row(job_id, "first"))
    one, bad, two = (
        ledger.queue(row(job_id, name, request=asked), Lane())
        for name, asked in (("one", None), ("bad", buggy), ("two", None))
    )
    journal.may_write.set()
    assert [(await each).revision for each in (first, one, two)] == [3, 4, 5]
    with pytest.raises(KeyError, match="a bug"):
        await bad


async def test_a_refusal_costs_no_commit_and_is_of_the_head_that_is(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    begun = journal.writes
    with pytest.raises(NotFoundError):
        await ledger.submit(c.PauseKit(kit_id=9))
    assert journal.writes == begun


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
async def test_a_request_is_done_once_and_answered_alike_and_another_body_is_refused(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID, together: bool
) -> None:
    request_id = uuid.uuid4()
    first = await in_flight(ledger, journal, row(job_id, "first"))

    def send(body: str) -> asyncio.Future:
        return ledger.queue(row(job_id, request=request(request_id, body)), Lane())

    done = send("a")
    if not together:
        journal.may_write.set()
        await asyncio.gather(first, done)
    again, other = send("a"), send("b")
    journal.may_write.set()
    assert (await done).revision == 4
    replayed = await again
    assert isinstance(replayed, c.Replayed)
    assert (replayed.response, replayed.created_at) == (b"4", NOW)
    with pytest.raises(ExistsError, match="was used for another AppendStates"):
        await other
    assert [each.revision for each in journal.rows] == [1, 2, 3, 4]


async def test_a_log_that_was_replaced_is_not_written_to(
    ledger: Ledger, journal: MemoryJournal, job_id: uuid.UUID
) -> None:
    def replace() -> None:
        journal.head_row = dataclasses.replace(journal.head_row, epoch=uuid.uuid4())
        journal.lose()

    journal.before.append(replace)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="the log was replaced under the registry"):
            await ledger.submit(row(job_id))
    assert not ledger.ready
    assert [each.revision for each in journal.rows] == [1, 2]


async def test_stopping_commits_what_waits_and_takes_nothing_more(
    journal: MemoryJournal, published: Published
) -> None:
    ledger = Ledger(journal, published)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="not started"):
        await ledger.submit(c.CreateKit(name="k"))
    await ledger.start()
    assert ledger.ready
    waiting = ledger.queue(c.CreateKit(name="k"), Lane())
    await ledger.stop()
    assert (await waiting).kit.kit_id == 1
    with pytest.raises(UnavailableError, match="not started"):
        await ledger.submit(c.CreateKit(name="k"))
    assert (journal.connected, ledger.ready) == (False, False)
