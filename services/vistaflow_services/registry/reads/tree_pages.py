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
from vistaflow_services.registry.database.pool import Connection, Row
from vistaflow_services.registry.database.queries import fetch, fetch_slowly
from vistaflow_services.registry.database.rows import to_job, to_kit, to_row
from vistaflow_services.registry.domain import NO_COUNTS, Counts, Head, Job, Kit, StateRow, Status
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.messages.filters import WHOLE, TreePlace
from vistaflow_services.registry.reads import listing
from vistaflow_services.registry.reads.past import Past, PastTree, check_kept

JOBS_AT_ONCE = 200
TASKS_AT_ONCE = 20_000
"""Most tasks that one query reads: to find the next, it looks at all tasks of a job."""

PAST_TASKS_AT_ONCE = 2_000
"""The same for the past, where each is found by its revision."""

FIRST_TASKS = 100
"""Tasks of the first query, before their size is known: the database unpacks all it may return."""

READ_BYTES = MEBIBYTE
"""About how much one query reads; JSON may take more room as a Struct."""

SLICE_BYTES = 8 * KIBIBYTE
"""After so much JSON other calls get a turn; JSON that is all numbers takes long to convert. A call
takes a dozen turns of the event loop, and between any two of them there may be a slice."""

ROW_BYTES = 250
"""What a row without metadata counts of that."""

# What an answer holds beside the tree: its revision and token.
_AROUND_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which page to read."""

    kit_id: int
    revision: int
    """As of when."""
    job_id: uuid.UUID | None = None
    """The only job to return; None: the kit with all its jobs."""
    past: bool = False
    """Whether the caller named the revision; else it is that of the first page."""
    after: TreePlace | None = None
    """Where the page before ended; None: this is the first."""
    size: int = 0
    """Most jobs and tasks; 0: as many as fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePage:
    """A page that was read."""

    answer: pb.GetKitResponse
    """The page is made inside the answer: a copy would take as long as the page itself."""
    next_place: TreePlace | None
    """Where the next page starts; None on the last."""

    @property
    def kit(self) -> pb.Kit:
        """The kit, with the jobs and tasks of the page."""
        return self.answer.kit


async def read_page(
    connection: Connection, request: PageRequest, head: Head, past: Past
) -> TreePage | None:
    """A page of a kit; None if the kit is not there, or was not then.

    Args:
        connection: Where to read it.
        request: Which page.
        head: Where the log ends.
        past: Knows what kits were.

    Raises:
        NotFoundError: There is no such kit, of the past.
        ExpiredError: The kit has moved, and what it was is no longer kept.
    """
    branches = await _branches(connection, request, head, past)
    if branches is None:
        return None
    page = _Page(request)
    if request.after is None and request.job_id is None:
        # Its spec may be 256 KiB of numbers.
        await off_loop.reading.do(page.begin, branches.kit)
    place: TreePlace | None = request.after or TreePlace(task=WHOLE)
    while place is not None and not page.full:
        place = await _fill(page, branches, place)
        await asyncio.sleep(0)
    return TreePage(answer=page.answer, next_place=place)


class _Page:
    """A page in the making."""

    def __init__(self, request: PageRequest) -> None:
        self.answer = pb.GetKitResponse(kit=pb.Kit(kit_id=request.kit_id))
        self.kit = self.answer.kit
        self.full = False
        """Whether something did not fit."""
        self.at_once = FIRST_TASKS
        """Tasks to read next: about `READ_BYTES` of such as came before."""
        self._empty = True
        self._room = MESSAGE_BYTES - _AROUND_BYTES
        self._left = request.size or WHOLE

    def begin(self, kit: Kit) -> None:
        """Adds the kit's own fields."""
        self._empty = False
        self.kit.CopyFrom(translate.kit_to_proto(replace(kit, jobs={})))
        self._room -= self.kit.ByteSize()

    def add_job(self, job: common.Job) -> bool:
        """Adds a job without tasks, if there is room for it."""
        if self._fits(job):
            self.kit.jobs.append(job)
        return not self.full

    def continue_job(self, job_id: uuid.UUID) -> None:
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

    async def jobs(self, place: TreePlace) -> list[Job]:
        """The next jobs from a place on, that of the place first, without specs and results."""
        if self._job_id is not None:
            rows = await fetch(self._connection, "job_by_id", {"job_id": self._job_id})
            return [_in_short(to_job(row)) for row in rows]
        parameters = {
            "kit_id": self.kit.kit_id,
            "current_order": place.current_order,
            "first_revision": place.first_revision,
            "limit": JOBS_AT_ONCE,
        }
        return [to_job(row) for row in await fetch(self._connection, "jobs_after", parameters)]

    async def contents(self, jobs: Sequence[Job]) -> list[Job]:
        """The first of the jobs with their specs and results."""
        if not jobs:
            return []
        parameters = {"job_ids": [job.job_id for job in jobs], "bytes": 2 * MEBIBYTE}
        rows = await fetch(self._connection, "contents_of_jobs", parameters)
        return [
            replace(
                job,
                spec_type=row[1],
                spec=bytes(row[2]),
                # A FINISHED job never moves again, so the result is the one of this revision.
                result_json=row[3] if job.status == Status.FINISHED else "",
            )
            for job, row in zip(jobs, rows, strict=False)
        ]

    async def counts(self, jobs: Sequence[Job]) -> Mapping[uuid.UUID, Counts]:
        """Their tasks by status."""
        return await listing.task_counts(self._connection, jobs)

    async def tasks(self, jobs: Sequence[Job], after: int, limit: int) -> tuple[list[Row], bool]:
        """The next tasks of jobs, of the first one after a revision; and whether there are more."""
        parameters = {
            "kit_id": self.kit.kit_id,
            "job_ids": [job.job_id for job in jobs],
            "after": after,
            "limit": limit,
            "bytes": READ_BYTES,
        }
        rows = await fetch_slowly(self._connection, "tasks_after", parameters)
        more = len(rows) == limit or (bool(rows) and rows[0][-1] > len(rows))
        return rows, more


class _PastBranches(_Branches):
    """The jobs of a kit as of the revision; the rows of their tasks are not read yet."""

    def __init__(self, connection: Connection, tree: PastTree, job_id: uuid.UUID | None) -> None:
        super().__init__(connection, tree.kit, job_id)
        self._tree = tree

    async def jobs(self, place: TreePlace) -> list[Job]:
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
        return self._tree.counts

    async def tasks(self, jobs: Sequence[Job], after: int, limit: int) -> tuple[list[Row], bool]:
        """The next tasks of jobs, of the first one after a revision; and whether there are more."""
        limit = min(limit, PAST_TASKS_AT_ONCE)
        ids: list[int] = []
        for number, job in enumerate(jobs):
            revisions = self._tree.tasks.get(job.job_id, ())
            first = 0 if number else bisect_right(revisions, after)
            ids += revisions[first : first + limit + 1]
            if len(ids) > limit:
                break
        parameters = {"ids": ids[:limit], "bytes": READ_BYTES}
        rows = await fetch_slowly(self._connection, "rows_by_id", parameters)
        return rows, len(rows) < len(ids)


async def _branches(
    connection: Connection, request: PageRequest, head: Head, past: Past
) -> _Branches | None:
    if request.past:
        check_kept(request.revision, head)
    else:
        rows = await fetch(connection, "kits_by_id", {"kit_ids": [request.kit_id]})
        if not rows:
            return None
        kit = to_kit(rows[0])
        if kit.revision <= request.revision:
            return _Branches(connection, kit, request.job_id)
    tree = await past.tree(connection, request.kit_id, request.revision, head)
    return _PastBranches(connection, tree, request.job_id) if tree is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _TreeBatch:
    """Jobs and tasks that are read together; a page takes one batch after another."""

    jobs: Sequence[Job]
    """With specs and results, except one that is continued."""
    continued: bool
    """Whether the first job was sent before, with some of its tasks or none."""
    counts: Mapping[uuid.UUID, Counts]
    """Tasks by status of the jobs that are not continued."""
    tasks: Mapping[uuid.UUID, Sequence[Row]]
    unfinished: uuid.UUID | None
    """The job whose tasks may go on after those read; of the jobs after it no task was read."""


async def _next_batch(page: _Page, branches: _Branches, place: TreePlace) -> _TreeBatch | None:
    """The jobs and tasks that come after a place; None at the end of the kit."""
    jobs = await branches.jobs(place)
    continued = bool(jobs) and _key(jobs[0]) == (place.current_order, place.first_revision)
    if continued and place.task == WHOLE:
        jobs, continued = jobs[1:], False
    if not jobs:
        return None
    # `contents` may return only the first of them: about 2 MiB of specs and results.
    jobs = [*jobs[:continued], *await branches.contents(jobs[continued:])]
    counts = await branches.counts(jobs[continued:])
    rows, more = await branches.tasks(jobs, place.task if continued else 0, page.at_once)
    if rows:
        # Of a row, 11 is the metadata and 13 the reason.
        size = sum(len(row[11]) + len(row[13]) for row in rows) // len(rows)
        page.at_once = max(16, min(TASKS_AT_ONCE, READ_BYTES // max(1, size)))
    tasks: dict[uuid.UUID, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row[3], []).append(row)
    return _TreeBatch(
        jobs=jobs,
        continued=continued,
        counts=counts,
        tasks=tasks,
        unfinished=rows[-1][3] if more else None,
    )


async def _fill(page: _Page, branches: _Branches, place: TreePlace) -> TreePlace | None:
    """Puts the next jobs and tasks into a page.

    Returns:
        The place of the last job or task that was put in, after which the next page or batch
        starts; None at the end of the kit.
    """
    batch = await _next_batch(page, branches, place)
    if batch is None:
        return None
    bytes_since_pause = 0
    for number, job in enumerate(batch.jobs):
        if batch.continued and number == 0:
            page.continue_job(job.job_id)
        else:
            counts = batch.counts.get(job.job_id, NO_COUNTS)
            header = translate.job_to_proto(replace(job, tasks={}), task_counts=counts)
            if not page.add_job(header):
                return place
            order, first = _key(job)
            place = TreePlace(current_order=order, first_revision=first, task=0)
        for row in batch.tasks.get(job.job_id, ()):
            bytes_since_pause += ROW_BYTES + len(row[11])
            if bytes_since_pause > SLICE_BYTES:
                await asyncio.sleep(0)
                bytes_since_pause = 0
            if not page.add_task(to_row(row)):
                return place
            place = replace(place, task=row[0])
        if job.job_id == batch.unfinished:
            return place
        # All its tasks were sent: the place moves beyond the job.
        place = replace(place, task=WHOLE)
    return place


def _key(job: Job) -> tuple[int, int]:
    return job.current_order, job.first_revision


def _in_short(job: Job) -> Job:
    return replace(job, spec_type="", spec=b"", result_json="")
