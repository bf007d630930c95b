"""One worker's stream: what it runs, how much more it takes, what is on its way to it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ConflictError, ExhaustedError, ServiceError
from vistaflow_services.registry.domain import Progress
from vistaflow_services.registry.lease_messages import Hello, hello_from_proto
from vistaflow_services.registry.watch_store import Sign

HELLO_SECONDS = 10.0
# Messages that may wait for a worker that does not read.
MAX_UNREAD = 10_000
# How long an attempt that was told to stop keeps its place when the worker says nothing of it.
STOPPING_SECONDS = 10.0


class Session:
    """A worker that is connected now."""

    def __init__(self, hello: Hello) -> None:
        self.worker = hello.worker
        self.job_types = hello.job_types
        self.capacity = hello.capacity
        self.ready = False
        """Whether it may be given jobs: not before what it still runs is known."""
        self.draining = False
        """Whether the worker said that it takes no more."""
        self.closed = False
        self.running: dict[uuid.UUID, int] = {}
        """Its attempts, by job."""
        self.promised = 0
        """Grants on their way through the ledger."""
        self._stopping: dict[uuid.UUID, float] = {}
        self._outbox: asyncio.Queue[pb.LeaseJobsResponse | None] = asyncio.Queue()
        self._error: ServiceError | None = None
        self._sampled: dict[uuid.UUID, tuple[float, Progress]] = {}

    def room(self) -> int:
        """How many more attempts it takes."""
        if self.closed or self.draining or not self.ready:
            return 0
        now = time.monotonic()
        self._stopping = {job: until for job, until in self._stopping.items() if until > now}
        return self.capacity - len(self.running) - len(self._stopping) - self.promised

    def grant(self, grant: pb.Grant) -> None:
        """Hands it an attempt."""
        self._send(pb.LeaseJobsResponse(grant=grant))

    def direct(
        self, job_id: uuid.UUID, attempt: int, action: pb.Action.ValueType, reason: str
    ) -> None:
        """Tells it what to do with an attempt it runs."""
        self._stopping[job_id] = time.monotonic() + STOPPING_SECONDS
        directive = pb.Directive(job_id=str(job_id), attempt=attempt, action=action, reason=reason)
        self._send(pb.LeaseJobsResponse(directive=directive))

    def stopped_all_but(self, named: Collection[uuid.UUID]) -> None:
        """Frees the places of attempts that were told to stop and are not named any more."""
        for job_id in [job for job in self._stopping if job not in named]:
            del self._stopping[job_id]

    def samples(self, sign: Sign, seconds: float) -> bool:
        """Whether an attempt's progress is to be recorded now: it is new, and time has passed."""
        if sign.progress is None:
            return False
        now = time.monotonic()
        last = self._sampled.get(sign.job_id)
        if last is not None and (last[1] == sign.progress or now - last[0] < seconds):
            return False
        self._sampled = {job: kept for job, kept in self._sampled.items() if job in self.running}
        self._sampled[sign.job_id] = (now, sign.progress)
        return True

    def close(self, error: ServiceError | None) -> None:
        """Ends the stream once what is on its way was sent."""
        if not self.closed:
            self.closed = True
            self._error = error
            self._outbox.put_nowait(None)

    async def messages(self) -> AsyncIterator[pb.LeaseJobsResponse]:
        """What is on its way to the worker, until the session is closed.

        Raises:
            ServiceError: The session was closed for this reason.
        """
        while (message := await self._outbox.get()) is not None:
            yield message
        if self._error is not None:
            raise self._error

    def _send(self, message: pb.LeaseJobsResponse) -> None:
        if self._outbox.qsize() >= MAX_UNREAD:
            self.close(ExhaustedError("the worker does not read what it is told"))
        else:
            self._outbox.put_nowait(message)

    def unsent(self) -> Iterator[pb.Grant]:
        """Grants that were still on their way when the stream broke."""
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
