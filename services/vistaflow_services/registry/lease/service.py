"""Grants jobs to workers, and takes them away from workers that send no heartbeats.

A worker is a stream (`session.Session`) with room for a number of attempts. When a job is queued
or a place becomes free, the one granting task of this process reads which jobs wait and grants
them; kits take turns. The ledger decides: a grant is a row of the log, and if two replicas grant
the same job, the second grant is refused.

The lease is a row outside the log that heartbeats renew. When its time is over by the database's
clock, the attempt is lost. The attempt number protects the log: what a lost worker still sends is
refused as stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol

import psycopg

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ConflictError, ServiceError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry.commands import Append, Grant, Granted, Item, Lose, Release
from vistaflow_services.registry.domain import KIT, PROGRESS_TASK, StateRow, Status
from vistaflow_services.registry.lease import messages
from vistaflow_services.registry.lease.messages import Hello
from vistaflow_services.registry.lease.session import Session, read_hello
from vistaflow_services.registry.lease.store import HeldLease, LeaseStore, Sign
from vistaflow_services.registry.log.hub import Hub

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Seconds between two looks for queued jobs and expired leases if no row calls for one."""

GRANTS_A_ROUND = 100
"""Jobs that are granted at once, at most."""

PROGRESS_SECONDS = 1.0
"""Least seconds between two rows of progress of one attempt."""

OVERDUE_LEASES = 2
"""Durations of a lease for which an attempt may run after its job's timeout. The worker should
stop it at the timeout; this is for a worker that does not."""

RECLAIM_SECONDS = 2.0
"""Seconds after which a worker that came back must have named every attempt that it has."""

_Failure = (ServiceError, psycopg.Error, OSError)


class Commands(Protocol):
    """The ledger, as far as leasing needs it."""

    async def submit(self, command: Any) -> Any:
        """Returns the answer once the command is on disk."""


class LeaseService:
    """Serves LeaseJobs.

    Args:
        ledger: Takes grants, releases and losses.
        hub: Publishes new rows.
        store: Reads leases and queued jobs.
        lease_seconds: How long a lease lasts without a heartbeat.
    """

    def __init__(
        self, *, ledger: Commands, hub: Hub, store: LeaseStore, lease_seconds: float
    ) -> None:
        self.lease_seconds = lease_seconds
        self._ledger = ledger
        self._store = store
        self._sessions: dict[str, Session] = {}
        self._holders: dict[uuid.UUID, Session] = {}
        self._moved: dict[uuid.UUID, StateRow | None] = {}
        """Jobs whose grants are being committed, with the latest row by which each was moved."""
        self._confirmed: dict[uuid.UUID, int] = {}
        """The attempt of each job that its worker has named, so the grant has arrived."""
        self._wake = asyncio.Event()
        self._errands: set[asyncio.Task[None]] = set()
        self._draining = False
        hub.listen(self._follow, self._wake.set)

    async def run(self) -> None:
        """Grants and expires until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_granting())
            tasks.create_task(self._keep_expiring())

    def drain(self) -> None:
        """Ends every session; the leases stay, for the workers to reconnect."""
        self._draining = True
        for session in self._sessions.values():
            session.close(None)

    async def session(
        self, requests: AsyncIterator[pb.LeaseJobsRequest]
    ) -> AsyncIterator[pb.LeaseJobsResponse]:
        """The messages to one worker, for as long as its stream lives."""
        hello = await read_hello(requests)
        session = Session(hello)
        former = self._sessions.get(session.worker)
        if former is not None:
            former.close(
                ConflictError(
                    f"another worker connected as {session.worker!r}", reason="WORKER_REPLACED"
                )
            )
            self._forget(former)
        self._sessions[session.worker] = session
        welcome = pb.Welcome()
        welcome.lease.FromNanoseconds(round(self.lease_seconds * 1e9))
        reader: asyncio.Task[None] | None = None
        try:
            if self._draining:
                return
            yield pb.LeaseJobsResponse(welcome=welcome)
            await self._adopt(session, hello)
            reader = asyncio.create_task(self._read(session, requests))
            session.begin()
            self._wake.set()
            async for message in session.messages():
                yield message
        finally:
            session.close(None)
            try:
                if reader is not None:
                    await ended([reader])
            finally:
                # Also if the call is canceled now, which happens when its worker has just ended
                # its side: a session that stays is taken for a worker that is there.
                self._remove(session)

    def _remove(self, session: Session) -> None:
        """Forgets a session that has ended, and gives back the grants that it did not send."""
        if self._sessions.get(session.worker) is session:
            del self._sessions[session.worker]
        self._forget(session)
        for grant in session.unsent():
            job_id, attempt = uuid.UUID(grant.job.job_id), grant.job.attempt
            self._later(self._give_back(job_id, attempt, session.worker))

    async def _adopt(self, session: Session, hello: Hello) -> None:
        """Takes over the attempts that a worker still runs."""
        signs = [Sign(job_id=job_id, attempt=attempt) for job_id, attempt in hello.running]
        # Noted before the database confirms it: else a row that ends one meanwhile is missed.
        for job_id, attempt in hello.running:
            session.add(job_id, attempt)
            self._holders.setdefault(job_id, session)
        renewed = await self._store.renew(session.worker, signs, self.lease_seconds)
        for job_id, attempt in renewed:
            if job_id in session.running:
                session.add(job_id, attempt)
                self._holders[job_id] = session
                self._confirmed[job_id] = attempt
        await self._dismiss(session, set(hello.running) - renewed)
        self._later(self._reclaim(session))

    async def _reclaim(self, session: Session) -> None:
        """Queues the jobs again that a worker which came back should run and does not.

        Not at once: a release that was lost with the former stream comes right after the hello.
        """
        await asyncio.sleep(min(RECLAIM_SECONDS, self.lease_seconds / 3))
        try:
            leases = await self._store.leases_of(session.worker)
        except _Failure as error:
            _log.warning("could not read the leases of worker %s: %s", session.worker, error)
            return
        for lease in leases:
            if (
                session.closed
                or session.runs(lease.job_id, lease.attempt)
                or lease.job_id in self._moved
            ):
                continue
            received = self._confirmed.get(lease.job_id) == lease.attempt
            await self._submit(
                Release(
                    job_id=lease.job_id,
                    attempt=lease.attempt,
                    worker=session.worker,
                    reason=(
                        "the worker came back without it" if received else "the worker never got it"
                    ),
                    # A first grant may be lost on its way and then counts as no failure. A job
                    # that kills its worker at once looks the same, but does so again.
                    counts=received or lease.attempt > 1,
                )
            )

    async def _read(self, session: Session, requests: AsyncIterator[pb.LeaseJobsRequest]) -> None:
        """Handles the worker's messages until it ends its side or breaks the rules."""
        try:
            async for request in requests:
                if request.HasField("heartbeat"):
                    await self._beat(session, request.heartbeat)
                elif request.HasField("release"):
                    await self._release(session, request.release)
                else:
                    raise ConflictError("after `hello` come only heartbeats and releases")
            session.close(None)
        except ServiceError as error:
            session.close(error)
            return
        if session.draining:
            for job_id, attempt in list(session.running.items()):
                self._drop(session, job_id)
                self._later(self._give_back(job_id, attempt, session.worker, "shut down"))

    async def _beat(self, session: Session, heartbeat: pb.Heartbeat) -> None:
        signs = messages.signs_from_proto(heartbeat)
        if heartbeat.draining:
            session.drain()
        session.stopped_all_but({sign.job_id for sign in signs})
        if not signs:
            self._wake.set()
            return
        self._confirmed.update(
            (sign.job_id, sign.attempt) for sign in signs if session.runs(sign.job_id, sign.attempt)
        )
        try:
            reached("lease.before_renew")
            renewed = await self._store.renew(session.worker, signs, self.lease_seconds)
            reached("lease.after_renew")
            named = {(sign.job_id, sign.attempt) for sign in signs}
            await self._dismiss(session, named - renewed)
        except _Failure as error:
            # The worker continues: leases get their full time again when the database is back.
            _log.warning("could not renew the leases of %s: %s", session.worker, error)
            return
        items = [
            Item(
                job_id=sign.job_id,
                status=Status.RUNNING,
                task_name=PROGRESS_TASK,
                attempt=sign.attempt,
                metadata_json=messages.progress_metadata(sign.progress),
                actor=session.worker,
            )
            for sign in signs
            if (sign.job_id, sign.attempt) in renewed
            and sign.progress is not None
            and session.samples(sign, PROGRESS_SECONDS)
        ]
        if items:
            self._later(self._submit(Append(items=tuple(items))))

    async def _release(self, session: Session, release: pb.Release) -> None:
        job_id, attempt, reason = messages.release_from_proto(release)
        if session.runs(job_id, attempt):
            self._drop(session, job_id)
        await self._submit(
            Release(
                job_id=job_id,
                attempt=attempt,
                worker=session.worker,
                reason=reason,
                counts=release.counts,
            )
        )
        self._wake.set()

    async def _dismiss(self, session: Session, lost: set[tuple[uuid.UUID, int]]) -> None:
        """Sends a worker what to do with attempts that are not its own any more."""
        if not lost:
            return
        current = await self._store.current_attempts({job_id for job_id, _ in lost})
        for job_id, attempt in lost:
            if session.runs(job_id, attempt):
                self._drop(session, job_id)
            job = current.get(job_id)
            if job is not None and job.attempt == attempt and job.status == Status.CANCELED:
                session.direct(job_id, attempt, pb.ACTION_CANCEL, job.reason)
            elif job is None or job.attempt != attempt or job.status != Status.FINISHED:
                session.direct(job_id, attempt, pb.ACTION_ABANDON, "it is no longer yours")

    def _follow(self, rows: Sequence[StateRow]) -> None:
        """Looks through the rows of a commit for what concerns the workers of this process."""
        for row in rows:
            if row.job_type == KIT:
                self._wake.set()
            if row.task_name:
                continue
            if row.status == Status.QUEUED:
                self._wake.set()
            if row.status != Status.RUNNING:
                self._confirmed.pop(row.job_id, None)
            if row.job_id in self._moved and row.status != Status.RUNNING:
                self._moved[row.job_id] = row
            session = self._holders.get(row.job_id)
            if session is not None:
                self._follow_held(session, row)

    def _follow_held(self, session: Session, row: StateRow) -> None:
        """Handles a row of a job that a worker of this process runs."""
        attempt = session.running.get(row.job_id, 0)
        if row.status == Status.RUNNING and row.attempt == attempt:
            return
        self._drop(session, row.job_id)
        self._wake.set()
        if row.status == Status.CANCELED:
            session.direct(row.job_id, attempt, pb.ACTION_CANCEL, row.reason)
        elif row.status not in (Status.FINISHED, Status.FAILED):
            session.direct(row.job_id, attempt, pb.ACTION_ABANDON, row.reason)

    async def _keep_granting(self) -> None:
        """Grants jobs whenever there are some and a worker has room."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                while await self._grant_round():
                    pass
            except _Failure as error:
                _log.warning("could not grant jobs: %s", error)
                await asyncio.sleep(POLL_SECONDS)

    async def _grant_round(self) -> bool:
        """Grants what fits now; returns whether anything was granted."""
        open_ = [session for session in self._sessions.values() if session.room() > 0]
        if not open_:
            return False
        job_types = frozenset().union(*(session.job_types for session in open_))
        room = min(GRANTS_A_ROUND, sum(session.room() for session in open_))
        chosen: list[tuple[uuid.UUID, Session]] = []
        for job_id, job_type in await self._store.queued_jobs(job_types, room):
            able = [s for s in open_ if job_type in s.job_types and s.room() > 0]
            if able:
                session = max(able, key=lambda s: s.room() / s.capacity)
                # Reserved here: the rooms below must count the grants of this round.
                session.reserve()
                chosen.append((job_id, session))
        granted = await asyncio.gather(*(self._grant(job, session) for job, session in chosen))
        return any(granted)

    async def _grant(self, job_id: uuid.UUID, session: Session) -> bool:
        """Grants a job to a worker; returns whether the ledger granted it."""
        # While the grant is on its way through the ledger, `_follow` notes here what moves the
        # job after it.
        self._moved[job_id] = None
        try:
            reached("lease.before_grant")
            granted: Granted | None = await self._ledger.submit(
                Grant(job_id=job_id, worker=session.worker, lease_seconds=self.lease_seconds)
            )
            moved = self._moved[job_id]
        finally:
            del self._moved[job_id]
            session.unreserve()
        if granted is None:
            return False
        reached("lease.after_grant")
        attempt = granted.job.attempt
        if moved is not None and moved.attempt >= attempt:
            return True  # It was canceled before it could be sent to the worker.
        if session.closed or session.draining:
            self._later(self._give_back(job_id, attempt, session.worker))
            return True
        session.add(job_id, attempt)
        self._holders[job_id] = session
        session.grant(messages.grant_to_proto(granted, self.lease_seconds))
        return True

    async def _keep_expiring(self) -> None:
        """Ends the attempts of workers that send no heartbeats."""
        clock = asyncio.get_running_loop().time
        last_look = float("-inf")
        while True:
            try:
                # After a gap, as when the registry or the database was down or the process was
                # frozen, no worker could renew: leases get their full time again.
                if clock() - last_look > self.lease_seconds / 2 + 1:
                    await self._store.extend_leases(self.lease_seconds)
                last_look = clock()
                for lease in await self._store.expired_leases(OVERDUE_LEASES * self.lease_seconds):
                    await self._take_away(lease)
            except _Failure as error:
                _log.warning("could not look for expired leases: %s", error)
                last_look = float("-inf")
            await asyncio.sleep(min(POLL_SECONDS, self.lease_seconds / 5))

    async def _take_away(self, lease: HeldLease) -> None:
        """Ends the attempt of a lease that is over or overdue."""
        job_id, attempt, worker = lease.job_id, lease.attempt, lease.worker
        _log.warning(
            "attempt %d of job %s is taken from worker %s, which %s",
            attempt,
            job_id,
            worker,
            "lets it run on after its timeout" if lease.overdue else "sends no heartbeats",
        )
        if lease.overdue:
            await self._ledger.submit(
                Release(
                    job_id=job_id,
                    attempt=attempt,
                    worker=worker,
                    reason="it ran longer than its timeout",
                    counts=True,
                )
            )
        else:
            reached("lease.before_lose")
            await self._ledger.submit(Lose(job_id=job_id, attempt=attempt, worker=worker))

    async def _give_back(
        self,
        job_id: uuid.UUID,
        attempt: int,
        worker: str,
        why: str = "left before it received the job",
    ) -> None:
        """Queues a job again that the worker does not run, uncounted."""
        reason = f"the worker {why}"
        await self._submit(Release(job_id=job_id, attempt=attempt, worker=worker, reason=reason))

    async def _submit(self, command: Append | Release) -> None:
        """Submits a command whose answer nobody waits for; if it fails, the lease expires."""
        try:
            await self._ledger.submit(command)
        except _Failure as error:
            _log.warning("%s was not recorded: %s", type(command).__name__, error)

    def _later(self, errand: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine that the current one does not wait for."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _drop(self, session: Session, job_id: uuid.UUID) -> None:
        session.remove(job_id)
        if self._holders.get(job_id) is session:
            del self._holders[job_id]

    def _forget(self, session: Session) -> None:
        for job_id in list(session.running):
            self._drop(session, job_id)
