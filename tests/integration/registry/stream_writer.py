"""A writer on one StreamStates stream, by hand: sends what it has credit for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from traffic import key_of
from watch_checker import Seen

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

if TYPE_CHECKING:
    from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub


def task_row(job_id: str, name: str, seq: int = 0, **fields: Any) -> common.State:
    fields.setdefault("status", common.STATUS_RUNNING)
    return common.State(job_id=job_id, task_name=name, seq=seq, attempt=1, **fields)


@dataclass
class StreamWriter:
    """One stream: what was sent, what was acknowledged, how long that took."""

    stub: RegistryServiceAsyncStub
    sent: dict[int, list[common.State]] = field(default_factory=dict)
    sent_at: dict[int, float] = field(default_factory=dict)
    acks: list[pb.StreamAck] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    credit: int = 0
    most_unacked: int = 0
    error: grpc.aio.AioRpcError | None = None
    ended: bool = False

    def open(self) -> StreamWriter:
        self._news = asyncio.Event()
        self.call = self.stub.StreamStates()
        self.reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        try:
            while True:
                message = await self.call.read()
                if message is grpc.aio.EOF:
                    await self.call.code()
                    break
                if message.HasField("credit"):
                    self.credit += message.credit.row_count
                else:
                    self.acks.append(message.ack)
                    self.lags.append(time.monotonic() - self.sent_at[message.ack.number])
                self._news.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            if not self.call.cancelled():  # then not the call was canceled but this task
                raise
        self.ended = True
        self._news.set()

    @property
    def unacked(self) -> int:
        acked = {ack.number for ack in self.acks}
        return sum(len(rows) for number, rows in self.sent.items() if number not in acked)

    async def send(self, rows: list[common.State], *, wait: bool = True) -> int:
        """Sends a message, once there is credit for it; its number."""
        while wait and self.credit < len(rows) and not self.ended:
            self._news.clear()
            await self._news.wait()
        number = len(self.sent) + 1
        self.credit -= len(rows)
        self.sent[number] = rows
        self.sent_at[number] = time.monotonic()
        await self.call.write(pb.StreamStatesRequest(number=number, states=rows))
        self.most_unacked = max(self.most_unacked, self.unacked)
        return number

    async def acked(self, number: int, *, seconds: float = 120.0) -> pb.StreamAck:
        async with asyncio.timeout(seconds):
            while len(self.acks) < number and not self.ended:
                self._news.clear()
                await self._news.wait()
        assert len(self.acks) >= number, self.error
        return self.acks[number - 1]

    async def done(self) -> None:
        """Says that nothing more comes and waits for what is left to be acknowledged."""
        await self.call.done_writing()
        await self.over()

    async def over(self, seconds: float = 120.0) -> None:
        async with asyncio.timeout(seconds):
            await self.reading

    def appends(self) -> list[list[Seen]]:
        """What was acknowledged, one list an append, as the checker wants it."""
        return [
            [
                Seen(result.revision, key_of(s), (s.job_id, s.task_name))
                for s, result in zip(self.sent[ack.number], ack.results, strict=True)
            ]
            for ack in self.acks
        ]
