"""The stream of one worker: what it runs, how much more it takes, and the messages to it.

Only `Session` changes the state of a session; the service calls its methods.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from types import MappingProxyType

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ConflictError, ExhaustedError, ServiceError
from vistaflow_services.registry.domain import Progress
from vistaflow_services.registry.lease.messages import Hello, hello_from_proto
from vistaflow_services.registry.lease.store import Sign

HELLO_SECONDS = 10.0
"""Seconds in which the first message of a worker must come."""

MAX_UNREAD = 10_000
"""Messages that may wait for a worker that does not read; then its stream ends."""

STOPPING_SECONDS = 10.0
"""Seconds for which an attempt that must stop keeps its place if no heartbeat mentions it."""


class Session:
    """A worker that is connected now.

    A place of its capacity is taken by an attempt that it runs, by a grant that is being
    committed (`reserve`), and for a while by an attempt that must stop (`direct`).
    """

    def __init__(self, hello: Hello) -> None:
        self.worker = hello.worker
        self.job_types = hello.job_types
        self.capacity = hello.capacity
        self._ready = False
        self._draining = False
        self._closed = False
        self._running: dict[uuid.UUID, int] = {}
        self._running_view = MappingProxyType(self._running)
        self._reserved = 0
        self._stopping: dict[uuid.UUID, float] = {}
        self._outbox: asyncio.Queue[pb.LeaseJobsResponse | None] = asyncio.Queue()
        self._error: ServiceError | None = None
        self._sampled: dict[uuid.UUID, tuple[float, Progress]] = {}

    @property
    def draining(self) -> bool:
        """Whether the worker takes no more jobs and is about to end."""
        return self._draining

    @property
    def closed(self) -> bool:
        """Whether the stream is being ended."""
        return self._closed

    @property
    def running(self) -> Mapping[uuid.UUID, int]:
        """The attempts of the worker, by job; the view follows every change."""
        return self._running_view

    def runs(self, job_id: uuid.UUID, attempt: int) -> bool:
        """Whether this attempt of a job is the worker's."""
        return self._running.get(job_id) == attempt

    def room(self) -> int:
        """How many more attempts the worker takes."""
        if self._closed or self._draining or not self._ready:
            return 0
        now = time.monotonic()
        self._stopping = {job: until for job, until in self._stopping.items() if until > now}
        return self.capacity - len(self._running) - len(self._stopping) - self._reserved

    def begin(self) -> None:
        """Lets the worker have jobs, now that the attempts which it still runs are known."""
        self._ready = True

    def drain(self) -> None:
        """Notes that the worker takes no more jobs."""
        self._draining = True

    def reserve(self) -> None:
        """Takes a place for a grant that is being committed."""
        self._reserved += 1

    def unreserve(self) -> None:
        """Frees the place of a grant that is committed or refused."""
        self._reserved -= 1

    def add(self, job_id: uuid.UUID, attempt: int) -> None:
        """Notes that an attempt is the worker's."""
        self._running[job_id] = attempt

    def remove(self, job_id: uuid.UUID) -> None:
        """Notes that no attempt of a job is the worker's any more."""
        self._running.pop(job_id, None)

    def grant(self, grant: pb.Grant) -> None:
        """Sends the worker an attempt."""
        self._send(pb.LeaseJobsResponse(grant=grant))

    def direct(
        self, job_id: uuid.UUID, attempt: int, action: pb.Action.ValueType, reason: str
    ) -> None:
        """Sends the worker what to do with an attempt that is not its own any more."""
        self._stopping[job_id] = time.monotonic() + STOPPING_SECONDS
        directive = pb.Directive(job_id=str(job_id), attempt=attempt, action=action, reason=reason)
        self._send(pb.LeaseJobsResponse(directive=directive))

    def stopped_all_but(self, named: Collection[uuid.UUID]) -> None:
        """Frees the places of attempts that had to stop and that a heartbeat does not name."""
        for job_id in [job for job in self._stopping if job not in named]:
            del self._stopping[job_id]

    def samples(self, sign: Sign, seconds: float) -> bool:
        """Whether to record an attempt's progress now: it is new and the last is old enough.

        Args:
            sign: The attempt and its progress.
            seconds: Least time between two records of one attempt.
        """
        if sign.progress is None:
            return False
        now = time.monotonic()
        last = self._sampled.get(sign.job_id)
        if last is not None and (last[1] == sign.progress or now - last[0] < seconds):
            return False
        # Bounded by the capacity of the worker.
        self._sampled = {
            job: sample for job, sample in self._sampled.items() if job in self._running
        }
        self._sampled[sign.job_id] = (now, sign.progress)
        return True

    def close(self, error: ServiceError | None) -> None:
        """Ends the stream after the messages that wait were sent.

        Args:
            error: The error with which the stream ends, if any.
        """
        if not self._closed:
            self._closed = True
            self._error = error
            self._outbox.put_nowait(None)

    async def messages(self) -> AsyncIterator[pb.LeaseJobsResponse]:
        """The messages to the worker, until the session is closed.

        Raises:
            ServiceError: The session was closed for this reason.
        """
        while (message := await self._outbox.get()) is not None:
            yield message
        if self._error is not None:
            raise self._error

    def _send(self, message: pb.LeaseJobsResponse) -> None:
        if self._outbox.qsize() >= MAX_UNREAD:
            self.close(ExhaustedError("the worker does not read its messages"))
        else:
            self._outbox.put_nowait(message)

    def unsent(self) -> Iterator[pb.Grant]:
        """Removes the messages that were not sent when the stream broke; returns the grants."""
        while not self._outbox.empty():
            message = self._outbox.get_nowait()
            if message is not None and message.HasField("grant"):
                yield message.grant


async def read_hello(requests: AsyncIterator[pb.LeaseJobsRequest]) -> Hello:
    """The first message of a worker.

    Raises:
        ConflictError: It is not a hello, or does not come in time.
        InvalidError: It is malformed.
    """
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await anext(aiter(requests))
    except (TimeoutError, StopAsyncIteration):
        raise ConflictError(f"no `hello` within {HELLO_SECONDS:g} s") from None
    if not first.HasField("hello"):
        raise ConflictError("the first message must be `hello`")
    return hello_from_proto(first.hello)
