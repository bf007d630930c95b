"""Cancels or retries every job that a filter wants, kit by kit.

Each kit is one command, so no commit grows with the number of kits. The answer for each kit is
stored under an id derived from the id of the request: a request that was interrupted continues
where it was, changes nothing twice, and counts all that it changed. A change of several kits is
recorded before it is made, so that it is completed even if its caller disconnects or the registry
crashes.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ExistsError
from vistaflow_services.core.message_limits import ANSWER_BYTES, fitting
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import MAX_JOBS_ANSWERED
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.reads.store import Store

KITS_AT_ONCE = 100
"""Kits whose commands are submitted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedJobs:
    """What a change did, in its wire form."""

    count: int
    jobs: list[common.Job]
    """Some of the jobs, without specs, results and tasks."""
    revision: int
    """Of the last row made; 0 if none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A change in progress, for repeats of its request."""

    body_sha256: str
    task: asyncio.Task[MovedJobs | c.Replayed]


class BulkService:
    """Serves CancelJobs and RetryJobs.

    Args:
        ledger: Where the changes are made.
        store: Where the jobs are found.
    """

    def __init__(self, *, ledger: Ledger, store: Store) -> None:
        self._ledger = ledger
        self._store = store
        self._running: dict[uuid.UUID, _Running] = {}
        self._tasks: set[asyncio.Task[MovedJobs | c.Replayed]] = set()

    async def stop(self) -> None:
        """Stops changes in progress; the next start continues them."""
        await ended(list(self._tasks))

    async def count(self, many: c.ManyJobs) -> MovedJobs:
        """How many jobs the change would move, without moving any."""
        number = await self._store.count_jobs(many.filter)
        chosen: list[uuid.UUID] = []
        after = 0
        while len(chosen) < MAX_JOBS_ANSWERED:
            page = await self._store.jobs_by_kit(many.filter, after=after, limit=KITS_AT_ONCE)
            if not page:
                break
            after = page[-1][0]
            chosen += [job_id for _, job_ids in page for job_id in job_ids]
        jobs = await self._store.jobs_in_short(chosen[:MAX_JOBS_ANSWERED])
        moved = fitting(
            jobs,
            lambda entry: translate.job_in_short(entry[0], task_counts=entry[1]),
            ANSWER_BYTES,
        )
        return MovedJobs(count=number, jobs=moved, revision=0)

    async def change(
        self, many: c.ManyJobs, *, seconds: float, decode: Callable[[bytes], MovedJobs]
    ) -> MovedJobs | c.Replayed:
        """Moves the jobs.

        Args:
            many: What to do.
            seconds: How long to wait for the database, a command.
            decode: Reads an answer in its wire form.

        Raises:
            UnavailableError: The database was not there; repeated with the same request_id, the
                request continues.
            ExistsError: The request_id was used with another body.
        """
        request_id = many.request.request_id
        running = self._running.get(request_id) if request_id is not None else None
        if running is None:
            task = asyncio.create_task(self._change(many, seconds, decode))
            running = _Running(body_sha256=many.request.body_sha256, task=task)
            if request_id is not None:
                self._running[request_id] = running
                task.add_done_callback(lambda _: self._running.pop(request_id, None))
            self._tasks.add(task)
            task.add_done_callback(self._over)
        elif running.body_sha256 != many.request.body_sha256:
            raise _reused(many.request)
        # It continues after the caller has disconnected.
        return await asyncio.shield(running.task)

    def _over(self, task: asyncio.Task[MovedJobs | c.Replayed]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio logs an exception that was never retrieved

    async def _change(
        self, many: c.ManyJobs, seconds: float, decode: Callable[[bytes], MovedJobs]
    ) -> MovedJobs | c.Replayed:
        whole = many.request
        done: dict[int, MovedJobs] = {}
        if whole.request_id is not None:
            if await self._store.is_answered(whole.request_id):
                return await self._conclude(whole, _sum({}), seconds)
            done = await self._parts(whole, decode)
        page = await self._store.jobs_by_kit(many.filter, after=0, limit=KITS_AT_ONCE)
        if len(page) > 1:
            whole = replace(whole, request_id=whole.request_id or uuid.uuid4())
            many = replace(many, request=whole)
            await self._ledger.submit(c.BeginJobs(request=whole, many=many), seconds=seconds)
        while page:
            left = [(kit_id, job_ids) for kit_id, job_ids in page if kit_id not in done]
            parts = await asyncio.gather(
                *(
                    self._part(many, kit_id, job_ids, seconds=seconds, decode=decode)
                    for kit_id, job_ids in left
                )
            )
            done.update(zip((kit_id for kit_id, _ in left), parts, strict=True))
            if whole.request_id is not None:
                await self._store.fetch("touch_change", {"change_id": whole.request_id})
            page = await self._store.jobs_by_kit(many.filter, after=page[-1][0], limit=KITS_AT_ONCE)
        return await self._conclude(whole, _sum(done), seconds)

    async def _part(
        self,
        many: c.ManyJobs,
        kit_id: int,
        job_ids: tuple[uuid.UUID, ...],
        *,
        seconds: float,
        decode: Callable[[bytes], MovedJobs],
    ) -> MovedJobs:
        whole = many.request
        data = json.loads(whole.data_json) | {"kit_id": kit_id}
        part_id = None
        if whole.request_id is not None:
            part_id = uuid.uuid5(whole.request_id, f"kit {kit_id}")
            data |= {"part_of": str(whole.request_id)}
        command = c.ChangeJobs(
            request=replace(whole, request_id=part_id, data_json=json.dumps(data)),
            kit_id=kit_id,
            job_ids=job_ids,
            statuses=many.filter.statuses,
            retry=many.retry,
            reason=many.reason,
            actor=many.actor,
        )
        answer = await self._ledger.submit(command, seconds=seconds)
        if isinstance(answer, c.Replayed):
            return _settled(decode(answer.response), answer)
        return moved_jobs(answer)

    async def _parts(
        self, whole: c.Request, decode: Callable[[bytes], MovedJobs]
    ) -> dict[int, MovedJobs]:
        assert whole.request_id is not None
        done: dict[int, MovedJobs] = {}
        for kit_id, digest, response, created_at in await self._store.parts_of_request(
            whole.request_id
        ):
            if digest != whole.body_sha256:
                raise _reused(whole)
            replayed = c.Replayed(response=response, created_at=created_at)
            done[kit_id] = _settled(decode(response), replayed)
        return done

    async def _conclude(
        self, whole: c.Request, answer: MovedJobs, seconds: float
    ) -> MovedJobs | c.Replayed:
        """Stores the answer to the whole request; returns the one stored before if there is one."""
        if whole.request_id is None:
            return answer
        concluded = await self._ledger.submit(
            c.Conclude(request=replace(whole, encode=lambda _: whole.encode(answer))),
            seconds=seconds,
        )
        return concluded if isinstance(concluded, c.Replayed) else answer


def moved_jobs(change: MovedJobs | c.JobsChange) -> MovedJobs:
    """The answer of a command, in its wire form."""
    if isinstance(change, MovedJobs):
        return change
    return MovedJobs(
        count=change.count,
        jobs=fitting(change.jobs, translate.job_in_short, ANSWER_BYTES),
        revision=change.revision,
    )


def moved_jobs_of(response: pb.CancelJobsResponse | pb.RetryJobsResponse) -> MovedJobs:
    """The content of an answer."""
    count = (
        response.canceled_count
        if isinstance(response, pb.CancelJobsResponse)
        else response.retried_count
    )
    return MovedJobs(count=count, jobs=list(response.jobs), revision=response.revision)


def _reused(whole: c.Request) -> ExistsError:
    return ExistsError(
        f"the request_id was used for another {whole.method}; choose a new one for each request",
        reason="REQUEST_ID_REUSED",
    )


def _settled(part: MovedJobs, replayed: c.Replayed) -> MovedJobs:
    for job in part.jobs:
        translate.settle(job, replayed.created_at)
    return part


def _sum(done: dict[int, MovedJobs]) -> MovedJobs:
    parts = [done[kit_id] for kit_id in sorted(done)]
    jobs = [job for part in parts for job in part.jobs]
    return MovedJobs(
        count=sum(part.count for part in parts),
        jobs=fitting(jobs[:MAX_JOBS_ANSWERED], lambda job: job, ANSWER_BYTES),
        revision=max((part.revision for part in parts), default=0),
    )
