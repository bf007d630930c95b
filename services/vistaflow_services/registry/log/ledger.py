"""The one queue of everything that changes the log.

While one commit is in flight the next batch gathers. With three or more calls open it waits a
moment for those that are missing; one caller, two callers and streams never wait. A commit replaces
the head row if that is still the one the batch was made on. If another replica was first, nothing
was written, and the batch is made again on what that replica wrote, this time under the head row's
lock. If the connection is lost, the journal finds out whether the commit happened before anything
is tried again. So every command happens exactly once or, if its caller gave up, at most once. The
table of all outcomes is in `Ledger._commit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import psycopg

from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import (
    ExhaustedError,
    ServiceError,
    UnavailableError,
)
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.refusals import CONFLICTS, error_for, is_blocked
from vistaflow_services.registry.database.space import StorageGuard
from vistaflow_services.registry.domain import PENDING, Head, Kit, StateRow
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.changes import Seqs, content_of
from vistaflow_services.registry.log.draft import PIECE_JOBS, Draft
from vistaflow_services.registry.log.journal import Answered, Answers, Journal, Outcome

logger = logging.getLogger(__name__)

MAX_ROWS = 1000
"""About how many rows one commit takes."""

MAX_WAITING = 20_000
"""Commands that may wait; more are refused."""

LARGE_ROWS = 500
"""A command of more rows is large: it has a commit of its own, in turn with those of the others."""

BYTES_A_ROW = 2048
"""Bytes of metadata or specs that count as a row: one commit takes about 2 MiB."""

VALUES_A_ROW = 200
"""Values of metadata that count as a row, because the database reads many short numbers slowly."""

FEW_BYTES = 16 * 1024
"""Bytes of metadata up to which values are not counted."""

LARGE_BATCH = 200
"""A batch of more rows is made in a thread, outside the event loop."""

MAKE_SECONDS = 0.03
"""Seconds after which no further command is applied for this commit; the others wait."""

MANY_CALLS = 3
"""Calls that are open from which on a batch waits for the rest of them."""

GATHER_SECONDS = 0.002
"""The longest such wait. Many small commits cost more than it: of processor, here and there."""

TRIES = 3
"""Attempts at a batch that the database cannot serialize with other transactions."""

DEFAULT_WAIT = 30.0
"""Seconds that a command waits if its caller sets no time."""

TOO_LATE = (
    "the database did not answer in time; the outcome is unknown, "
    "repeat the request with the same request_id"
)

FULL = psycopg.errors.DiskFull
LOST = (psycopg.OperationalError, psycopg.InterfaceError, OSError)


class Meters(Protocol):
    """Counts what the ledger does."""

    def wrote(self, seconds: float, committed: bool) -> None:
        """A batch was written, or another replica was first."""

    def committed(self, rows: Sequence[StateRow], answers: Sequence[Any]) -> None:
        """A batch is on disk, with these answers to its commands."""

    def refused(self, commands: int) -> None:
        """The database refused a batch."""


class Publisher(Protocol):
    """Receives the rows of every commit."""

    def publish(self, rows: Sequence[StateRow]) -> None:
        """Takes in rows, contiguous and in order."""


class Lane:
    """Commands that happen in the order in which they were queued; none after one that failed."""

    __slots__ = ("broken", "large_count")

    def __init__(self) -> None:
        self.broken = False
        """Whether a command failed or its outcome is unknown: no later one is committed."""
        self.large_count = 0
        """Number of its commands in the queue of large ones; later commands wait behind them."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """A command and the caller who waits for its answer."""

    command: c.Command
    answer: asyncio.Future[Any]
    until: float
    """When its caller stops waiting, by the event loop's clock, in seconds."""
    size: int
    """About how many rows the command makes, or what is as much work."""
    lane: Lane | None = None


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A draft with the answer to each command, to be given once the draft is committed."""

    draft: Draft
    answers: Answers = field(default_factory=list)
    """Answers that are stored, for requests that come again."""
    results: list[tuple[_Waiting, Any]] = field(default_factory=list)
    """Commands in their order, each with its answer or the `ServiceError` that it failed with."""
    poison: tuple[_Waiting, Exception] | None = None
    """A command that met a bug, and what it raised."""

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        draft = self.draft
        return bool(
            draft.rows
            or draft.new_kits
            or self.answers
            or draft.changes_moved
            or draft.changes_over
            or draft.many_begun
        )


@dataclass(slots=True, kw_only=True)
class _Commit:
    """Commands that are being committed, and the state of the attempts so far."""

    waiting: list[_Waiting]
    locked: bool = False
    """Whether the next attempt locks the head, so that no other replica can be first."""
    failures: int = 0
    """Attempts that failed because of other transactions."""
    sent: tuple[uuid.UUID, _Batch] | None = None
    """Id and batch of the commit that was sent last, if its outcome may be unknown."""


class _Conflict(Exception):
    """Another replica moved the head."""


class _Poisoned(Exception):
    """A command met a bug and was removed; the others are to be attempted again."""


class Ledger:
    """Takes commands, commits them in groups, publishes the rows, answers.

    Args:
        journal: The connection to write on.
        hub: Receives the rows of every commit before its callers are answered.
        board: The kits in memory.
        request_seconds: How long the ids of requests are recognised, in seconds.
        trail_seconds: How long requests and their answers are stored, in seconds.
        guard: Knows whether there is room on the disk.
        meters: Counts the commits.
    """

    def __init__(
        self,
        journal: Journal,
        hub: Publisher,
        *,
        board: Board | None = None,
        request_seconds: float = 7 * 86400.0,
        trail_seconds: float = 365 * 86400.0,
        guard: StorageGuard | None = None,
        meters: Meters | None = None,
    ) -> None:
        self.board = board or Board()
        self._journal = journal
        self._hub = hub
        self._request_seconds = request_seconds
        self._trail_seconds = trail_seconds
        self._guard = guard or StorageGuard(None, 0)
        self._meters = meters
        self._queue: deque[_Waiting] = deque()
        # Large commands take turns with all others: so no other waits for more than one of them.
        self._large: deque[_Waiting] = deque()
        self._large_next = False
        self._taken_from = self._queue
        self._committing: list[_Waiting] = []
        self._open_count = 0
        """Calls of `submit` that have not returned, those among them that were just answered."""
        self._gathering: asyncio.Future[None] | None = None
        """Done once a batch need not wait for more calls; None while none waits."""
        self._expected_count = 0
        """Commands in the queue that end that wait."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._head: Head | None = None
        self._task: asyncio.Task[None] | None = None
        self._broken = ""
        self.commits = 0
        """Commits made, for measurements."""

    @property
    def head(self) -> int:
        """The last revision known to be committed."""
        return self._head.last_id if self._head else 0

    @property
    def epoch(self) -> str:
        """Names the log."""
        return str(self._head.epoch) if self._head else ""

    @property
    def ready(self) -> bool:
        """Whether commands can be committed now."""
        return (
            self._journal.connected
            and not self._broken
            and self._task is not None
            and not self._guard.full
        )

    @property
    def waiting_count(self) -> int:
        """Commands that wait to be committed."""
        return len(self._queue) + len(self._large)

    async def start(self) -> Head:
        """Connects, and accepts commands from now on."""
        self._head = (await self._journal.connect()).head
        self._task = asyncio.create_task(self._run(), name="ledger")
        return self._head

    async def stop(self) -> None:
        """Commits what is waiting, if the database is there, and ends."""
        if self._task is not None:
            if self.ready:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(3):
                        await self._idle.wait()
            await ended([self._task])
            self._task = None
        self._refuse_all("the registry is stopping")
        if self._timer is not None:
            self._timer.cancel()
        await self._journal.close()

    async def submit(self, command: c.Command, *, seconds: float | None = None) -> Any:
        """Commits a command and returns its answer, or `Replayed` for a repeated request.

        Args:
            command: What to do.
            seconds: How long to wait for the database.

        Raises:
            UnavailableError: The database did not answer in time. The command may still happen;
                a repeat with the same request_id is safe.
            ExistsError: The request_id was used with another body.
            ServiceError: As the command's rules say.
        """
        self._open_count += 1
        try:
            return await self._put(command, seconds, None)
        finally:
            self._open_count -= 1

    def queue(self, command: c.Command, lane: Lane) -> asyncio.Future[Any]:
        """Queues a command behind those of its lane, without waiting.

        Returns:
            A future of what `submit` returns. Cancel it to take the command out of the queue.

        Raises:
            ExhaustedError, UnavailableError: It was not queued.
        """
        return self._put(command, None, lane)

    def _put(
        self, command: c.Command, seconds: float | None, lane: Lane | None
    ) -> asyncio.Future[Any]:
        if self._broken or self._task is None:
            raise UnavailableError(self._broken or "the registry is not started")
        self._guard.check()
        if self.waiting_count >= MAX_WAITING:
            raise ExhaustedError("too many requests are waiting for the database; try again")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        until = loop.time() + (DEFAULT_WAIT if seconds is None else seconds)
        waiting = _Waiting(
            command=command, answer=answer, until=until, size=_size(command), lane=lane
        )
        if waiting.size > LARGE_ROWS or (lane is not None and lane.large_count):
            self._large.append(waiting)
            if lane is not None:
                lane.large_count += 1
        else:
            self._queue.append(waiting)
        if self._gathering is not None and (
            len(self._queue) >= self._expected_count or not _is_call(waiting)
        ):
            self._end_gathering()
        if self._timer is None or until < self._timer.when():
            self._give_up_at(until)
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()
        return answer

    def _give_up_at(self, when: float) -> None:
        """Sets the one timer of all waiting commands: most are answered long before their end."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._give_up)

    def _give_up(self) -> None:
        """Fails the commands whose time is over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        queued = (*self._committing, *self._queue, *self._large)
        open_ = [waiter for waiter in queued if not waiter.answer.done()]
        for waiter in open_:
            if waiter.until <= now:
                _fail(waiter, UnavailableError(TOO_LATE))
        later = [waiter.until for waiter in open_ if waiter.until > now]
        if later:
            self._give_up_at(min(later))

    async def _run(self) -> None:
        last_tidy = 0.0
        loop = asyncio.get_running_loop()
        while not self._broken:
            if not await self._woken():
                continue
            await self._gather()
            self._committing = batch = self._take()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            try:
                await self._commit(batch)
                if loop.time() - last_tidy > 60 and self._journal.connected:
                    last_tidy = loop.time()
                    await self._journal.forget_requests(self._request_seconds, self._trail_seconds)
            except Exception as error:
                logger.exception("a batch of %d commands failed", len(batch))
                self.board.clear()
                for waiting in batch:
                    _fail(waiting, error)
                with contextlib.suppress(Exception):
                    await self._journal.close()

    async def _woken(self) -> bool:
        """Waits for commands, and connects meanwhile if there is no connection."""
        if self._wake.is_set():
            return True
        if self._journal.connected:
            # If the connection is dead, the next commit notices it.
            return await self._wake.wait()
        try:
            async with asyncio.timeout(1.0):
                return await self._wake.wait()
        except TimeoutError:
            await self._reconnect()
            return False

    async def _gather(self) -> None:
        """Waits until every open call is in the queue, at most `GATHER_SECONDS`, if there are many.

        A call that was answered by the last commit is still open here: its handler has not run
        since. Its caller may be about to send the next one. A stream sends without waiting for
        answers, so its batches are large by themselves and nothing waits once it has sent.
        """
        open_count = self._open_count
        if (
            open_count < MANY_CALLS
            or not 0 < len(self._queue) < open_count
            or self._large
            or not all(map(_is_call, self._queue))
        ):
            return
        loop = asyncio.get_running_loop()
        self._expected_count = open_count
        self._gathering = loop.create_future()
        timer = loop.call_later(GATHER_SECONDS, self._end_gathering)
        try:
            await self._gathering
        finally:
            timer.cancel()
            self._gathering = None

    def _end_gathering(self) -> None:
        if self._gathering is not None and not self._gathering.done():
            self._gathering.set_result(None)

    def _take(self) -> list[_Waiting]:
        """The commands of the next batch, without those whose callers do not wait any more."""
        for _ in range(2):
            large = bool(self._large) and (self._large_next or not self._queue)
            # A large command that waits has its turn after one batch of the others.
            self._large_next = bool(self._large) and not large
            self._taken_from = self._large if large else self._queue
            batch = self._take_from(self._taken_from)
            if batch:
                return batch
        return []

    def _take_from(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """Commands of one queue, as many as one commit takes; a large one alone."""
        batch: list[_Waiting] = []
        rows = 0
        while queue and rows < MAX_ROWS:
            if batch and queue[0].size > LARGE_ROWS:
                break
            waiting = queue.popleft()
            if queue is self._large and waiting.lane is not None:
                waiting.lane.large_count -= 1
            if _live(waiting):
                batch.append(waiting)
                rows += waiting.size
        return batch

    def _put_back(self, left: Sequence[_Waiting]) -> None:
        """Puts commands that were taken back to the front of their queue."""
        queue = self._taken_from
        queue.extendleft(reversed(left))
        if queue is self._large:
            for waiter in left:
                if waiter.lane is not None:
                    waiter.lane.large_count += 1

    async def _commit(self, waiting: list[_Waiting]) -> None:
        """Commits commands, in as many attempts as that takes, and answers their callers.

        Outcomes of an attempt, and what the database holds of it:

        ============================  =========  ==================================================
        outcome                       database   next step
        ============================  =========  ==================================================
        committed                     the batch  publish the rows, answer
        nothing to write              nothing    answer if the head is still ours, else a conflict
        conflict: the head moved      nothing    lock the head, read what is new, attempt again
        a command met a bug           nothing    it fails; attempt again with the others
        connection lost               unknown    connect; committed if the last commit of this
                                                 process is the one that was sent, else attempt
                                                 again
        serialization failure         nothing    attempt again, locked; refused after `TRIES`
        refused: timeout, full disk   nothing    all commands fail; callers may try again
        rows beyond the log's end     nothing    all commands fail until the operator acts
        a value the database rejects  nothing    attempt each command alone; a single one fails
        the log was replaced          other log  all commands fail, the ledger stops
        ============================  =========  ==================================================

        A command that waits for longer than its caller allows fails at that time, in `_give_up`;
        if its batch was sent already, it may still be committed. No later attempt includes it.
        """
        commit = _Commit(waiting=waiting)
        while commit.waiting:
            try:
                if self._journal.connected:
                    await self._attempt(commit)
                    return
                if await self._resolve(commit):
                    return
            except _Conflict:
                commit.sent = None
                commit.locked = True
            except _Poisoned:
                commit.waiting = [waiter for waiter in commit.waiting if _live(waiter)]
                await self._journal.unlock()
            except (psycopg.Error, OSError) as error:
                if not await self._may_repeat(commit, error):
                    await self._fail_batch(commit.waiting, error)
                    return

    async def _attempt(self, commit: _Commit) -> None:
        """Makes a batch of the commands, commits it, and answers the callers.

        Raises:
            _Conflict, _Poisoned, psycopg.Error, OSError: See the table of `_commit`.
        """
        commit.sent = None
        if commit.locked:
            await self._catch_up(await self._journal.lock())
        batch = await self._make(commit.waiting)
        if batch.writes:
            head, now = await self._write(commit, batch)
        else:
            head, now = await self._confirm(batch), PENDING
        self._finish(batch, now, head)

    async def _write(self, commit: _Commit, batch: _Batch) -> tuple[Head, datetime]:
        """Commits a batch; returns the new head and the time of the commit.

        Raises:
            _Conflict: Another replica moved the head.
        """
        draft = batch.draft
        commit_id = uuid.uuid4()
        await self._journal.make_room(draft.last_id)
        # From here on the outcome is unknown if the connection is lost.
        commit.sent = (commit_id, batch)
        reached("append.before_commit")
        began = time.perf_counter()
        now = await self._journal.write(draft, commit_id, batch.answers)
        if self._meters is not None:
            self._meters.wrote(time.perf_counter() - began, now is not None)
        if now is None:
            raise _Conflict
        reached("append.after_commit")
        head = dataclasses.replace(
            draft.head,
            last_id=draft.last_id,
            last_kit_id=draft.last_kit_id,
            commit_id=commit_id,
        )
        return head, now

    async def _confirm(self, batch: _Batch) -> Head:
        """Makes sure that a batch without anything to write was made on the newest rows.

        It holds refusals, and answers of earlier commits. Without this check a command could be
        refused for a state that another replica has changed already.

        Raises:
            _Conflict: Another replica moved the head.
        """
        head = await self._journal.head()
        await self._journal.unlock()
        if head.commit_id != batch.draft.head.commit_id:
            raise _Conflict
        return head

    async def _resolve(self, commit: _Commit) -> bool:
        """Connects again and finds out whether a batch that was sent has been committed.

        Returns:
            Whether the commands need no other attempt.
        """
        outcome = await self._reconnect()
        if self._broken:
            for waiter in commit.waiting:
                _fail(waiter, UnavailableError(self._broken))
            return True
        if commit.sent is not None:
            commit_id, batch = commit.sent
            if outcome.commit_id == commit_id:
                self._finish(batch, outcome.committed_at, outcome.head)
                return True
        commit.sent = None
        commit.waiting = [waiter for waiter in commit.waiting if _live(waiter)]
        return False

    async def _may_repeat(self, commit: _Commit, error: psycopg.Error | OSError) -> bool:
        """Whether the same commands are attempted again after an error."""
        if not self._journal.connected:
            logger.warning("the ledger lost its connection: %s", error)
            # The lock went with the connection. What was sent stays noted, for `_resolve`.
            commit.locked = False
            return True
        if isinstance(error, CONFLICTS):
            commit.failures += 1
            if commit.failures < TRIES:
                logger.info("the database asks for another attempt: %s", error)
                await self._journal.unlock()
                commit.sent, commit.locked = None, True
                return True
        return False

    async def _fail_batch(self, waiting: list[_Waiting], error: psycopg.Error | OSError) -> None:
        """Ends a commit of which the database, still connected, took nothing."""
        if isinstance(error, LOST):
            # Of these errors a timeout and a full disk leave the connection open.
            await self._refuse(waiting, error)
            return
        await self._journal.unlock()
        self.board.clear()
        if is_blocked(error):
            logger.critical("the log has rows beyond its end: nothing can be recorded")
        elif len(waiting) > 1:
            # One command holds what the database rejects. The others must not fail with it.
            logger.warning("a batch was refused; its commands are tried one by one: %s", error)
            for waiter in waiting:
                if _live(waiter):
                    await self._commit([waiter])
            return
        for waiter in waiting:
            _fail(waiter, error_for(error))

    async def _make(self, waiting: list[_Waiting]) -> _Batch:
        """Applies the commands on top of the board, without changing it.

        Commands for which there is no time in this batch go back to the front of the queue.
        """
        assert self._head is not None
        commands = [waiter.command for waiter in waiting]
        changes = await self._changes(commands)
        await self._load(commands, changes)
        stored = await self._answered(commands)
        draft = Draft(self.board, self._head, await self._seqs(commands), changes)
        batch = _Batch(draft=draft)
        if sum(waiter.size for waiter in waiting) > LARGE_BATCH:
            # Only this task changes the board, so the thread may read it while this task waits.
            await off_loop.writing.do(_apply, waiting, batch, stored)
        else:
            _apply(waiting, batch, stored)
        if batch.poison is not None:
            poisoned, error = batch.poison
            _fail(poisoned, error)
            raise _Poisoned from error
        left = waiting[len(batch.results) :]
        if left:
            # In place: the list is `_committing`, too, and the queue takes over the others.
            del waiting[len(batch.results) :]
            self._put_back(left)
        return batch

    async def _changes(self, commands: list[c.Command]) -> dict[uuid.UUID, c.Change]:
        """The changes that commands continue or repeat."""
        change_ids = [
            command.request.request_id
            for command in commands
            if isinstance(command, c.GoOn | c.CancelKit | c.RetryKit | c.ChangeJobs)
            and command.request is not None
            and command.request.request_id is not None
        ]
        return await self._journal.changes(change_ids) if change_ids else {}

    async def _load(self, commands: list[c.Command], changes: Mapping[uuid.UUID, c.Change]) -> None:
        """Makes sure that the board holds what the commands touch, as far as it exists."""
        kit_ids, jobs = _touched(commands)
        kit_ids.update(change.kit_id for change in changes.values())
        # A job of another project is looked up each time and its kit is never read, like a job
        # that does not exist: so the time an answer takes tells a caller nothing of the job.
        unknown = {job_id for job_id, within in jobs if self._held(job_id, within) is None}
        if unknown:
            places = await self._journal.kits_of(unknown)
            for job_id, within in jobs:
                kit_id, project = places.get(job_id, (0, ""))
                if within in ("", project):
                    kit_ids.add(kit_id)
        missing = [kit_id for kit_id in kit_ids if kit_id and self.board.kit(kit_id) is None]
        if missing:
            for kit in (await self._journal.kits(missing)).values():
                self.board.put(kit)

    def _held(self, job_id: uuid.UUID, within: str) -> Kit | None:
        """The kit of a job, if it is in memory and in this project; any project if empty."""
        kit_id = self.board.kit_of(job_id)
        kit = self.board.kit(kit_id) if kit_id is not None else None
        return kit if kit is not None and within in ("", kit.project) else None

    async def _answered(self, commands: list[c.Command]) -> dict[uuid.UUID, Answered]:
        """The stored answers to requests among the commands that come again."""
        every_id = {command.request.request_id for command in commands if command.request}
        request_ids = [request_id for request_id in every_id if request_id is not None]
        return await self._journal.answers(request_ids) if request_ids else {}

    async def _seqs(self, commands: list[c.Command]) -> Seqs:
        """The rows of the log that may come a second time."""
        repeats = []
        for command in commands:
            if isinstance(command, c.Append):
                for item in command.items:
                    kit = self._held(item.job_id, item.within) if item.seq else None
                    if kit is not None:
                        job = kit.jobs[item.job_id]
                        if item.seq <= job.last_seq:
                            content = content_of(item)
                            repeats.append((job.job_id, job.attempt, item.seq, content))
        return await self._journal.recorded(repeats) if repeats else {}

    def _finish(self, batch: _Batch, now: datetime, head: Head) -> None:
        """After the commit: updates the board, publishes the rows, answers the callers."""
        draft = batch.draft
        if now is not PENDING:
            self.commits += 1
            draft.settle(now)
            self.board.adopt(draft)
            self.board.trim()
        # After a lost connection the head may be further on, by rows of other replicas that are
        # still to be read. Then this process is at the end of its own rows, under an id that no
        # commit has: so the next commit conflicts and reads the others.
        self._head = (
            head
            if head.last_id == draft.last_id
            else dataclasses.replace(
                head, last_id=draft.last_id, last_kit_id=draft.last_kit_id, commit_id=uuid.uuid4()
            )
        )
        reached("append.before_publish")
        if draft.rows:
            self._hub.publish(draft.rows)
        if self._meters is not None:
            self._meters.committed(draft.rows, [answer for _, answer in batch.results])
        reached("append.before_answer")
        for waiter, answer in batch.results:
            if isinstance(answer, c.Unfinished):
                self._go_on(waiter, answer.change)
            elif not waiter.answer.done():
                _answer_caller(waiter.answer, answer, now)
        asyncio.get_running_loop().call_soon(reached, "append.after_answer")

    def _go_on(self, waiting: _Waiting, change: c.Change) -> None:
        """Queues the next piece of a change behind all large commands that wait now."""
        assert waiting.command.request is not None
        request = dataclasses.replace(waiting.command.request, request_id=change.change_id)
        waiting.command = c.GoOn(request=request)
        waiting.size = _size(waiting.command)
        self._large.append(waiting)
        self._wake.set()

    async def _catch_up(self, head: Head) -> None:
        """Reads what other replicas wrote, and forgets the kits they touched."""
        while self.head < head.last_id:
            if self.head + 1 < head.oldest_id:
                # The next rows were removed while this process had no connection.
                self.board.clear()
                self._head = dataclasses.replace(head, last_id=head.oldest_id - 1)
                continue
            rows = await self._journal.rows_after(self.head)
            if not rows or rows[0].revision != self.head + 1:
                raise psycopg.DataError(f"the log has no row {self.head + 1}")
            self.board.evict({row.kit_id for row in rows})
            self._hub.publish(rows)
            self._head = dataclasses.replace(head, last_id=rows[-1].revision)
        self._head = head

    async def _reconnect(self) -> Outcome:
        """Connects again, and repeats that until it succeeds."""
        pause = 0.05
        while True:
            try:
                outcome = await self._journal.connect()
                break
            except LOST as error:
                logger.info("the database does not answer: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        assert self._head is not None
        if outcome.head.epoch != self._head.epoch or outcome.head.last_id < self._head.last_id:
            self._broken = "the log was replaced under the registry; restart it"
            logger.critical(self._broken)
            self._refuse_all(self._broken)
        # Connecting changed the head row, so the next commit conflicts and reads what is missing.
        logger.info("the ledger is connected again at revision %d", outcome.head.last_id)
        if outcome.head.last_id == self._head.last_id:
            self._head = outcome.head
        return outcome

    async def _refuse(self, waiting: list[_Waiting], error: BaseException) -> None:
        """Fails commands that the database cannot commit now."""
        logger.warning("the database refused a commit: %s", error)
        self.board.clear()
        with contextlib.suppress(*LOST):
            await self._journal.unlock()
        if isinstance(error, FULL):
            refusal: ServiceError = self._guard.hear()
        else:
            refusal = UnavailableError("the database cannot commit now; try again")
        if self._meters is not None:
            self._meters.refused(len(waiting))
        for waiter in waiting:
            _fail(waiter, refusal)

    def _refuse_all(self, why: str) -> None:
        for queue in (self._queue, self._large):
            while queue:
                _fail(queue.popleft(), UnavailableError(why))


def _touched(
    commands: Sequence[c.Command],
) -> tuple[set[int], set[tuple[uuid.UUID, str]]]:
    """The kits that commands name, and the jobs, each with the project that it must be in."""
    kit_ids: set[int] = set()
    jobs: set[tuple[uuid.UUID, str]] = set()
    for command in commands:
        match command:
            case c.Append():
                last: uuid.UUID | None = None
                for item in command.items:
                    # Rows of one job follow one another, and have one caller.
                    if item.job_id is not last:
                        last = item.job_id
                        jobs.add((last, item.within))
            case (
                c.CreateJob()
                | c.CancelKit()
                | c.RetryKit()
                | c.PauseKit()
                | c.ResumeKit()
                | c.ChangeJobs()
            ):
                kit_ids.add(command.kit_id)
            case c.CancelJob() | c.RetryJob() | c.Grant() | c.Release() | c.Lose():
                jobs.add((command.job_id, ""))
    return kit_ids, jobs


def _apply(waiting: Sequence[_Waiting], batch: _Batch, stored: dict[uuid.UUID, Answered]) -> None:
    """Applies commands in their order, as many as there is time for.

    It may run in a thread, and sets no future: that is for the event loop to do.
    """
    end = time.perf_counter() + MAKE_SECONDS
    for waiter in waiting:
        try:
            batch.results.append((waiter, _answer(waiter.command, batch, stored)))
        except ServiceError as error:
            batch.results.append((waiter, error))
        except Exception as error:
            logger.exception("%s failed", type(waiter.command).__name__)
            batch.poison = (waiter, error)
            return
        if time.perf_counter() > end:
            return


def _answer(command: c.Command, batch: _Batch, stored: dict[uuid.UUID, Answered]) -> Any:
    """Applies a command, unless its request was answered before, and stores the answer."""
    request = command.request
    request_id = request.request_id if request is not None else None
    if request is not None and request_id is not None:
        answered = stored.get(request_id)
        if answered is not None:
            return _replay(answered, request)
        change = batch.draft.unfinished.get(request_id)
        if change is not None:
            request.check_repeated(change.request.method, change.request.body_sha256)
            command = c.GoOn(request=request)
        elif isinstance(command, c.GoOn):
            raise UnavailableError("the change is complete, and its answer is no longer stored")
    answer = batch.draft.apply(command)
    # These two have no answer yet: one is continued, the other is followed by pieces.
    if request is None or isinstance(answer, c.Unfinished) or isinstance(command, c.BeginJobs):
        return answer
    response = request.encode(answer)
    kit_id = _kit_id(command, answer)
    batch.answers.append((dataclasses.replace(request, kit_id=kit_id), response))
    if request_id is not None:
        # For a repeat in the same batch.
        stored[request_id] = Answered(
            method=request.method,
            body_sha256=request.body_sha256,
            response=response,
            created_at=PENDING,
        )
    return answer


def _kit_id(command: c.Command, answer: Any) -> int | None:
    """The kit that a command made or changed, if it is one."""
    match answer:
        case c.KitChange():
            return answer.kit.kit_id
        case c.JobChange():
            return answer.job.kit_id
    return getattr(command, "kit_id", None)


def _answer_caller(caller: asyncio.Future[Any], answer: Any, now: datetime) -> None:
    """Gives a caller the answer to a command, with the time of the commit."""
    if isinstance(answer, ServiceError):
        caller.set_exception(answer)
        return
    if isinstance(answer, c.Replayed):
        if answer.created_at is PENDING:
            answer = dataclasses.replace(answer, created_at=now)
    elif answer is not None and not isinstance(answer, bool):
        answer.settle(now)
    caller.set_result(answer)


def _replay(answered: Answered, request: c.Request) -> c.Replayed:
    request.check_repeated(answered.method, answered.body_sha256)
    return c.Replayed(response=answered.response, created_at=answered.created_at)


def _size(command: c.Command) -> int:
    """About how many rows a command makes, or what is as much work."""
    match command:
        case c.Append():
            written = sum(len(item.metadata_json) for item in command.items)
            values = 0
            if written > FEW_BYTES:
                values = sum(item.metadata_json.count(",") for item in command.items)
            return len(command.items) + written // BYTES_A_ROW + values // VALUES_A_ROW
        case c.CreateKit():
            needs = sum(len(job.depends_on) for job in command.jobs)
            specs = sum(len(job.spec) for job in command.jobs)
            return 1 + len(command.jobs) + needs // 100 + specs // BYTES_A_ROW
        case c.CreateJob():
            return 1 + len(command.job.depends_on) // 100 + len(command.job.spec) // BYTES_A_ROW
        case c.CancelKit() | c.RetryKit() | c.GoOn():
            # It may be a whole piece, and one piece a commit is enough.
            return MAX_ROWS
        case c.ChangeJobs():
            return len(command.job_ids) if len(command.job_ids) < PIECE_JOBS else MAX_ROWS
    return 1


def _is_call(waiting: _Waiting) -> bool:
    """Whether a command is that of a caller who waits for its answer, and no large one."""
    return waiting.lane is None and waiting.size <= LARGE_ROWS


def _live(waiting: _Waiting) -> bool:
    """Whether a command is still to be committed: its caller waits, and its lane is not broken."""
    if waiting.lane is not None and waiting.lane.broken:
        _fail(waiting, UnavailableError("what came before it was not recorded; send both again"))
    if isinstance(waiting.command, c.GoOn) and waiting.answer.done():
        # A change that was begun is completed even if its caller does not wait any more.
        waiting.answer = asyncio.get_running_loop().create_future()
        waiting.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
    return not waiting.answer.done()


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if waiting.lane is not None:
        waiting.lane.broken = True
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
