"""Leases jobs from the registry and runs them.

One stream a worker: the first message says who it is and what it still runs, so that a lost
connection costs nothing as long as it comes back before the leases expire. Heartbeats renew the
leases and carry progress; the registry's words stop attempts that were canceled or taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient, backoff, job_type_number
from vistaflow_services.core.tasks import ended
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.forks.client import Forks
from vistaflow_services.core.work.forks.owner import (
    ForkServer,
    keep_fork_server,
    receive_connection,
)
from vistaflow_services.core.work.process import Execution
from vistaflow_services.core.work.run import Key, Run, Surroundings
from vistaflow_services.core.work.spawner import child_environment
from vistaflow_services.core.work.templates import Complete

logger = logging.getLogger(__name__)

WELCOME_SECONDS = 10.0
PROGRESS_SECONDS = 1.0
"""Least time between two heartbeats that carry progress."""

LOOK_AGAIN = registry_pb2.LeaseJobsRequest()
"""Is not sent: ends the wait of what sends heartbeats, which depends on whether anything runs."""

RELEASE_MEMORY_SECONDS = 60.0
"""How long a release is sent again after a reconnect: the first may have been lost."""

PUBLISH_SECONDS = 3.0
"""How long a draining worker waits for attempts that only have to publish their result."""


class Worker:
    """Runs the jobs of some types, a bounded number at once.

    Args:
        name: Unique among the workers alive.
        jobs_module: The module whose `JOBS` does the work, imported by the attempts only.
        job_types: The types it can run, such as `DOE`.
        registry: The registry.
        artifacts: Where attempts write.
        capacity: Attempts at once.
        home: `$VISTAFLOW_HOME`; the jobs' logs lie below.
        cores: Cores that one attempt may keep busy; its share of the machine if 0.
        memory_bytes: Memory that one attempt may use; 0 for no limit.
        warm: Whether a process with its imports done forks the attempts.
        fork_link: Where connections to that process come from; the worker starts one if None.
        credentials: Variables with secrets that the attempts may read, by the ends of their names.
        complete: Makes specs of the requests in templates.
        stand_by: Whether a process waits for the next attempt while none runs: for jobs so short
            that its start would be felt.
        published: Called with the id of a job whose last row the registry has taken.
    """

    def __init__(
        self,
        name: str,
        jobs_module: str,
        job_types: Sequence[str],
        registry: RegistryClient,
        artifacts: ArtifactStore,
        capacity: int = 1,
        *,
        home: Path,
        cores: int = 0,
        memory_bytes: int = 0,
        warm: bool = True,
        fork_link: socket.socket | None = None,
        credentials: Sequence[str] = (),
        complete: Complete | None = None,
        stand_by: bool = False,
        published: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.name = name
        self._credentials = credentials
        self._jobs_module = jobs_module
        self._job_types = [job_type_number(job_kind) for job_kind in job_types]
        self._registry = registry
        self._capacity = capacity
        self._warm = warm
        self._fork_link = fork_link
        self._runs: dict[Key, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: asyncio.Queue[registry_pb2.LeaseJobsRequest | None] = asyncio.Queue()
        self._stream_over = asyncio.Event()
        self._sent_releases: list[tuple[float, registry_pb2.Release]] = []
        self._forks: Forks | None = None
        self._forking: asyncio.Task[None] | None = None
        self._lease_seconds = 30.0
        self._connected = False
        self._draining = False
        self._around = Surroundings(
            worker=name,
            registry=registry,
            artifacts=artifacts,
            logs=home / "logs" / "jobs",
            cores=cores or max(1, len(os.sched_getaffinity(0)) // capacity),
            memory_bytes=memory_bytes,
            prepare=self._execution,
            complete=complete,
            published=published,
        )
        self._stand_by = stand_by and warm
        self._next: asyncio.Task[Execution] | None = None

    @property
    def connected(self) -> bool:
        """Whether the registry hands it jobs at the moment."""
        return self._connected

    @property
    def running(self) -> list[Key]:
        """The attempts that it runs."""
        return list(self._runs)

    async def run(self) -> None:
        """Leases and runs jobs until canceled; `drain` first gives back what runs."""
        tried = 0
        try:
            if self._warm:
                self._forking = asyncio.create_task(self._serve_forks())
            while not self._draining:
                began = time.monotonic()
                try:
                    await self._session()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                    problem = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                    logger.warning("no connection to the registry: %s", problem or type(error))
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    logger.warning("the stream to the registry ended from this side")
                tried = 0 if time.monotonic() - began > WELCOME_SECONDS else tried + 1
                await asyncio.sleep(backoff(tried))
        finally:
            await self._stop_all()

    async def drain(self) -> None:
        """Takes no more jobs, gives back those that run, and ends the stream."""
        self._draining = True
        # First of all: what is given back would be granted to this worker again.
        self._out.put_nowait(self._heartbeat())
        give_up = time.monotonic() + PUBLISH_SECONDS
        for run in list(self._runs.values()):
            if not run.publishing:
                run.abandon(f"worker {self.name} shuts down", give_back=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(4.5, give_up - time.monotonic()))
        self._out.put_nowait(None)
        if self._connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._stream_over.wait()

    async def _session(self) -> None:
        """One stream, from hello to its end."""
        self._stream_over.clear()
        call = self._registry.stub.LeaseJobs()
        sending: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await call.write(self._hello())
                response: Any = await call.read()
            while response is not grpc.aio.EOF:
                self._handle(response)
                if sending is None:
                    sending = asyncio.create_task(self._send(call))
                    # A worker that cannot speak must not go on listening as if all were well.
                    sending.add_done_callback(lambda sent: _is_broken(sent) and call.cancel())
                response = await call.read()
        finally:
            self._connected = False
            self._stream_over.set()
            call.cancel()
            if sending is not None:
                # Its failure is the stream's, which was logged already.
                await ended([sending])

    def _hello(self) -> registry_pb2.LeaseJobsRequest:
        recent = time.monotonic() - RELEASE_MEMORY_SECONDS
        for sent_at, release in self._sent_releases:
            if sent_at > recent and (release.job_id, release.attempt) not in self._runs:
                self._out.put_nowait(registry_pb2.LeaseJobsRequest(release=release))
        self._sent_releases.clear()
        return registry_pb2.LeaseJobsRequest(
            hello=registry_pb2.WorkerHello(
                worker=self.name,
                job_types=self._job_types,
                capacity=self._capacity,
                running=[
                    registry_pb2.AttemptRef(job_id=job_id, attempt=attempt)
                    for job_id, attempt in self._runs
                ],
            )
        )

    def _handle(self, response: registry_pb2.LeaseJobsResponse) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._connected = True
                self._lease_seconds = (
                    response.welcome.lease.ToTimedelta().total_seconds() or self._lease_seconds
                )
                logger.info("connected to the registry as worker %s", self.name)
            case "grant":
                self._granted(response.grant)
            case "directive":
                self._directed(response.directive)

    def _granted(self, grant: registry_pb2.Grant) -> None:
        run = Run(grant, self._around)
        if run.key in self._runs:
            return
        job_id, attempt = run.key
        if self._draining:
            reason = f"worker {self.name} shuts down"
            self._release(registry_pb2.Release(job_id=job_id, attempt=attempt, reason=reason))
            return
        self._runs[run.key] = run
        self._out.put_nowait(LOOK_AGAIN)
        task = asyncio.create_task(self._supervise(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _directed(self, directive: registry_pb2.Directive) -> None:
        run = self._runs.get((directive.job_id, directive.attempt))
        if run is not None:
            run.abandon(directive.reason or registry_pb2.Action.Name(directive.action))

    async def _supervise(self, run: Run) -> None:
        try:
            release = await run.run()
        finally:
            self._runs.pop(run.key, None)
            self._prepare_next()
        if release is not None:
            self._release(release)

    def _release(self, release: registry_pb2.Release) -> None:
        logger.info("gives back attempt %d: %s", release.attempt, release.reason)
        self._out.put_nowait(registry_pb2.LeaseJobsRequest(release=release))

    async def _send(self, call: Any) -> None:
        """Sends releases as they come, and heartbeats in time, until nothing is left to send."""
        every = self._lease_seconds / 3
        last, named = 0.0, set(self._runs)
        while True:
            # Without attempts there is no progress to look at between heartbeats.
            is_idle = not self._runs and not named
            wait = max(0.0, last + every - time.monotonic()) if is_idle else PROGRESS_SECONDS
            message: registry_pb2.LeaseJobsRequest | None
            try:
                async with asyncio.timeout(min(wait, every)):
                    message = await self._out.get()
            except TimeoutError:
                # Attempts that came or went are news as well: the registry hears that a grant
                # has arrived, or that the place of a stopped attempt is free.
                news = named != set(self._runs) or any(
                    run.progress_is_new for run in self._runs.values()
                )
                if news or time.monotonic() - last >= every:
                    last, named = time.monotonic(), set(self._runs)
                    await call.write(self._heartbeat())
                continue
            if message is LOOK_AGAIN:
                continue
            if message is None:
                await call.done_writing()
                return
            if message.HasField("release"):
                self._sent_releases.append((time.monotonic(), message.release))
                del self._sent_releases[:-100]
            await call.write(message)

    def _heartbeat(self) -> registry_pb2.LeaseJobsRequest:
        attempts = []
        for (job_id, attempt), run in self._runs.items():
            progress = registry_pb2.AttemptProgress(job_id=job_id, attempt=attempt)
            if run.progress is not None and run.progress_is_new:
                progress.progress.CopyFrom(run.progress)
                run.progress_is_new = False
            attempts.append(progress)
        heartbeat = registry_pb2.Heartbeat(attempts=attempts, draining=self._draining)
        return registry_pb2.LeaseJobsRequest(heartbeat=heartbeat)

    async def _execution(self) -> Execution:
        """A process for the next attempt: the one that stands by if it is still there."""
        prepared, self._next = self._next, None
        if prepared is not None:
            with contextlib.suppress(OSError):
                execution = await prepared
                if execution.alive:
                    return execution
                await execution.stop("it ended before it had a job")
        return await Execution.prepare(self._jobs_module, self._forks, self._credentials)

    def _prepare_next(self) -> None:
        """Has a process stand by, once there is no attempt that it would take time from."""
        if not self._stand_by or self._draining or self._runs or self._next is not None:
            return
        if self._forks is not None and self._forks.ready:
            self._next = asyncio.create_task(
                Execution.prepare(self._jobs_module, self._forks, self._credentials)
            )

    async def _serve_forks(self) -> None:
        """Stays connected to a fork server, for as long as the worker runs."""
        if self._fork_link is not None:
            with self._fork_link as link:
                while (connection := await receive_connection(link)) is not None:
                    await self._use_forks(connection)
            return
        await keep_fork_server([self._jobs_module], child_environment(), self._own_forks)

    async def _own_forks(self, server: ForkServer) -> None:
        """Runs a fork server of this worker, and uses it until it ends."""
        serving = asyncio.create_task(server.run())
        try:
            await self._use_forks(server.connect())
        finally:
            await ended([serving])

    async def _use_forks(self, connection: socket.socket) -> None:
        """Has attempts forked over a connection until it ends."""
        self._forks = Forks(self._jobs_module, connection, self._credentials, self._prepare_next)
        try:
            await self._forks.run()
        finally:
            self._forks = None

    async def _stop_all(self) -> None:
        self._draining = True
        for run in list(self._runs.values()):
            run.abandon("the worker stops")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=6)
        if self._next is not None:
            with contextlib.suppress(OSError):
                await (await self._next).stop("the worker stops")
        if self._forking is not None:
            await ended([self._forking])


def _is_broken(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None
