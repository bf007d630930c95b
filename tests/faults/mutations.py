"""Known-bad registries: the real code with one deliberate bug each.

The suite must catch every one of them, else it catches nothing. Never shipped: the harness starts
`python -m tests.faults.mutated <name>`, which patches the classes and runs the registry.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg_pool import AsyncConnectionPool

from vistaflow_services.registry import __main__ as main
from vistaflow_services.registry.database.pool import Connections
from vistaflow_services.registry.database.sessions import session_conninfo
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.log import draft, journal
from vistaflow_services.registry.log.hub import Hub, Stretch, Subscription
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger, _Waiting
from vistaflow_services.registry.log.tail import Tail
from vistaflow_services.registry.reads.store import SETTINGS


def id_cursor() -> None:
    """Ids are taken outside the transaction, as a sequence does; watchers read `id > last`."""
    full, take = (
        journal.FULL,
        (
            "UPDATE head SET last_id = last_id + %(n)s, commit_id = gen_random_uuid()"
            " RETURNING last_id, commit_id"
        ),
    )
    before, _, rest = full.partition("WITH cas AS (")
    loose = before + "WITH cas AS (SELECT clock_timestamp() AS now" + rest[rest.index("\n)") :]
    original = Journal.write

    async def write(self: Journal, changes: Any, commit_id: uuid.UUID, answers: Any) -> Any:
        if answers or changes.new_kits:
            return await original(self, changes, commit_id, answers)
        connection = self._open()
        count = changes.last_id - changes.head.last_id
        cursor = await connection.execute(take, {"n": count})
        row = await cursor.fetchone()
        assert row is not None
        shift = row[0] - changes.last_id
        for each in changes.rows:
            each.revision += shift
            each.batch += shift
        for job in changes.jobs.values():
            job.revision += shift
        changes.last_id += shift
        changes.shift = shift
        texts = journal.Texts()
        parameters = {
            "commit_id": row[1],
            "replica": self._replica,
            "last_id": changes.last_id,
            "rows": journal.rows_text(changes, texts),
            "kits": "[]",
            "jobs": journal.json.dumps(
                [journal._job(job, texts, with_result=False) for job in changes.jobs.values()]
            ),
            **journal._rest(changes, answers, texts),
        }
        parameters["texts"] = texts.json()
        parameters["metadata"] = texts.metadata()
        await connection.execute("BEGIN")
        cursor = await connection.execute(loose, parameters)
        told = await cursor.fetchone()
        await asyncio.sleep(random.uniform(0, 0.01))
        await connection.execute("COMMIT")
        return None if told is None else told[0]

    def publish(self: Hub, rows: Sequence[StateRow]) -> None:
        if rows and rows[-1].revision > self.head:
            self.head = rows[-1].revision
            self.oldest = self.head + 1
            self.wake_all()

    def read(self: Hub, subscription: Subscription, after: int) -> Stretch | None:
        return None if after < self.head else Stretch([], after)

    async def catch_up(self: Tail, connection: Any) -> None:
        cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM mlops_totalstate_table")
        row = await cursor.fetchone()
        if row[0] > self._hub.head:
            self._hub.head, self._hub.oldest = row[0], row[0] + 1
            self._hub.wake_all()

    async def follow(self: Ledger, head: Any) -> None:
        self._head = head

    finish = Ledger._finish

    def finish_shifted(self: Ledger, batch: Any, now: Any, head: Any) -> None:
        shift = getattr(batch.draft, "shift", 0)
        for _, answer in batch.results:
            for result in getattr(answer, "results", ()):
                object.__setattr__(result, "revision", result.revision + shift)
        finish(self, batch, now, head)

    Ledger._finish = finish_shifted  # type: ignore[method-assign]
    Journal.write = write  # type: ignore[method-assign]
    Hub.publish = Hub.advance_to = publish  # type: ignore[method-assign]
    Hub.read = read  # type: ignore[method-assign]
    Tail._catch_up = catch_up  # type: ignore[method-assign]
    Ledger._catch_up = follow  # type: ignore[method-assign]


def no_fence() -> None:
    """Nobody looks which attempt a row is of."""
    draft.unfit = lambda job, item: None  # type: ignore[assignment]


def ack_before_commit() -> None:
    """Callers are answered when their rows are in memory; the commit follows."""
    original = Ledger._make

    async def make(self: Ledger, waiting: list[_Waiting]) -> Any:
        batch = await original(self, waiting)
        for each, answer in batch.results:
            if not each.answer.done() and not isinstance(answer, Exception):
                if hasattr(answer, "settle"):
                    answer.settle(datetime.now(UTC))
                each.answer.set_result(answer)
        await asyncio.sleep(0.02)
        return batch

    Ledger._make = make  # type: ignore[method-assign]


def notify_only() -> None:
    """What another replica wrote is fetched when it notifies, and never looked for."""

    async def round_(self: Tail, connection: Any) -> None:
        notified = await self._notified(connection, 3600.0)
        if notified > self._hub.head:
            await self._catch_up(connection)

    Tail._round = round_  # type: ignore[method-assign]


def no_dedupe() -> None:
    """A repeat is taken for something new."""

    async def nothing(self: Ledger, commands: Any) -> dict[Any, Any]:
        return {}

    original = draft.Draft._append_one

    def append_one(self: Any, item: Any) -> Any:
        self._seqs = {}
        return original(self, item)

    Ledger._seqs = nothing  # type: ignore[method-assign]
    draft.Draft._append_one = append_one  # type: ignore[method-assign]


def naive_pool() -> None:
    """The pool checks each connection before it is lent, and is never drained."""

    def make_pool(conninfo: str, *, schema: str = "vistadb_test", size: int = 10) -> Any:
        return AsyncConnectionPool(
            session_conninfo(conninfo, name="vistaflow registry", schema=schema, settings=SETTINGS),
            min_size=40,
            max_size=40,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )

    async def never(self: Any) -> None:
        return None

    main.make_pool = make_pool  # type: ignore[attr-defined]
    Connections._drain = never  # type: ignore[method-assign]
    AsyncConnectionPool.drain = never  # type: ignore[method-assign]


MUTATIONS = {
    each.__name__: each
    for each in (id_cursor, no_fence, ack_before_commit, notify_only, no_dedupe, naive_pool)
}
"""Every mutation, by name."""


def deaf() -> None:
    """No notification is ever heard. Not a bug: only a network that loses them all."""

    async def notified(self: Tail, connection: Any, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 0

    Tail._notified = notified  # type: ignore[method-assign]


VARIANTS = {**MUTATIONS, "deaf": deaf}
"""Everything that a registry can be started with."""
