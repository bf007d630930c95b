"""The ledger's own connection: the statement that commits a batch, and the reads before it."""

from __future__ import annotations

import base64
import json
import logging
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg

from vistaflow_services.core import off_loop
from vistaflow_services.core.failpoints import reached
from vistaflow_services.registry.commands import Change, ManyJobs, Request
from vistaflow_services.registry.database.kits import read_head, read_kits
from vistaflow_services.registry.database.pool import Connection
from vistaflow_services.registry.database.queries import QUERIES, fetch
from vistaflow_services.registry.database.rows import to_row
from vistaflow_services.registry.database.sessions import session_conninfo
from vistaflow_services.registry.domain import PENDING, Head, Job, Kit, StateRow
from vistaflow_services.registry.log.changes import Changes, Content, NewLease, Recorded, Seqs
from vistaflow_services.registry.log.row_json import BETWEEN, Texts, contents_text, rows_text
from vistaflow_services.registry.log.statement import Prepared
from vistaflow_services.registry.log.unfinished import to_change

logger = logging.getLogger(__name__)


def _statement(*parts: str) -> LiteralString:
    return "".join(QUERIES[f"write_{part}"] for part in parts)


TASKS = _statement("rows", "touched", "end")
LEAN = _statement("rows", "touched", "jobs", "end")
FULL = _statement("rows", "kits", "jobs", "rest", "end")

# What PostgreSQL counts time from, in microseconds.
_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)

SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "synchronous_commit": "on",
    # One generic plan: the statement is long to plan, and finds every row by a key anyway.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
LARGE_BATCH = 200
"""The text of a batch of more rows and new jobs is made in a thread, outside the event loop."""

ROOM_SECONDS = 10.0
"""Seconds until the next try after partitions could not be added ahead, because of locks."""

KEEPALIVE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The stored answer to a request, for a repeat of it."""

    method: str
    body_sha256: str
    response: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the database holds when the connection is made: so a lost answer is found."""

    head: Head
    commit_id: uuid.UUID | None
    """The last commit of this process that the database has."""
    committed_at: datetime
    """The time of that commit."""


Answers = list[tuple[Request, bytes]]


class Journal:
    """Writes batches. Used by one task at a time.

    Args:
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        partition_size: Rows a partition of the log holds.
    """

    def __init__(self, conninfo: str, schema: str, *, partition_size: int = 50_000_000) -> None:
        self._conninfo = conninfo
        self._schema = schema
        self._partition_size = partition_size
        self._replica = uuid.uuid4()
        self._connection: Connection | None = None
        self._prepared: Prepared | None = None
        self._end = 0
        self._room_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether there is a connection that is not known to be dead."""
        return self._connection is not None and not self._connection.closed

    async def connect(self) -> Outcome:
        """Connects again; returns where the log ends and the last commit of this process.

        Afterwards no statement of an earlier connection can commit any more: the new head has
        another commit id, and a statement that still runs fails on it.
        """
        await self.close()
        connection = await psycopg.AsyncConnection.connect(
            session_conninfo(
                self._conninfo,
                name="vistaflow registry ledger",
                schema=self._schema,
                settings=SETTINGS,
                **KEEPALIVE,
            ),
            autocommit=True,
            prepare_threshold=1,
        )
        try:
            head = await read_head(connection, "reclaim_head", commit_id=uuid.uuid4())
            ((commit_id, committed_at),) = await fetch(
                connection, "enroll", {"replica": self._replica}
            )
            await fetch_none(connection, "forget_writers", {"replica": self._replica})
        except BaseException:
            await connection.close()
            raise
        self._connection, self._prepared = connection, Prepared(connection)
        await self.make_room(head.last_id)
        return Outcome(head=head, commit_id=commit_id, committed_at=committed_at)

    async def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if self._prepared is not None:
            self._prepared.let_go()
        if connection is not None:
            await connection.close()

    async def make_room(self, last_id: int) -> None:
        """Adds partitions when the log comes near the end of the newest one.

        Each statement adds only a few, so that none takes long. While there is still room, it may
        fail because of locks, and is tried again later.
        """
        while last_id >= self._end - self._partition_size // 5:
            before = self._end
            if last_id < before and time.monotonic() < self._room_at:
                return
            try:
                ((self._end,),) = await fetch(
                    self._open(), "add_partitions", {"size": self._partition_size}
                )
            except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
                if last_id >= before or not self._idle:
                    raise
                logger.warning("no partition was added ahead; tried again later: %s", error)
                self._room_at = time.monotonic() + ROOM_SECONDS
                return
            if self._end == before:
                return

    @property
    def _idle(self) -> bool:
        """Whether no transaction is open."""
        return self._held().info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    async def head(self) -> Head:
        """Where the log ends."""
        return await read_head(self._open())

    async def lock(self) -> Head:
        """Begins a transaction in which nobody else moves the head."""
        await self._open().execute("BEGIN")
        return await read_head(self._open(), "lock_head")

    async def unlock(self) -> None:
        """Ends a transaction begun by `lock` without a commit, if there is one."""
        if not self._idle:
            assert self._prepared is not None
            await self._prepared.roll_back()

    async def rows_after(self, revision: int, limit: int = 5000) -> list[StateRow]:
        """The next rows of the log."""
        rows = await fetch(self._open(), "log_tail", {"after": revision, "limit": limit})
        return [to_row(row) for row in rows]

    async def kits(self, kit_ids: Collection[int]) -> dict[int, Kit]:
        """Kits with their jobs and current tasks; those that do not exist are left out."""
        return await read_kits(self._open(), kit_ids)

    async def kits_of(self, job_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, tuple[int, str]]:
        """The kit of each job that exists, and the kit's project."""
        rows = await fetch(self._open(), "kits_of_jobs", {"job_ids": list(job_ids)})
        return {row[0]: (row[1], row[2]) for row in rows}

    async def recorded(self, rows: Iterable[tuple[uuid.UUID, int, int, Content]]) -> Seqs:
        """The recorded rows with the job, attempt and seq of rows that may be repeats.

        Args:
            rows: job_id, attempt, seq and content of each.

        Returns:
            The revision of each recorded row, and those of the contents that are its own.
        """
        seqs: dict[tuple[uuid.UUID, int], list[int]] = {}
        contents: dict[tuple[uuid.UUID, int, int], set[Content]] = {}
        for job_id, attempt, seq, content in rows:
            seqs.setdefault((job_id, attempt), []).append(seq)
            contents.setdefault((job_id, attempt, seq), set()).add(content)
        keys = [{"j": str(j), "a": a, "q": q} for (j, a), q in seqs.items()]
        matches = await fetch(self._open(), "recorded_seqs", {"wanted": json.dumps(keys)})
        if not matches:
            return {}
        revisions = {(match[0], match[1], match[2]): match[3] for match in matches}
        # In two steps, because most rows are new: their contents need not be sent to be compared.
        compared = [
            (revision, content) for key, revision in revisions.items() for content in contents[key]
        ]
        places = await fetch(self._open(), "same_rows", {"rows": contents_text(compared)})
        same = {compared[place] for (place,) in places}
        return {
            key: Recorded(
                revision,
                frozenset(content for content in contents[key] if (revision, content) in same),
            )
            for key, revision in revisions.items()
        }

    async def answers(self, request_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Answered]:
        """The stored answers to requests, by request id; others are left out."""
        rows = await fetch(self._open(), "answers", {"request_ids": list(request_ids)})
        return {
            row[0]: Answered(
                method=row[1], body_sha256=row[2], response=bytes(row[3]), created_at=row[4]
            )
            for row in rows
        }

    async def changes(self, change_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Change]:
        """Unfinished changes of one kit, by their ids; others are left out."""
        rows = await fetch(self._open(), "unfinished_changes", {"change_ids": list(change_ids)})
        changes = [to_change(row) for row in rows]
        return {change.change_id: change for change in changes if isinstance(change, Change)}

    async def forget_requests(self, seconds: float, trail_seconds: float) -> None:
        """Forgets some of the request ids, and some of the requests, that are older than this."""
        parameters = {"seconds": seconds, "trail_seconds": max(seconds, trail_seconds)}
        await fetch_none(self._open(), "forget_requests", parameters)

    async def write(
        self, draft: Changes, commit_id: uuid.UUID, answers: Answers
    ) -> datetime | None:
        """Commits a batch.

        Returns:
            The time of the commit by the database's clock; None if another replica moved the
            head and nothing was written.
        """
        self._held()
        large = len(draft.rows) + len(draft.new_jobs) > LARGE_BATCH
        statement, parameters = (
            await off_loop.writing.do(_parameters, draft, answers)
            if large
            else _parameters(draft, answers)
        )
        parameters |= {
            "expected_id": draft.head.last_id,
            "expected_commit": draft.head.commit_id,
            "commit_id": commit_id,
            "replica": self._replica,
            "last_id": draft.last_id,
            "last_kit_id": draft.last_kit_id,
        }
        assert self._prepared is not None
        microseconds = await self._prepared.run(statement, parameters)
        if not self._idle:
            # `lock` began a transaction; otherwise the statement was one of its own.
            reached("append.before_transaction_end")
            if microseconds is None:
                await self._prepared.roll_back()
            else:
                await self._open().execute("COMMIT")
        if microseconds is None:
            return None
        return _YEAR_2000 + timedelta(microseconds=int.from_bytes(microseconds, signed=True))

    def _open(self) -> Connection:
        """The connection, for psycopg to use."""
        connection = self._held()
        if self._prepared is not None:
            self._prepared.let_go()
        return connection

    def _held(self) -> Connection:
        if self._connection is None:
            raise psycopg.OperationalError("the ledger is not connected")
        return self._connection


async def fetch_none(connection: Connection, name: str, parameters: dict[str, Any]) -> None:
    """Runs a named query that returns no rows."""
    await connection.execute(QUERIES[name], parameters)


def _parameters(draft: Changes, answers: Answers) -> tuple[LiteralString, dict[str, Any]]:
    """The statement that writes a batch, and its parameters from the batch.

    ``TASKS`` writes rows of tasks only, ``LEAN`` also jobs that moved, ``FULL`` everything.
    """
    moved_jobs = draft.jobs_moved()
    texts = Texts()
    parameters: dict[str, Any] = {"rows": rows_text(draft, texts)}
    changes = draft.changes_begun or draft.changes_moved or draft.changes_over or draft.many_begun
    lean = draft.tasks_only and not answers and not changes
    if moved_jobs or not lean:
        parameters["jobs"] = _json(
            [_job(job, texts, with_result=job.job_id in draft.results) for job in moved_jobs]
        )
    if not lean:
        parameters |= _rest(draft, answers, texts)
    parameters["texts"] = texts.json()
    parameters["metadata"] = texts.metadata()
    return (LEAN if moved_jobs else TASKS) if lean else FULL, parameters


_json = json.JSONEncoder(ensure_ascii=False).encode


def _kit(kit: Kit) -> dict[str, Any]:
    return {
        "kit_id": kit.kit_id,
        "status": kit.status,
        "counts": kit.counts,
        "revision": kit.revision,
        "paused": kit.paused,
        "pauses": kit.pauses,
    }


def _job(job: Job, texts: Texts, *, with_result: bool) -> dict[str, Any]:
    return {
        "job_id": str(job.job_id),
        "status": job.status,
        "attempt": job.attempt,
        "last_seq": job.last_seq,
        "failures": job.failures,
        "revision": job.revision,
        "worker": job.worker,
        "reason": texts.place(job.reason),
        "actor": job.actor,
        "started": _time(job.started_at),
        "finished": _time(job.finished_at),
        "result": (job.result_json or None) if with_result else None,
    }


def _time(time: datetime | None) -> str | None:
    """A time; the statement puts its own where it reads infinity."""
    if time is None:
        return None
    return "infinity" if time is PENDING else time.isoformat()


def _rest(draft: Changes, answers: Answers, texts: Texts) -> dict[str, str]:
    """The parameters that `FULL` has beyond those of `LEAN`: one JSON array a table."""
    old_kits = [kit for kit in draft.kits.values() if kit.kit_id not in draft.new_kits]
    new_jobs = [draft.jobs[job_id] for job_id in draft.new_jobs]
    begun = [_change(change) for change in draft.changes_begun.values()]
    begun += [_many(change_id, many) for change_id, many in draft.many_begun.items()]
    return {
        "kits": _json([_kit(kit) for kit in old_kits]),
        "new_kits": _json([_new_kit(draft.kits[kit_id]) for kit_id in draft.new_kits]),
        "new_jobs": _json([_new_job(job, texts) for job in new_jobs]),
        # One text, which the database splits faster than it converts JSON. Names hold no blanks.
        "needs": BETWEEN.join([" ".join(job.depends_on) for job in new_jobs]),
        "restarted": _json([_restarted(draft.jobs[job_id]) for job_id in draft.restarted]),
        "ended": _json([str(job_id) for job_id in draft.ended]),
        "leases": _json([_lease(lease) for lease in draft.leases.values()]),
        "requests": _json([_request(request, response) for request, response in answers]),
        "changes_begun": _json(begun),
        "changes_moved": _json([_progress(change) for change in draft.changes_moved.values()]),
        "changes_over": _json([str(change_id) for change_id in draft.changes_over]),
    }


def _new_kit(kit: Kit) -> dict[str, Any]:
    return {
        **_kit(kit),
        "name": kit.name,
        "project": kit.project,
        "labels": dict(kit.labels),
        "spec": kit.spec_json or None,
        "actor": kit.actor,
        "first_revision": kit.first_revision,
    }


def _restarted(job: Job) -> dict[str, Any]:
    return {"kit_id": job.kit_id, "job_id": str(job.job_id)}


def _lease(lease: NewLease) -> dict[str, Any]:
    return {
        "job_id": str(lease.job_id),
        "attempt": lease.attempt,
        "worker": lease.worker,
        "seconds": lease.seconds,
    }


def _request(request: Request, response: bytes) -> dict[str, Any]:
    return {
        "data": request.data_json,
        "request_id": str(request.request_id) if request.request_id else None,
        "method": request.method,
        "body_sha256": request.body_sha256,
        "response": base64.b64encode(response).decode(),
        "actor": request.actor,
        "kit_id": request.kit_id,
    }


def _progress(change: Change) -> dict[str, Any]:
    """How far a change is that began in an earlier commit."""
    return {
        "change_id": str(change.change_id),
        "done": change.done,
        "moved": change.count,
        "revision": change.revision,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "change_id": str(change.change_id),
        "method": change.request.method,
        "body_sha256": change.request.body_sha256,
        "data": change.request.data_json,
        "retry": change.retry,
        "reason": change.reason,
        "actor": change.actor,
        "kit_id": change.kit_id,
        "job_ids": [str(job_id) for job_id in change.job_ids],
        "whole": change.whole,
        "done": change.done,
        "moved": change.count,
        "revision": change.revision,
    }


def _many(change_id: uuid.UUID, many: ManyJobs) -> dict[str, Any]:
    jobs = many.filter
    before = jobs.created_before
    return {
        "change_id": str(change_id),
        "method": many.request.method,
        "body_sha256": many.request.body_sha256,
        "data": many.request.data_json,
        "retry": many.retry,
        "reason": many.reason,
        "actor": many.actor,
        "done": 0,
        "moved": 0,
        "revision": 0,
        "wanted": {
            "kit_ids": list(jobs.kit_ids),
            "job_types": sorted(jobs.job_types),
            "statuses": sorted(jobs.statuses),
            "project": jobs.project,
            "kit_labels": list(jobs.kit_labels),
            "labels": list(jobs.labels),
            "created_before": before.isoformat() if before is not None else None,
        },
    }


def _new_job(job: Job, texts: Texts) -> dict[str, Any]:
    return {
        **_job(job, texts, with_result=True),
        "kit_id": job.kit_id,
        "name": job.name,
        "job_type": job.job_type,
        "current_order": job.current_order,
        "spec_type": job.spec_type,
        "spec": base64.b64encode(job.spec).decode(),
        "external": job.external,
        "max_attempts": job.max_attempts,
        "timeout": job.timeout_seconds,
        "priority": job.priority,
        "labels": dict(job.labels),
        "first_revision": job.first_revision,
    }
