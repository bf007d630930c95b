"""Changes that are made in pieces: their storage, and their continuation after a crash.

A change of many jobs takes several commits, between which others write. Each commit also writes the
remaining work: if the registry crashes, another replica continues the change, or the same one after
its restart. Two may do so at the same time: each piece is made from the recorded state of the
change, and a commit fails if the log has moved.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.pool import Row
from vistaflow_services.registry.domain import JobChangeFilter

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Interval of the search for interrupted changes."""

LEFT_ALONE_SECONDS = 5.0
"""Time without a commit after which another registry takes a change over."""


class ChangeSource(Protocol):
    """The storage of unfinished changes."""

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows of a named query."""


class UnfinishedChanges:
    """Continues interrupted changes.

    Args:
        source: The storage of the changes.
        go_on: Makes the remaining pieces of a change, and returns after the last.
    """

    def __init__(
        self, source: ChangeSource, go_on: Callable[[c.Change | c.ManyJobs], Awaitable[object]]
    ) -> None:
        self._source = source
        self._go_on = go_on
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Searches for such changes until it is canceled."""
        while True:
            try:
                await self.take(LEFT_ALONE_SECONDS)
            except ServiceError as error:
                logger.info("unfinished changes cannot be looked up now: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def take(self, seconds: float) -> None:
        """Continues the changes that had no commit for so long."""
        for row in await self._source.fetch("take_changes", {"seconds": seconds}):
            change = to_change(row)
            logger.info("continuing %s of request %s", change.request.method, row[0])
            task = asyncio.create_task(self._finish(change))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, change: c.Change | c.ManyJobs) -> None:
        try:
            await self._go_on(change)
        except ServiceError as error:
            logger.info("%s is tried again later: %s", change.request.method, error)


def to_change(row: Row) -> c.Change | c.ManyJobs:
    """A row of the query `unfinished_changes`. The caller sets what encodes the answer."""
    change_id, method, body_sha256, data, retry, reason, actor, kit_id, job_ids, *progress = row
    whole, done, moved, revision, stored_filter = progress
    request = c.Request(
        request_id=change_id,
        method=method,
        body_sha256=body_sha256,
        data_json=data,
        encode=lambda _: b"",
    )
    if kit_id is None:
        return c.ManyJobs(
            request=request,
            filter=_filter(
                stored_filter if isinstance(stored_filter, dict) else json.loads(stored_filter)
            ),
            retry=retry,
            dry_run=False,
            reason=reason,
            actor=actor,
        )
    return c.Change(
        change_id=change_id,
        request=request,
        kit_id=kit_id,
        job_ids=tuple(map(_uuid, job_ids)),
        retry=retry,
        whole=whole,
        reason=reason,
        actor=actor,
        done=done,
        count=moved,
        revision=revision,
    )


def _uuid(value: uuid.UUID | str) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def _filter(stored: Mapping[str, Any]) -> JobChangeFilter:
    before = stored["created_before"]
    return JobChangeFilter(
        kit_ids=tuple(stored["kit_ids"]),
        job_types=frozenset(stored["job_types"]),
        statuses=frozenset(stored["statuses"]),
        project=stored["project"],
        kit_labels=tuple((key, value) for key, value in stored["kit_labels"]),
        labels=tuple((key, value) for key, value in stored["labels"]),
        created_before=datetime.fromisoformat(before) if before is not None else None,
    )
