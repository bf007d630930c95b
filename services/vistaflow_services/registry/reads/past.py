"""Reads of kits as they were, and of the jobs that match a filter of a change."""

from __future__ import annotations

import uuid
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ParamSpec, TypeVar

from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import ExpiredError, NotFoundError
from vistaflow_services.core.lru import Lru
from vistaflow_services.registry.database.pool import Connection
from vistaflow_services.registry.database.queries import fetch, slices
from vistaflow_services.registry.database.rows import filter_parameters, to_job, to_kit, to_row
from vistaflow_services.registry.domain import Counts, Head, Job, JobChangeFilter, Kit, StateRow
from vistaflow_services.registry.reads.history import (
    Difference,
    Incomplete,
    Moment,
    PastKit,
    differences,
)

MAX_WEIGHT = 1_000_000
"""Tasks and differences of the answers in memory, 8 and 16 bytes each; a job counts as many."""

JOB_WEIGHT = 100

INLINE_ROWS = 100
"""More rows than these are compared beside the event loop."""

P = ParamSpec("P")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTree:
    """A kit as it was at a revision, for its pages."""

    kit: Kit
    """With its jobs, but not with their tasks."""
    counts: Mapping[uuid.UUID, Counts]
    """Tasks by status, of each job that has some."""
    tasks: Mapping[uuid.UUID, Sequence[int]]
    """Revisions of the tasks of each job, in order."""

    @property
    def weight(self) -> int:
        """About how much memory it takes."""
        return JOB_WEIGHT * (1 + len(self.kit.jobs)) + sum(map(len, self.tasks.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A kit at two revisions, for the pages of what differs."""

    before: Kit | None
    """Without its jobs, like the next; None: it was not there."""
    after: Kit
    befores: Sequence[int]
    """Of each difference the revision before, 0 if there was no row."""
    afters: Sequence[int]
    """Of each the revision after, 0 if there is no row; the later of the two rises."""

    @property
    def weight(self) -> int:
        """About how much memory it takes."""
        return JOB_WEIGHT + 2 * len(self.afters)

    def __len__(self) -> int:
        """How many differences there are."""
        return len(self.afters)

    def some(self, start: int, count: int) -> list[Difference]:
        """At most `count` differences from the place `start` on."""
        end = start + count
        return list(map(Difference.of, self.befores[start:end], self.afters[start:end]))

    def place_after(self, revision: int) -> int:
        """The place of the first difference whose later row comes after a revision."""
        places = range(len(self.afters))
        return bisect_right(
            places, revision, key=lambda place: self.afters[place] or self.befores[place]
        )


class Past:
    """Trees and comparisons of the past, held in memory because each page of an answer needs them.

    Those used longest ago are dropped when all weigh too much.

    Args:
        max_weight: How much they may weigh together.
    """

    def __init__(self, *, max_weight: int = MAX_WEIGHT) -> None:
        self._answers: Lru[tuple[int, ...], PastTree | Comparison] = Lru(max_weight)
        self.hit_count = 0
        """Reads answered from memory."""

    async def tree(
        self, connection: Connection, kit_id: int, revision: int, head: Head
    ) -> PastTree | None:
        """A kit as it was at a revision; None if it was not there then.

        Raises:
            NotFoundError: There is no such kit.
            ExpiredError: The revision is not in the log.
        """
        check_kept(revision, head)
        key = (kit_id, revision, head.oldest_id)
        answer = self._get(key)
        if isinstance(answer, PastTree):
            return answer
        moment = await read_moment(connection, kit_id, revision, head)
        if moment is None:
            return None
        tree = await _run(_size(moment), _tree, moment)
        self._put(key, tree)
        return tree

    async def comparison(
        self, connection: Connection, kit_id: int, first: int, last: int, head: Head
    ) -> Comparison | None:
        """What differs between two revisions of a kit; None if it was not there at the later.

        Args:
            connection: Where to read it.
            kit_id: The kit.
            first: The earlier; 0: before there was anything.
            last: The later.
            head: Where the log ends.

        Raises:
            NotFoundError: There is no such kit.
            ExpiredError: A revision is not in the log.
        """
        for revision in (first, last) if first else (last,):
            check_kept(revision, head)
        key = (kit_id, first, last, head.oldest_id)
        answer = self._get(key)
        if isinstance(answer, Comparison):
            return answer
        before = await read_moment(connection, kit_id, first, head) if first else None
        after = await read_moment(connection, kit_id, last, head)
        if after is None:
            return None
        size = _size(after) + (_size(before) if before is not None else 0)
        compared = await _run(size, _compare, before, after)
        self._put(key, compared)
        return compared

    def _get(self, key: tuple[int, ...]) -> PastTree | Comparison | None:
        answer = self._answers.get(key)
        if answer is not None:
            self.hit_count += 1
        return answer

    def _put(self, key: tuple[int, ...], answer: PastTree | Comparison) -> None:
        self._answers.put(key, answer, answer.weight)


async def _run(size: int, work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
    """Runs work on `size` rows or jobs, beside the event loop if they are many."""
    if size > INLINE_ROWS:
        return await off_loop.reading.do(work, *args, **kwargs)
    return work(*args, **kwargs)


def _size(moment: Moment) -> int:
    return sum(map(len, moment.rows.values()))


def _tree(moment: Moment) -> PastTree:
    kit = moment.kit
    tasks = {
        job_id: array(
            "q", sorted(revision for name, revision in moment.rows[job_id].items() if name)
        )
        for job_id in kit.jobs
        if job_id in moment.rows
    }
    return PastTree(kit=kit, counts=moment.counts, tasks=tasks)


def _compare(before: Moment | None, after: Moment) -> Comparison:
    changes = differences(before, after)
    return Comparison(
        before=replace(before.kit, jobs={}) if before is not None else None,
        after=replace(after.kit, jobs={}),
        befores=array("q", (change.before for change in changes)),
        afters=array("q", (change.after for change in changes)),
    )


async def read_moment(
    connection: Connection, kit_id: int, revision: int, head: Head
) -> Moment | None:
    """A kit as it was at a revision; None if it was not there then.

    Jobs come without specs and results, of which a large kit has very much. Those of the jobs of
    a page are read with the page, like its rows; see `tree_pages` and `read_rows`.

    Raises:
        NotFoundError: There is no such kit.
        ExpiredError: The revision is not in the log.
    """
    check_kept(revision, head)
    kits = await fetch(connection, "kits_by_id", {"kit_ids": [kit_id]})
    if not kits:
        raise NotFoundError(f"there is no kit {kit_id}")
    kit: Kit = to_kit(kits[0])
    if revision < kit.first_revision:
        return None
    for row in await fetch(connection, "jobs_of_kit_in_short", {"kit_id": kit_id}):
        job = to_job(row)
        kit.jobs[job.job_id] = job
    until = {"kit_id": kit_id, "revision": revision}
    own = await fetch(connection, "own_rows_until", until)
    try:
        past = await _run(len(own), PastKit, kit, revision, map(to_row, own))
    except Incomplete as error:
        raise ExpiredError(
            f"what kit {kit_id} was at revision {revision} is no longer kept",
            reason="REVISION_EXPIRED",
            metadata={"oldest_revision": str(head.oldest_id)},
        ) from error
    async with aclosing(slices(connection, "task_rows_until", until)) as parts:
        async for rows in parts:
            await _run(len(rows), past.add, map(to_row, rows))
    return await _run(len(own), past.moment)


async def read_rows(connection: Connection, ids: Sequence[int], limit: int) -> dict[int, StateRow]:
    """Rows of the log by their revisions: the first of those asked for, about so many bytes."""
    rows = await fetch(connection, "rows_by_id", {"ids": list(ids), "bytes": limit})
    return {row[0]: to_row(row) for row in rows}


async def read_revision_at(connection: Connection, time: datetime, head: Head) -> int:
    """The last revision recorded by a time.

    Raises:
        ExpiredError: The log does not keep, or does not know yet, what was then.
    """
    ((revision, past),) = await fetch(connection, "revision_at", {"time": time})
    if not past:
        raise ExpiredError(
            "the time is beyond the clock of the database: what will be is not known",
            reason="BEYOND_HEAD",
            metadata={"head_revision": str(head.last_id)},
        )
    if revision < head.oldest_id and head.oldest_id > 1:
        raise _expired(head)
    return int(revision)


def check_kept(revision: int, head: Head) -> None:
    """Raises `ExpiredError` if a revision is beyond the head or no longer kept."""
    if revision > head.last_id:
        raise ExpiredError(
            f"revision {revision} is beyond the head of the log, {head.last_id}",
            reason="BEYOND_HEAD",
            metadata={"head_revision": str(head.last_id)},
        )
    if revision < head.oldest_id and head.oldest_id > 1:
        raise _expired(head)


async def count_jobs(connection: Connection, chosen: JobChangeFilter) -> int:
    """How many jobs a filter wants."""
    ((number,),) = await fetch(connection, "count_matching_jobs", filter_parameters(chosen))
    return int(number)


async def jobs_by_kit(
    connection: Connection, chosen: JobChangeFilter, *, after: int, limit: int
) -> list[tuple[int, tuple[uuid.UUID, ...]]]:
    """The jobs that a filter wants of the next kits, in their order."""
    parameters = filter_parameters(chosen) | {"after": after, "limit": limit}
    rows = await fetch(connection, "matching_jobs", parameters)
    return [(row[0], tuple(row[1])) for row in rows]


async def jobs_in_short(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[Job]:
    """Jobs without specs, results and tasks."""
    rows = await fetch(connection, "jobs_by_id", {"job_ids": list(job_ids)})
    return [to_job(row) for row in rows]


async def parts_of_request(
    connection: Connection, request_id: uuid.UUID
) -> list[tuple[int, str, bytes, datetime]]:
    """What was done of a request that is done kit by kit: kit, body's hash, answer, time."""
    rows = await fetch(connection, "parts_of_request", {"request_id": str(request_id)})
    return [(row[0], row[1], bytes(row[2]), row[3]) for row in rows]


def _expired(head: Head) -> ExpiredError:
    return ExpiredError(
        f"what was before revision {head.oldest_id} is no longer kept",
        reason="REVISION_EXPIRED",
        metadata={"oldest_revision": str(head.oldest_id)},
    )
