"""A kit or a job in pages, each no larger than a message, all as of the revision of the first.

A kit without changes since that revision is read from its tables, a page at a time, whatever its
size. For a changed kit, the latest row of each job and task as of that revision is found first;
only the rows of the page itself are read in full.
"""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.message_limits import ENTRY_BYTES, KIBIBYTE, MEBIBYTE, MESSAGE_BYTES
from vistaflow_services.registry import listing, translate
from vistaflow_services.registry.domain import NO_COUNTS, Counts, Head, Job, Kit, StateRow, Status
from vistaflow_services.registry.past import check_kept, read_moment
from vistaflow_services.registry.reading import Connection, fetch, to_job
from vistaflow_services.registry.watch_store import Row, to_kit, to_row

JOBS_AT_ONCE = 200
TASKS_AT_ONCE = 20_000
"""So many small ones are read at once: to find the next, all tasks of a job are looked at."""

PAST_TASKS_AT_ONCE = 2_000
"""The same of the past, where each is found by its revision."""

FIRST_TASKS = 100
"""The same before it is known how large they are: the database unpacks all that may be wanted."""

READ_BYTES = MEBIBYTE
"""About how much is read at once; JSON may take more room as a Struct."""

SLICE_BYTES = 64 * KIBIBYTE
"""Of so much messages are made before anything else has a turn; it may be all numbers."""

ROW_BYTES = 250
"""As much of that counts a row without metadata."""

WHOLE = 2**62
"""The revision of the last task of a job that was sent with all its tasks."""

# What an answer holds beside the tree: its revision and token.
_AROUND_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far the pages before went: a job, by its place in the tree, and the last task of it."""

    current_order: int = 0
    first_revision: int = 0
    task: int = WHOLE
    """Revision of the task; 0: the job itself and none of its tasks yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A page."""

    kit_id: int
    revision: int
    """As of when."""
    job_id: uuid.UUID | None = None
    """The only job wanted; None: the kit with all its jobs."""
    past: bool = False
    """Whether it was asked for as of this revision, and not just began then."""
    after: Place | None = None
    """Where the page before ended; None: this is the first."""
    size: int = 0
    """Most jobs and tasks; 0: as many as fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePage:
    """A page that was read."""

    kit: pb.Kit
    next_place: Place | None
    """Where the next page starts; None on the last."""


async def read_page(connection: Connection, wanted: Wanted, head: Head) -> TreePage | None:
    """A page of a kit; None if the kit is not there, or was not then.

    Raises:
        NotFoundError: There is no such kit, of the past.
        ExpiredError: The kit has moved, and what it was is no longer kept.
    """
    branches = await _branches(connection, wanted, head)
    if branches is None:
        return None
    page = _Page(wanted)
    if wanted.after is None and wanted.job_id is None:
        # Its spec may be 256 KiB of numbers.
        await off_loop.reading.do(page.begin, branches.kit)
    place: Place | None = wanted.after or Place(task=WHOLE)
    while place is not None and not page.full:
        place = await _fill(page, branches, place)
        await asyncio.sleep(0)
    return TreePage(kit=page.kit, next_place=place)


class _Page:
    """A page in the making."""

    def __init__(self, wanted: Wanted) -> None:
        self.kit = pb.Kit(kit_id=wanted.kit_id)
        self.full = False
        """Whether something did not fit."""
        self.at_once = FIRST_TASKS
        """Tasks to read next: about `READ_BYTES` of such as came before."""
        self._empty = True
        self._room = MESSAGE_BYTES - _AROUND_BYTES
        self._left = wanted.size or WHOLE

    def begin(self, kit: Kit) -> None:
        """Adds the kit's own fields."""
        self._empty = False
        self.kit = translate.kit_to_proto(replace(kit, jobs={}))
        self._room -= self.kit.ByteSize()

    def add_job(self, job: common.Job) -> bool:
        """Adds a job without tasks, if there is room for it."""
        if self._fits(job):
            self.kit.jobs.append(job)
        return not self.full

    def go_on_with(self, job_id: uuid.UUID) -> None:
        """Adds a job that an earlier page began."""
        if not self.kit.jobs or self.kit.jobs[-1].job_id != str(job_id):
            self._room -= 64
            self.kit.jobs.append(common.Job(job_id=str(job_id)))

    def add_task(self, row: StateRow) -> bool:
        """Adds a task of the last job, if there is room for it."""
        state = translate.state_to_proto(row)
        if self._fits(state):
            self.kit.jobs[-1].tasks.append(state)
        return not self.full

    def _fits(self, part: Message) -> bool:
        # The lengths of the messages around it grow with it, by a few bytes in all.
        self._room -= part.ByteSize() + ENTRY_BYTES
        self.full = (self._room < 0 and not self._empty) or not self._left
        self._left -= 1
        self._empty = False
        return not self.full


class _Branches:
    """The jobs of a kit, as the tables have them: it has not moved since."""

    def __init__(self, connection: Connection, kit: Kit, job_id: uuid.UUID | None) -> None:
        self.kit = kit
        self._connection = connection
        self._job_id = job_id

    async def jobs(self, place: Place) -> list[Job]:
        """The next jobs from a place on, that of the place first, without specs and results."""
        if self._job_id is not None:
            rows = await fetch(self._connection, "job_by_id", {"job_id": self._job_id})
            return [_in_short(to_job(row)) for row in rows]
        asked = {
            "kit_id": self.kit.kit_id,
            "current_order": place.current_order,
            "first_revision": place.first_revision,
            "limit": JOBS_AT_ONCE,
        }
        return [to_job(row) for row in await fetch(self._connection, "jobs_after", asked)]

    async def contents(self, jobs: Sequence[Job]) -> list[Job]:
        """The first of the jobs with their specs and results."""
        if not jobs:
            return []
        asked = {"job_ids": [job.job_id for job in jobs], "bytes": 2 * MEBIBYTE}
        rows = await fetch(self._connection, "contents_of_jobs", asked)
        return [
            replace(
                job,
                spec_type=row[1],
                spec=bytes(row[2]),
                # What is FINISHED never moves again: so it is what was published.
                result_json=row[3] if job.status == Status.FINISHED else "",
            )
            for job, row in zip(jobs, rows, strict=False)
        ]

    async def counts(self, jobs: Sequence[Job]) -> Mapping[uuid.UUID, Counts]:
        """Their tasks by status."""
        return await listing.task_counts(self._connection, jobs)

    async def tasks(self, jobs: Sequence[Job], after: int, limit: int) -> tuple[list[Row], bool]:
        """The next tasks of jobs, of the first one after a revision; and whether there are more."""
        asked = {
            "kit_id": self.kit.kit_id,
            "job_ids": [job.job_id for job in jobs],
            "after": after,
            "limit": limit,
            "bytes": READ_BYTES,
        }
        found = await fetch(self._connection, "tasks_after", asked)
        more = len(found) == limit or (bool(found) and found[0][-1] > len(found))
        return found, more


class _PastBranches(_Branches):
    """The jobs of a kit as of the revision, with rows whose metadata is not read yet."""

    def __init__(self, connection: Connection, kit: Kit, job_id: uuid.UUID | None) -> None:
        super().__init__(connection, kit, job_id)
        self._revisions: dict[uuid.UUID, list[int]] = {}
        """The revisions of the tasks of the jobs looked at."""

    async def jobs(self, place: Place) -> list[Job]:
        """The next jobs from a place on, that of the place first, without specs and results."""
        if self._job_id is not None:
            return [job for job in self.kit.jobs.values() if job.job_id == self._job_id]
        key = (place.current_order, place.first_revision)
        ordered = self.kit.ordered_jobs()
        return [job for job in ordered if (job.current_order, job.first_revision) >= key][
            :JOBS_AT_ONCE
        ]

    async def counts(self, jobs: Sequence[Job]) -> Mapping[uuid.UUID, Counts]:
        """Their tasks by status."""
        return {job.job_id: job.task_counts() for job in jobs}

    async def tasks(self, jobs: Sequence[Job], after: int, limit: int) -> tuple[list[Row], bool]:
        """The next tasks of jobs, of the first one after a revision; and whether there are more."""
        limit = min(limit, PAST_TASKS_AT_ONCE)
        ids: list[int] = []
        for number, job in enumerate(jobs):
            revisions = self._revisions.get(job.job_id)
            if revisions is None:
                revisions = sorted(row.revision for row in job.tasks.values())
                self._revisions[job.job_id] = revisions
            first = 0 if number else bisect_right(revisions, after)
            ids += revisions[first : first + limit + 1]
            if len(ids) > limit:
                break
        asked = {"ids": ids[:limit], "bytes": READ_BYTES}
        rows = await fetch(self._connection, "rows_by_id", asked)
        return rows, len(rows) < len(ids)


async def _branches(connection: Connection, wanted: Wanted, head: Head) -> _Branches | None:
    if wanted.past:
        check_kept(wanted.revision, head)
    else:
        rows = await fetch(connection, "kits_by_id", {"kit_ids": [wanted.kit_id]})
        if not rows:
            return None
        kit = to_kit(rows[0])
        if kit.revision <= wanted.revision:
            return _Branches(connection, kit, wanted.job_id)
    moment = await read_moment(connection, wanted.kit_id, wanted.revision, head)
    return _PastBranches(connection, moment.kit, wanted.job_id) if moment is not None else None


async def _fill(page: _Page, branches: _Branches, place: Place) -> Place | None:
    """Puts the next jobs and tasks into a page; how far it went, None if that was the end."""
    jobs = await branches.jobs(place)
    begun = bool(jobs) and _key(jobs[0]) == (place.current_order, place.first_revision)
    if begun and place.task == WHOLE:
        jobs, begun = jobs[1:], False
    if not jobs:
        return None
    jobs = [*jobs[:begun], *await branches.contents(jobs[begun:])]
    counts = await branches.counts(jobs[begun:])
    rows, more = await branches.tasks(jobs, place.task if begun else 0, page.at_once)
    if rows:
        # Of a row, 11 is the metadata and 13 the reason.
        size = sum(len(row[11]) + len(row[13]) for row in rows) // len(rows)
        page.at_once = max(16, min(TASKS_AT_ONCE, READ_BYTES // max(1, size)))
    tasks: dict[uuid.UUID, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row[3], []).append(row)
    last = rows[-1][3] if more else None
    made = 0
    for number, job in enumerate(jobs):
        if begun and not number:
            page.go_on_with(job.job_id)
        else:
            told = counts.get(job.job_id, NO_COUNTS)
            header = translate.job_to_proto(replace(job, tasks={}), task_counts=told)
            if not page.add_job(header):
                return place
            place = Place(
                current_order=job.current_order, first_revision=job.first_revision, task=0
            )
        for row in tasks.get(job.job_id, ()):
            made += ROW_BYTES + len(row[11])
            if made > SLICE_BYTES:
                await asyncio.sleep(0)
                made = 0
            if not page.add_task(to_row(row)):
                return place
            place = replace(place, task=row[0])
        if job.job_id == last:
            return place
        place = replace(place, task=WHOLE)
    return place


def _key(job: Job) -> tuple[int, int]:
    return job.current_order, job.first_revision


def _in_short(job: Job) -> Job:
    return replace(job, spec_type="", spec=b"", result_json="")
