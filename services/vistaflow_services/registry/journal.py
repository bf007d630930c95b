"""The ledger's own connection: one statement commits a batch, and what it must read before."""

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
from vistaflow_services.core.postgres import session_conninfo
from vistaflow_services.registry.changes import Changes, Content, Recorded, Seqs
from vistaflow_services.registry.commands import Change, ManyJobs, Request
from vistaflow_services.registry.domain import PENDING, Head, Job, Kit, StateRow
from vistaflow_services.registry.reading import QUERIES, Connection, fetch, read_head, read_kits
from vistaflow_services.registry.row_texts import Texts, contents_text, rows_text
from vistaflow_services.registry.statement import Prepared
from vistaflow_services.registry.unfinished import to_change
from vistaflow_services.registry.watch_store import to_row

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
    # One plan for ever: the statement is long, what it touches is found by key.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
LARGE_BATCH = 200
"""Rows and new jobs of a batch whose text is not made in the event loop."""

ROOM_SECONDS = 10.0
"""How long nobody tries to add partitions ahead after somebody kept it from being done."""

KEEPALIVE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a request was answered, for when it comes again."""

    method: str
    body_sha256: str
    response: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the last commit this process knows nothing of."""

    head: Head
    commit_id: uuid.UUID | None
    """The last commit of this process that happened."""
    committed_at: datetime


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
        """Connects anew, makes sure that no statement of ours is still under way, and looks."""
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

        Each statement adds a few only, so that none takes long; ahead of time it may fail.
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

    async def recorded(self, wanted: Iterable[tuple[uuid.UUID, int, int, Content]]) -> Seqs:
        """The rows that exist of some job, attempt and seq, and which of the contents are theirs.

        Args:
            wanted: job_id, attempt, seq and content.
        """
        seqs: dict[tuple[uuid.UUID, int], list[int]] = {}
        contents: dict[tuple[uuid.UUID, int, int], set[Content]] = {}
        for job_id, attempt, seq, content in wanted:
            seqs.setdefault((job_id, attempt), []).append(seq)
            contents.setdefault((job_id, attempt, seq), set()).add(content)
        asked = [{"j": str(j), "a": a, "q": q} for (j, a), q in seqs.items()]
        rows = await fetch(self._open(), "recorded_seqs", {"wanted": json.dumps(asked)})
        if not rows:
            return {}
        revisions = {(row[0], row[1], row[2]): row[3] for row in rows}
        # Two steps: most of what is asked for is new, and need not be sent to be compared.
        compared = [
            (revision, each) for key, revision in revisions.items() for each in contents[key]
        ]
        places = await fetch(self._open(), "same_rows", {"rows": contents_text(compared)})
        same = {compared[place] for (place,) in places}
        return {
            key: Recorded(
                revision, frozenset(each for each in contents[key] if (revision, each) in same)
            )
            for key, revision in revisions.items()
        }

    async def answers(self, request_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Answered]:
        """What requests were answered, of those that were."""
        rows = await fetch(self._open(), "answers", {"request_ids": list(request_ids)})
        return {
            row[0]: Answered(
                method=row[1], body_sha256=row[2], response=bytes(row[3]), created_at=row[4]
            )
            for row in rows
        }

    async def changes(self, change_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Change]:
        """Changes of one kit of which more is left, of those that there are."""
        rows = await fetch(self._open(), "unfinished_changes", {"change_ids": list(change_ids)})
        changes = [to_change(row) for row in rows]
        return {each.change_id: each for each in changes if isinstance(each, Change)}

    async def forget_requests(self, seconds: float) -> None:
        """Removes some requests that are older than they are kept."""
        await fetch_none(self._open(), "forget_requests", {"seconds": seconds})

    async def write(
        self, draft: Changes, commit_id: uuid.UUID, answers: Answers
    ) -> datetime | None:
        """Commits a batch.

        Returns:
            When, by the database's clock; None if somebody else moved the head.
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
        told = await self._prepared.run(statement, parameters)
        if not self._idle:
            reached("append.before_transaction_end")
            if told is None:
                await self._prepared.roll_back()
            else:
                await self._open().execute("COMMIT")
        if told is None:
            return None
        return _YEAR_2000 + timedelta(microseconds=int.from_bytes(told, signed=True))

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
    """The statement that writes a batch, and what it takes of the batch."""
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
    new_kits = [draft.kits[kit_id] for kit_id in draft.new_kits]
    new_jobs = [draft.jobs[job_id] for job_id in draft.new_jobs]
    return {
        "kits": _json(
            [_kit(kit) for kit in draft.kits.values() if kit.kit_id not in draft.new_kits]
        ),
        "new_kits": _json(
            [
                {
                    **_kit(kit),
                    "name": kit.name,
                    "project": kit.project,
                    "labels": dict(kit.labels),
                    "spec": kit.spec_json or None,
                    "actor": kit.actor,
                    "first_revision": kit.first_revision,
                }
                for kit in new_kits
            ]
        ),
        "new_jobs": _json([_new_job(job, texts) for job in new_jobs]),
        "restarted": _json(
            [
                {"kit_id": draft.jobs[job_id].kit_id, "job_id": str(job_id)}
                for job_id in draft.restarted
            ]
        ),
        "ended": _json([str(job_id) for job_id in draft.ended]),
        "leases": _json(
            [
                {
                    "job_id": str(lease.job_id),
                    "attempt": lease.attempt,
                    "worker": lease.worker,
                    "seconds": lease.seconds,
                }
                for lease in draft.leases.values()
            ]
        ),
        "requests": _json(
            [
                {
                    "data": request.data_json,
                    "request_id": str(request.request_id) if request.request_id else None,
                    "method": request.method,
                    "body_sha256": request.body_sha256,
                    "response": base64.b64encode(response).decode(),
                }
                for request, response in answers
            ]
        ),
        "changes_begun": _json(
            [_change(change) for change in draft.changes_begun.values()]
            + [_many(change_id, many) for change_id, many in draft.many_begun.items()]
        ),
        "changes_moved": _json(
            [
                {
                    "change_id": str(change.change_id),
                    "done": change.done,
                    "moved": change.count,
                    "revision": change.revision,
                }
                for change in draft.changes_moved.values()
            ]
        ),
        "changes_over": _json([str(change_id) for change_id in draft.changes_over]),
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
    wanted = many.filter
    before = wanted.created_before
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
            "kit_ids": list(wanted.kit_ids),
            "job_types": sorted(wanted.job_types),
            "statuses": sorted(wanted.statuses),
            "project": wanted.project,
            "kit_labels": list(wanted.kit_labels),
            "labels": list(wanted.labels),
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
        # As one text: of JSON the database takes longer to make an array. Names hold no blanks.
        "depends_on": " ".join(job.depends_on),
        "spec_type": job.spec_type,
        "spec": base64.b64encode(job.spec).decode(),
        "external": job.external,
        "max_attempts": job.max_attempts,
        "timeout": job.timeout_seconds,
        "priority": job.priority,
        "labels": dict(job.labels),
        "first_revision": job.first_revision,
    }
