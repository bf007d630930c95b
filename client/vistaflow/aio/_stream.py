"""Appending many rows over one stream, which survives lost connections."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import grpc

from vistaflow._rpc.channel import TRANSIENT, waits
from vistaflow._rpc.messages import listed
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.errors import (
    CanceledError,
    InternalError,
    RefusedRow,
    ResourceExhaustedError,
    RowsRefusedError,
    UnavailableError,
    VistaError,
    from_rpc,
    invalid,
)
from vistaflow.models import Appended, appended_of, status_word

MOST_ROWS: Final = 1000
"""Rows that one message may have."""

MOST_REFUSED: Final = 1000
"""Refused rows that one exception lists."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sending:
    """Rows that are not acknowledged yet."""

    states: list[common_pb2.State]
    place: int
    """Place of the first of them among the rows of the stream, from 1."""
    answer: asyncio.Future[Appended]


class StateStream:
    """Rows appended over one stream; made by `AsyncClient.stream`.

        async with client.stream() as stream:
            for chunk in chunks:
                await stream.send(chunk)

    `send` waits only for the registry's credit. Leaving the block waits until all rows are durable,
    and raises if this fails or if the registry refused some of them. A lost connection is opened
    again and rows without an acknowledgement are sent again: the registry recognises recorded rows
    by their `seq` and answers DUPLICATE. Rows without a `seq` are numbered from a random number of
    62 bits, so that they are appended once too and never share a `seq` with another stream.
    """

    def __init__(
        self, stub: rpc.RegistryServiceStub, *, patience: float, numbers_checked: bool = False
    ) -> None:
        self._stub = stub
        self._patience = patience
        self._numbers_checked = numbers_checked
        # Random numbers of the kernel: a clock or a seeded generator may repeat its values in
        # another process or in a restored machine.
        self._seqs = itertools.count(1 + secrets.randbits(62))
        self._row_count = 0
        self._refused_count = 0
        """Rows not recorded that no exception has listed yet."""
        self._refused: list[RefusedRow] = []
        """The first of them."""
        self._sending: deque[_Sending] = deque()
        self._written = 0
        """How many of them were sent over the present connection."""
        self._credit = 0
        self._numbers = itertools.count(1)
        self._acked = False
        """Whether the present connection brought an acknowledgement."""
        self._waiting_since = time.monotonic()
        """When there was something to acknowledge again, or the last such connection ended."""
        self._error: VistaError | None = None
        self._changed = asyncio.Condition()
        self._runner: asyncio.Task[None] | None = None
        self.revision = 0
        """The highest revision acknowledged."""
        self.reconnect_count = 0
        """How often the connection was opened again."""

    async def __aenter__(self) -> StateStream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.close()
            return
        await self.abort()
        if refused := self._take_refused():
            exc.add_note(refused.message)

    async def send(self, states: Sequence[common_pb2.State]) -> asyncio.Future[Appended]:
        """Sends rows as one append, once there is room for them.

        Args:
            states: 1 to 1,000 rows.

        Returns:
            Their verdicts. Need not be awaited: `flush` and `close` raise for refused rows.

        Raises:
            InvalidArgumentError: There are none, too many, or they are no rows.
            VistaError: The stream is broken for good.
        """
        states = listed(states, "states")
        if not 1 <= len(states) <= MOST_ROWS:
            raise invalid("states", f"{len(states)} rows; send 1 to {MOST_ROWS} at once")
        rows = []
        for state in states:
            if not isinstance(state, common_pb2.State):
                raise invalid("states", f"{type(state).__name__} is not a State")
            row = common_pb2.State()
            row.CopyFrom(state)
            row.seq = row.seq or next(self._seqs)
            rows.append(row)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        async with self._changed:
            # One message waits here for credit at most; all others are on their way.
            await self._changed.wait_for(
                lambda: self._error is not None or self._written == len(self._sending)
            )
            self._check()
            if not self._sending:
                self._waiting_since = time.monotonic()
            place = self._row_count + 1
            self._row_count += len(rows)
            self._sending.append(_Sending(states=rows, place=place, answer=answer))
            self._changed.notify_all()
        return answer

    async def flush(self) -> int:
        """Waits until all that was sent is durable; returns the highest revision so far.

        Raises:
            RowsRefusedError: The registry refused rows since this was last raised. The stream goes
                on, and all other rows are durable.
            VistaError: The stream is broken for good.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._error is not None or not self._sending)
        self._check()
        if refused := self._take_refused():
            raise refused
        return self.revision

    async def close(self) -> None:
        """Waits until all that was sent is durable and ends the stream; raises as `flush` does."""
        try:
            await self.flush()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Ends the stream; of what was not acknowledged some may be recorded."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await self._fail(CanceledError("the stream was closed"))

    def _check(self) -> None:
        if self._error is not None:
            if refused := self._take_refused():
                self._error.add_note(refused.message)
            raise self._error

    def _take_refused(self) -> RowsRefusedError | None:
        """The error for refused rows that were not reported yet."""
        count, rows = self._refused_count, tuple(self._refused)
        self._refused_count, self._refused = 0, []
        return RowsRefusedError(count, rows) if count else None

    async def _run(self) -> None:
        """Keeps the stream connected until it fails permanently; the task is not awaited."""
        try:
            await self._stay_connected()
        except asyncio.CancelledError:
            # By `abort`, or because the client was closed while the stream was open.
            await self._fail(CanceledError("the stream was closed"))
            raise
        except Exception as error:
            failure = InternalError(f"the stream ended by a fault of the client: {error!r}")
            failure.__cause__ = error
            await self._fail(failure)

    async def _stay_connected(self) -> None:
        wait = waits()
        while True:
            error = await self._connection()
            if self._acked:
                self._acked, self._waiting_since, wait = False, time.monotonic(), waits()
            requested = (error.retry_after or 0.0) if error is not None else 0.0
            patient_until = self._waiting_since + self._patience
            impatient = self._sending and time.monotonic() + requested > patient_until
            if impatient or (error is not None and _lasts(error)):
                await self._fail(error or UnavailableError("the registry ended the stream"))
                return
            await asyncio.sleep(requested + wait())
            self.reconnect_count += 1

    async def _connection(self) -> VistaError | None:
        """One connection, to its end."""
        self._written, self._credit, self._numbers = 0, 0, itertools.count(1)
        open_stream: Any = self._stub.StreamStates  # written to by hand, not from an iterator
        call = open_stream()
        writer = asyncio.create_task(self._write(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                await self._take(message)
            await call.code()
            return None
        except grpc.aio.AioRpcError as error:
            return from_rpc(error)
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: Any) -> None:
        """Sends what waits, within the credit, everything unacknowledged first."""
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: (
                        self._written < len(self._sending)
                        and self._credit >= len(self._sending[self._written].states)
                    )
                )
                states = self._sending[self._written].states
                self._credit -= len(states)
                self._written += 1
                self._changed.notify_all()
            await call.write(
                pb.StreamStatesRequest(
                    number=next(self._numbers),
                    states=states,
                    numbers_checked=self._numbers_checked,
                )
            )

    async def _take(self, message: pb.StreamStatesResponse) -> None:
        async with self._changed:
            if message.HasField("credit"):
                self._credit += message.credit.row_count
            else:
                sent = self._sending.popleft()
                self._written -= 1
                self._acked = True
                self.revision = max(self.revision, message.ack.revision)
                appended = appended_of(message.ack.results, message.ack.revision)
                self._note_refused(sent, appended)
                if not sent.answer.done():
                    sent.answer.set_result(appended)
            self._changed.notify_all()

    def _note_refused(self, sent: _Sending, appended: Appended) -> None:
        rows = zip(sent.states, appended.results, strict=False)
        for place, (row, result) in enumerate(rows, sent.place):
            if result.is_recorded:
                continue
            self._refused_count += 1
            if len(self._refused) < MOST_REFUSED:
                self._refused.append(
                    RefusedRow(
                        place=place,
                        job_id=row.job_id,
                        task_name=row.task_name,
                        status=status_word(row.status),
                        seq=row.seq,
                        verdict=result.verdict,
                        detail=result.detail,
                        reason=result.reason,
                    )
                )

    async def _fail(self, error: VistaError) -> None:
        """Breaks the stream for good."""
        async with self._changed:
            self._error = self._error or error
            for sent in self._sending:
                if not sent.answer.done():
                    sent.answer.set_exception(self._error)
            self._sending.clear()
            self._written = 0
            self._changed.notify_all()


def _lasts(error: VistaError) -> bool:
    """Whether sending again cannot succeed."""
    if isinstance(error, ResourceExhaustedError):
        return error.reason == "CREDIT_EXCEEDED"
    return not isinstance(error, TRANSIENT)


def _seen(answer: asyncio.Future[Appended]) -> None:
    """Marks a failure as handled: `flush` and `close` raise it if the answer is not awaited."""
    if not answer.cancelled():
        answer.exception()
