"""The one queue of everything that changes the log.

While one commit is in flight the next batch gathers; no timer. A commit swaps the head: if
another replica was first, nothing happened, and the batch is made again on what that replica
wrote, this time under the head row's lock. If the connection is lost, the journal finds out
whether the commit happened before anything is tried again. So every command happens once or, when
its caller has gone, at most once.
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
    ExistsError,
    ServiceError,
    UnavailableError,
)
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.board import Board
from vistaflow_services.registry.changes import Seqs, content_of
from vistaflow_services.registry.domain import PENDING, Head, Kit, StateRow
from vistaflow_services.registry.draft import PIECE_JOBS, Draft
from vistaflow_services.registry.journal import Answered, Answers, Journal, Outcome
from vistaflow_services.registry.refusals import CONFLICTS, is_blocked, told
from vistaflow_services.registry.storage import StorageGuard

logger = logging.getLogger(__name__)

MAX_ROWS = 2000
"""About how many rows one commit takes."""

MAX_WAITING = 20_000
"""Commands that may wait; more are turned away."""

ALONE_ROWS = 1500
"""A command of more rows begins a commit: those queued before it have one of their own."""

BYTES_A_ROW = 2048
"""Bytes of metadata or specs that count as a row: one commit takes about 4 MiB."""

LARGE_BATCH = 200
"""Rows of a batch that is not made in the event loop."""

MAKE_SECONDS = 0.03
"""How long commands are applied for one commit, but for the first; the others wait for the next."""

TRIES = 3
"""How often a batch is tried that the database would not serialize with what others do."""

DEFAULT_WAIT = 30.0
"""Seconds a command waits whose caller names no time."""

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
    """Who is told of the rows of every commit."""

    def publish(self, rows: Sequence[StateRow]) -> None:
        """Takes in rows, contiguous and in order."""


class Lane:
    """Commands that happen in the order they were queued, and none after one that failed."""

    __slots__ = ("broken",)

    def __init__(self) -> None:
        self.broken = False
        """Whether a command failed, or its outcome is unknown: none that follows is committed."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    command: c.Command
    answer: asyncio.Future[Any]
    until: float
    """When it is given up, by the event loop's clock."""
    lane: Lane | None = None


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A draft with what each command is going to be answered."""

    draft: Draft
    answers: Answers = field(default_factory=list)
    told: list[tuple[_Waiting, Any]] = field(default_factory=list)
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


class _Conflict(Exception):
    """Another replica moved the head."""


class _Poisoned(Exception):
    """A command met a bug and was taken out; the others are to be tried again."""


class Ledger:
    """Takes commands, commits them in groups, publishes the rows, answers.

    Args:
        journal: The connection to write on.
        hub: Gets the rows of every commit before its callers are answered.
        request_seconds: How long answered requests are kept.
        guard: Knows whether there is room on the disk.
        meters: Is told of every commit.
    """

    def __init__(
        self,
        journal: Journal,
        hub: Publisher,
        *,
        board: Board | None = None,
        request_seconds: float = 7 * 86400.0,
        guard: StorageGuard | None = None,
        meters: Meters | None = None,
    ) -> None:
        self.board = board or Board()
        self._journal = journal
        self._hub = hub
        self._request_seconds = request_seconds
        self._guard = guard or StorageGuard(None, 0)
        self._meters = meters
        self._queue: deque[_Waiting] = deque()
        self._committing: list[_Waiting] = []
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
        return len(self._queue)

    async def start(self) -> Head:
        """Connects and begins to take commands."""
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
            UnavailableError: The database was not there in time. The command may still happen;
                a repeat with the same request_id is safe.
            ExistsError: The request_id was used with another body.
            ServiceError: As the command's rules say.
        """
        return await self._put(command, seconds, None)

    def queue(self, command: c.Command, lane: Lane) -> asyncio.Future[Any]:
        """Queues a command behind those of its lane, without waiting.

        Returns:
            What `submit` would return, later. Cancel it to take back what is still queued.

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
        if len(self._queue) >= MAX_WAITING:
            raise ExhaustedError("too many requests are waiting for the database; try again")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        until = loop.time() + (DEFAULT_WAIT if seconds is None else seconds)
        waiting = _Waiting(command=command, answer=answer, until=until, lane=lane)
        self._queue.append(waiting)
        if self._timer is None or until < self._timer.when():
            self._give_up_at(until)
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()
        return answer

    def _give_up_at(self, when: float) -> None:
        """One timer serves for all that waits: most of it is answered long before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._give_up)

    def _give_up(self) -> None:
        """Tells those that waited long enough that the database did not answer."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        waiting = [each for each in (*self._committing, *self._queue) if not each.answer.done()]
        for each in waiting:
            if each.until <= now:
                _fail(each, UnavailableError(TOO_LATE))
        left = [each.until for each in waiting if each.until > now]
        if left:
            self._give_up_at(min(left))

    async def _run(self) -> None:
        last_tidy = 0.0
        loop = asyncio.get_running_loop()
        while not self._broken:
            if not await self._woken():
                continue
            self._committing = batch = self._take()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            try:
                await self._commit(batch)
                if loop.time() - last_tidy > 60 and self._journal.connected:
                    last_tidy = loop.time()
                    await self._journal.forget_requests(self._request_seconds)
            except Exception as error:
                logger.exception("a batch of %d commands failed", len(batch))
                self.board.clear()
                for waiting in batch:
                    _fail(waiting, error)
                with contextlib.suppress(Exception):
                    await self._journal.close()

    async def _woken(self) -> bool:
        """Waits for commands; connects again meanwhile, if need be."""
        if self._wake.is_set():
            return True
        if self._journal.connected:
            # Whether it still is shows with the next commit.
            return await self._wake.wait()
        try:
            async with asyncio.timeout(1.0):
                return await self._wake.wait()
        except TimeoutError:
            await self._reconnect()
            return False

    def _take(self) -> list[_Waiting]:
        """The commands of the next batch; callers that have gone are left out."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and rows < MAX_ROWS:
            if batch and _size(self._queue[0].command) > ALONE_ROWS:
                break  # Earlier commands do not wait for a large one.
            waiting = self._queue.popleft()
            if _live(waiting):
                batch.append(waiting)
                rows += _size(waiting.command)
        return batch

    async def _commit(self, waiting: list[_Waiting]) -> None:
        """Commits a batch, however often that takes."""
        locked = False
        conflicts = 0
        commit_id: uuid.UUID | None = None
        batch: _Batch | None = None
        while waiting:
            try:
                if not self._journal.connected:
                    outcome = await self._reconnect()
                    if self._broken:
                        for each in waiting:
                            _fail(each, UnavailableError(self._broken))
                        return
                    if batch is not None and outcome.commit_id == commit_id:
                        self._finish(batch, outcome.committed_at, outcome.head)
                        return
                    batch = None
                    waiting = [each for each in waiting if _live(each)]
                    continue
                batch = None
                if locked:
                    await self._catch_up(await self._journal.lock())
                made = await self._make(waiting)
                commit_id = uuid.uuid4()
                if made.writes:
                    await self._journal.make_room(made.draft.last_id)
                    batch = made
                    reached("append.before_commit")
                    began = time.perf_counter()
                    now = await self._journal.write(made.draft, commit_id, made.answers)
                    if self._meters is not None:
                        self._meters.wrote(time.perf_counter() - began, now is not None)
                    if now is None:
                        raise _Conflict
                    reached("append.after_commit")
                    head = dataclasses.replace(
                        made.draft.head,
                        last_id=made.draft.last_id,
                        last_kit_id=made.draft.last_kit_id,
                        commit_id=commit_id,
                    )
                else:
                    # Nothing to write: but what was refused may be stale.
                    head, now = await self._journal.head(), PENDING
                    await self._journal.unlock()
                    if head.commit_id != made.draft.head.commit_id:
                        raise _Conflict
                self._finish(made, now, head)
                return
            except _Conflict:
                batch = None
                locked = True
            except _Poisoned:
                waiting = [each for each in waiting if _live(each)]
                await self._journal.unlock()
            except (psycopg.Error, OSError) as error:
                if not self._journal.connected:
                    logger.warning("the ledger lost its connection: %s", error)
                    locked = False
                    continue
                if isinstance(error, CONFLICTS) and (conflicts := conflicts + 1) < TRIES:
                    logger.info("the database asks for another try: %s", error)
                    await self._journal.unlock()
                    batch, locked = None, True
                    continue
                if isinstance(error, LOST):
                    # The database refused: a timeout, a full disk. Nothing was committed.
                    await self._refuse(waiting, error)
                    return
                await self._journal.unlock()
                self.board.clear()
                if isinstance(error, psycopg.Error) and is_blocked(error):
                    logger.critical("the log has rows beyond its end: nothing can be recorded")
                    for command in waiting:
                        _fail(command, told(error))
                    return
                if len(waiting) == 1:
                    _fail(waiting[0], told(error))
                    return
                logger.warning("a batch was refused; its commands are tried one by one: %s", error)
                for each in waiting:
                    if _live(each):
                        await self._commit([each])
                return

    async def _make(self, waiting: list[_Waiting]) -> _Batch:
        """Applies the commands on top of the board, without changing it.

        Those for which there is no time in this batch go back to the queue.
        """
        assert self._head is not None
        commands = [each.command for each in waiting]
        changes = await self._changes(commands)
        await self._load(commands, changes)
        known = await self._answered(commands)
        draft = Draft(self.board, self._head, await self._seqs(commands), changes)
        batch = _Batch(draft=draft)
        if sum(map(_size, commands)) > LARGE_BATCH:
            # The board moves only when this task moves it, so it can be read elsewhere.
            await off_loop.writing.do(_apply, waiting, batch, known)
        else:
            _apply(waiting, batch, known)
        if batch.poison is not None:
            each, error = batch.poison
            _fail(each, error)
            raise _Poisoned from error
        left = waiting[len(batch.told) :]
        if left:
            del waiting[len(batch.told) :]
            self._queue.extendleft(reversed(left))
        return batch

    async def _changes(self, commands: list[c.Command]) -> dict[uuid.UUID, c.Change]:
        """The changes that commands continue or repeat."""
        wanted = [
            each.request.request_id
            for each in commands
            if isinstance(each, c.GoOn | c.CancelKit | c.RetryKit | c.ChangeJobs)
            and each.request is not None
            and each.request.request_id is not None
        ]
        return await self._journal.changes(wanted) if wanted else {}

    async def _load(self, commands: list[c.Command], changes: Mapping[uuid.UUID, c.Change]) -> None:
        """Makes sure that the board holds what the commands touch, as far as it exists."""
        asked: set[tuple[uuid.UUID, str]] = set()
        kit_ids = {change.kit_id for change in changes.values()}
        for command in commands:
            match command:
                case c.Append():
                    asked.update((item.job_id, item.within) for item in command.items)
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
                    asked.add((command.job_id, ""))
        # What is of another project than the one a caller has is looked up each time and never
        # read, as what is not there: its size and whether it is held here do not show.
        unknown = {job_id for job_id, within in asked if self._held(job_id, within) is None}
        if unknown:
            found = await self._journal.kits_of(unknown)
            for job_id, within in asked:
                kit_id, project = found.get(job_id, (0, ""))
                if within in ("", project):
                    kit_ids.add(kit_id)
        missing = [kit_id for kit_id in kit_ids if kit_id and self.board.kit(kit_id) is None]
        if missing:
            for kit in (await self._journal.kits(missing)).values():
                self.board.put(kit)

    def _held(self, job_id: uuid.UUID, within: str) -> Kit | None:
        """The kit of a job, if it is held and a caller who has only this project may see it."""
        kit_id = self.board.kit_of(job_id)
        kit = self.board.kit(kit_id) if kit_id is not None else None
        return kit if kit is not None and within in ("", kit.project) else None

    async def _answered(self, commands: list[c.Command]) -> dict[uuid.UUID, Answered]:
        asked = {each.request.request_id for each in commands if each.request}
        wanted = [request_id for request_id in asked if request_id is not None]
        return await self._journal.answers(wanted) if wanted else {}

    async def _seqs(self, commands: list[c.Command]) -> Seqs:
        """The rows of the log that may come a second time."""
        wanted = []
        for command in commands:
            if isinstance(command, c.Append):
                for item in command.items:
                    kit = self._held(item.job_id, item.within) if item.seq else None
                    if kit is not None:
                        job = kit.jobs[item.job_id]
                        if item.seq <= job.last_seq:
                            content = content_of(item)
                            wanted.append((job.job_id, job.attempt, item.seq, content))
        return await self._journal.recorded(wanted) if wanted else {}

    def _finish(self, batch: _Batch, now: datetime, head: Head) -> None:
        """After the commit: the board moves, the rows go out, the callers are answered."""
        draft = batch.draft
        if now is not PENDING:
            self.commits += 1
            draft.settle(now)
            self.board.adopt(draft)
            self.board.trim()
        # After a lost connection the head may be further on by other replicas' rows, which are
        # still to be read: then ours is where we are.
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
            self._meters.committed(draft.rows, [answer for _, answer in batch.told])
        reached("append.before_answer")
        for waiting, answer in batch.told:
            if isinstance(answer, c.Unfinished):
                self._go_on(waiting, answer.change)
                continue
            if waiting.answer.done():
                continue
            if isinstance(answer, ServiceError):
                waiting.answer.set_exception(answer)
                continue
            if isinstance(answer, c.Replayed):
                if answer.created_at is PENDING:
                    answer = dataclasses.replace(answer, created_at=now)
            elif answer is not None and not isinstance(answer, bool):
                answer.settle(now)
            waiting.answer.set_result(answer)
        asyncio.get_running_loop().call_soon(reached, "append.after_answer")

    def _go_on(self, waiting: _Waiting, change: c.Change) -> None:
        """Queues the next piece of a change, behind everything that waits now."""
        assert waiting.command.request is not None
        request = dataclasses.replace(waiting.command.request, request_id=change.change_id)
        waiting.command = c.GoOn(request=request)
        self._queue.append(waiting)
        self._wake.set()

    async def _catch_up(self, head: Head) -> None:
        """Reads what other replicas wrote, and forgets the kits they touched."""
        while self.head < head.last_id:
            if self.head + 1 < head.oldest_id:
                # They are no longer kept: this process was away for that long.
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
        """Connects again, for as long as it takes."""
        pause = 0.05
        while True:
            try:
                outcome = await self._journal.connect()
                break
            except LOST as error:
                logger.info("the database is not there: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        assert self._head is not None
        if outcome.head.epoch != self._head.epoch or outcome.head.last_id < self._head.last_id:
            self._broken = "the log was replaced under the registry; restart it"
            logger.critical(self._broken)
            self._refuse_all(self._broken)
        # A conflict is certain, as connecting moved the head: it reads what is missing.
        logger.info("the ledger is connected again at revision %d", outcome.head.last_id)
        if outcome.head.last_id == self._head.last_id:
            self._head = outcome.head
        return outcome

    async def _refuse(self, waiting: list[_Waiting], error: BaseException) -> None:
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
        for each in waiting:
            _fail(each, refusal)

    def _refuse_all(self, why: str) -> None:
        while self._queue:
            _fail(self._queue.popleft(), UnavailableError(why))


def _apply(waiting: Sequence[_Waiting], batch: _Batch, known: dict[uuid.UUID, Answered]) -> None:
    """Applies commands in their order, as many as there is time for. Touches no future."""
    end = time.perf_counter() + MAKE_SECONDS
    for each in waiting:
        try:
            batch.told.append((each, _answer(each.command, batch, known)))
        except ServiceError as error:
            batch.told.append((each, error))
        except Exception as error:
            logger.exception("%s failed", type(each.command).__name__)
            batch.poison = (each, error)
            return
        if time.perf_counter() > end:
            return


def _answer(command: c.Command, batch: _Batch, known: dict[uuid.UUID, Answered]) -> Any:
    """Applies a command, unless its request was answered before, and keeps the answer."""
    request = command.request
    request_id = request.request_id if request is not None else None
    if request is not None and request_id is not None:
        answered = known.get(request_id)
        if answered is not None:
            return _replay(answered, request)
        change = batch.draft.unfinished.get(request_id)
        if change is not None:
            _check_same(change.request.method, change.request.body_sha256, request)
            command = c.GoOn(request=request)
        elif isinstance(command, c.GoOn):
            raise UnavailableError("the change is complete, and its answer is no longer stored")
    answer = batch.draft.apply(command)
    if request is None or isinstance(answer, c.Unfinished) or isinstance(command, c.BeginJobs):
        return answer
    response = request.encode(answer)
    batch.answers.append((request, response))
    if request_id is not None:
        known[request_id] = Answered(
            method=request.method,
            body_sha256=request.body_sha256,
            response=response,
            created_at=PENDING,
        )
    return answer


def _replay(known: Answered, request: c.Request) -> c.Replayed:
    _check_same(known.method, known.body_sha256, request)
    return c.Replayed(response=known.response, created_at=known.created_at)


def _check_same(method: str, body_sha256: str, request: c.Request) -> None:
    """Raises `ExistsError` if a request's id was used before for another request."""
    if body_sha256 != request.body_sha256 or method != request.method:
        raise ExistsError(
            f"the request_id was used for another {method}; choose a new one for each request",
            reason="REQUEST_ID_REUSED",
        )


def _size(command: c.Command) -> int:
    """About how many rows a command makes, or what is as much work."""
    match command:
        case c.Append():
            written = sum(len(item.metadata_json) for item in command.items)
            return len(command.items) + written // BYTES_A_ROW
        case c.CreateKit():
            needs = sum(len(job.depends_on) for job in command.jobs)
            specs = sum(len(job.spec) for job in command.jobs)
            return 1 + len(command.jobs) + needs // 100 + specs // BYTES_A_ROW
        case c.CreateJob():
            return 1 + len(command.job.depends_on) // 100 + len(command.job.spec) // BYTES_A_ROW
        case c.CancelKit() | c.RetryKit() | c.GoOn():
            # It may be a whole piece, of which one a commit is enough.
            return MAX_ROWS
        case c.ChangeJobs():
            return len(command.job_ids) if len(command.job_ids) < PIECE_JOBS else MAX_ROWS
    return 1


def _live(waiting: _Waiting) -> bool:
    """Whether a command is still to be committed: its caller waits and its lane is whole."""
    if waiting.lane is not None and waiting.lane.broken:
        _fail(waiting, UnavailableError("what came before it was not recorded; send both again"))
    if isinstance(waiting.command, c.GoOn) and waiting.answer.done():
        # A change that was begun is completed, even if no caller waits for it any more.
        waiting.answer = asyncio.get_running_loop().create_future()
        waiting.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
    return not waiting.answer.done()


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if waiting.lane is not None:
        waiting.lane.broken = True
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
