"""Records the events that follow from the log, behind its end, in order, each once.

A stored revision says how far they are recorded; it moves in the transaction that records them. So
appending to the log costs the same whether anybody wants events or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from vistaflow_services.core import config, off_loop
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.database.pool import Connection, Connections, Pool, Row
from vistaflow_services.registry.database.queries import QUERIES, fetch, fetch_planned
from vistaflow_services.registry.outbox.events import add_events, kit_event
from vistaflow_services.registry.outbox.lineage import lineage_events
from vistaflow_services.registry.outbox.store import OutboxStore

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5

IDLE_SECONDS: Final = 10.0
"""How often the database is asked although the log has not grown: another registry that was
recording may have died, or its own look may have failed."""

ROWS_AT_ONCE: Final = 20_000
"""Rows of the log that one transaction reads through."""

FORGET_SECONDS: Final = 3600.0


class Recorder:
    """Follows the log.

    Args:
        pool: Connections whose search path is the registry's schema.
        store: Deletes what is no longer kept, and tells the time.
        head: The last revision that this registry knows.
    """

    def __init__(self, pool: Pool, store: OutboxStore, head: Callable[[], int]) -> None:
        self._connections = Connections(pool)
        self._store = store
        self._head = head

    async def run(self) -> None:
        """Records again and again, without end."""
        forgot_at = time.monotonic()
        looked_at, seen = -IDLE_SECONDS, -1
        while True:
            head = self._head()
            if head == seen and time.monotonic() - looked_at < IDLE_SECONDS:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                more = await self.record()
                looked_at, seen = time.monotonic(), -1 if more else head
                if time.monotonic() - forgot_at > FORGET_SECONDS:
                    forgot_at = time.monotonic()
                    await self._store.forget()
            except ServiceError as error:
                logger.debug("events are not recorded now: %s", error)
                more = False
            if not more:
                await asyncio.sleep(LOOK_SECONDS)

    async def record(self) -> bool:
        """Records the events of the next part of the log; whether there is more of it."""

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                rows = await fetch(connection, "begin_outbox")
                if not rows:
                    return False
                ((revision, head, has_webhooks),) = rows
                if revision == head:
                    return False
                until = min(head, revision + ROWS_AT_ONCE) if head > revision else head
                has_lineage = bool(config.openlineage_url())
                part = {"after": revision, "until": until}
                if has_webhooks:
                    ends = await fetch_planned(connection, QUERIES["ended_kits"], part)
                    events = await off_loop.reading.do(lambda: list(map(kit_event, ends)))
                    await add_events(connection, events, self._store.clock())
                if has_lineage:
                    jobs = await fetch_planned(connection, QUERIES["data_jobs"], part)
                    rows_json = await off_loop.reading.do(_lineage_json, jobs)
                    parameters = {"events": rows_json, "now": self._store.clock()}
                    await connection.execute(QUERIES["add_lineage"], parameters)
                if not (has_webhooks or has_lineage):
                    until = head
                await connection.execute(QUERIES["move_outbox"], {"revision": until})
                return bool(until < head)

        return await self._connections.use(work)


def _lineage_json(jobs: Sequence[Row]) -> str:
    """The lineage events of jobs, as JSON for the query `add_lineage`."""
    events: list[dict[str, Any]] = []
    for job in jobs:
        try:
            events += lineage_events(job)
        except (ValueError, TypeError, LookupError, AttributeError):
            # Its spec or its result was written by hand.
            logger.warning("the lineage of job %s cannot be read", job[1])
    return json.dumps([{"place": place, **event} for place, event in enumerate(events)])
