"""Appending over one stream: many messages in flight, bounded by credit, acknowledged in order.

A message is one append. The writer may send as many rows as it was granted, so that what waits
between it and the disk stays bounded, and with it the time to its acknowledgement: the credit of a
stream (its window) shrinks while acknowledgements take longer than `TARGET_SECONDS` and grows while
they come sooner and the writer uses it up.

The messages of a stream are a lane of the ledger: committed in order, and none after one that
failed. So a stream that breaks has recorded the first of the rows that were sent, at least those
that were acknowledged. A writer that gave its rows a `seq` sends the rest again on another stream;
rows that were recorded already get the verdict DUPLICATE.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import ExhaustedError, ServiceError
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry.commands import Append
from vistaflow_services.registry.domain import MAX_STATES_AN_APPEND
from vistaflow_services.registry.log.ledger import Lane
from vistaflow_services.registry.messages import requests as read
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.messages.raw import Rows

Sent = pb.StreamStatesRequest | Rows[pb.StreamStatesRequest]
"""A message of a stream; the rows of a large one are still to be parsed."""

MAX_WINDOW = 4_000
"""Most rows that one stream may have on their way."""
MIN_WINDOW = 200
FIRST_WINDOW = 400
"""Before it is known how long acknowledgements take: many streams may begin at once."""
TARGET_SECONDS = 0.03
"""How long an acknowledgement may take before the window shrinks."""
GROWTH = 50
"""Rows that the window grows by with each acknowledgement that comes soon."""
SHRINKING = 0.8
IDLE_SECONDS = 0.02
"""After this time without a message a writer may be waiting for credit for a large one."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Beyond this much that is not acknowledged a stream is not read; one message may exceed it."""
MAX_WAITING_MESSAGES = 256


class Queue(Protocol):
    """The ledger, as far as streams need it."""

    def queue(self, command: Append, lane: Lane) -> asyncio.Future[Any]:
        """Queues a command behind those of its lane."""


class Window:
    """How many rows a writer may send. Pure: it gets every event of the stream.

    Granted is never taken back: a window that shrank grants nothing until enough was acknowledged.
    """

    def __init__(self) -> None:
        self.size = float(FIRST_WINDOW)
        self.unacked = 0
        """Rows taken in and not acknowledged."""
        self.credit = 0
        """Rows granted and not sent."""
        self._largest = 0
        self._shrunk_at = 0.0

    def take(self, rows: int) -> bool:
        """Notes a message; whether its rows were granted."""
        if rows > self.credit:
            return False
        self.credit -= rows
        self.unacked += rows
        self._largest = max(self._largest, rows)
        return True

    def acked(self, rows: int, taken_at: float, now: float) -> None:
        """Notes an acknowledgement of a message that was taken in at a time."""
        self.unacked -= rows
        # Two of the writer's own messages: one being recorded, one on its way.
        floor = max(MIN_WINDOW, 2 * self._largest)
        if now - taken_at > TARGET_SECONDS:
            # What shows the effect of one cut was sent after it.
            if taken_at >= self._shrunk_at:
                self.size *= SHRINKING
                self._shrunk_at = now
        elif self.credit < rows:
            self.size += GROWTH
        self.size = max(floor, min(MAX_WINDOW, self.size))

    def grant(self) -> int:
        """Rows to grant now; 0 while that is not worth a message."""
        more = int(self.size) - self.unacked - self.credit
        if more <= 0 or (self.credit and more < self.size / 4):
            return 0
        self.credit += more
        return more

    def grant_idle(self) -> int:
        """Rows to grant to a silent writer: enough for the largest message allowed."""
        if self.unacked or self.credit >= MAX_STATES_AN_APPEND:
            return 0
        more = MAX_STATES_AN_APPEND - self.credit
        self.credit = MAX_STATES_AN_APPEND
        return more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A message that was taken in."""

    number: int
    rows: int
    size: int
    taken_at: float
    answer: asyncio.Future[Any]


class _Session:
    """One stream."""

    def __init__(self, ledger: Queue) -> None:
        self.window = Window()
        self.waiting: deque[_Message] = deque()
        self.ended = False
        """Whether no more is read: the writer is done or broke the rules, or the server drains."""
        self.error: ServiceError | None = None
        self._ledger = ledger
        self._lane = Lane()
        self._number = 0
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def read(self, requests: AsyncIterator[Sent]) -> None:
        """Takes messages in until the writer is done or breaks the rules."""
        try:
            async for request in requests:
                while self._full and not self.ended:
                    self._room.clear()
                    await self._room.wait()
                if self.ended:
                    return
                await self._take(request)
                self._news.set()
        except ServiceError as error:
            self.error = error
        finally:
            self.end()

    def end(self) -> None:
        """Stops reading; messages that were read are still acknowledged."""
        self.ended = True
        self._news.set()
        self._room.set()

    def close(self) -> None:
        """Cancels the messages that are not being committed yet."""
        self._lane.broken = True
        for message in self.waiting:
            if not message.answer.cancel() and not message.answer.cancelled():
                message.answer.exception()  # or asyncio logs an exception that was never retrieved

    async def wait(self) -> bool:
        """Waits for a message, the end, or a while; whether something came."""
        enough = self.window.credit >= MAX_STATES_AN_APPEND
        try:
            async with asyncio.timeout(None if enough else IDLE_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def done(self, message: _Message) -> None:
        """Notes that the oldest message that waits was recorded."""
        self.waiting.popleft()
        self._bytes -= message.size
        self.window.acked(message.rows, message.taken_at, time.monotonic())
        self._room.set()

    @property
    def _full(self) -> bool:
        return self._bytes > MAX_WAITING_BYTES or len(self.waiting) >= MAX_WAITING_MESSAGES

    async def _take(self, request: Sent) -> None:
        if isinstance(request, Rows):
            number, rows, size = request.head.number, len(request), len(request.data)
            # Read beside the event loop; the next message waits, so that they stay in order.
            command = await off_loop.reading.do(read.stream, request, self._number + 1)
            if self.ended:
                return
        else:
            number, rows, size = request.number, len(request.states), request.ByteSize()
            command = read.stream(request, self._number + 1)
        if not self.window.take(rows):
            raise ExhaustedError(
                f"message {number} has {rows} rows and {self.window.credit} were granted; "
                "send no more rows than the registry gave credit for",
                reason="CREDIT_EXCEEDED",
            )
        self._number += 1
        self._bytes += size
        self.waiting.append(
            _Message(
                number=number,
                rows=rows,
                size=size,
                taken_at=time.monotonic(),
                answer=self._ledger.queue(command, self._lane),
            )
        )


class StreamService:
    """Serves StreamStates.

    Args:
        ledger: What rows are submitted to.
    """

    def __init__(self, ledger: Queue) -> None:
        self._ledger = ledger
        self._sessions: set[_Session] = set()
        self._draining = False

    def drain(self) -> None:
        """Ends every stream once its messages are acknowledged; the writers connect elsewhere."""
        self._draining = True
        for session in self._sessions:
            session.end()

    async def session(
        self, requests: AsyncIterator[Sent]
    ) -> AsyncGenerator[pb.StreamStatesResponse, None]:
        """The messages to one writer: credit, and one acknowledgement a message, in order."""
        if self._draining:
            return
        session = _Session(self._ledger)
        self._sessions.add(session)
        reader = asyncio.create_task(session.read(requests))
        try:
            yield _credit(session.window.grant())
            while session.waiting or not session.ended:
                if session.waiting:
                    message = session.waiting[0]
                    answer = await message.answer
                    session.done(message)
                    yield pb.StreamStatesResponse(
                        ack=pb.StreamAck(
                            number=message.number,
                            results=map(translate.result_to_proto, answer.results),
                            revision=answer.revision,
                        )
                    )
                    more = session.window.grant()
                else:
                    more = 0 if await session.wait() else session.window.grant_idle()
                if more:
                    yield _credit(more)
            if session.error is not None:
                raise session.error
        finally:
            self._sessions.discard(session)
            session.close()
            await ended([reader])


def _credit(rows: int) -> pb.StreamStatesResponse:
    return pb.StreamStatesResponse(credit=pb.StreamCredit(row_count=rows))
