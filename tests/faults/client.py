"""What every client of a run has: a history, its own luck, and the replicas it may call."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from tests.faults.history import Recorder
from tests.faults.reuse import connect, key_of
from vistaflow.api.common.v1 import common_pb2 as common

OP_SECONDS = 2.0
SILENCE_SECONDS = 3.0
"""After so long without a word a stream is taken for dead."""
AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
"""After these a call is made again."""
BROKEN = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    asyncio.InvalidStateError,
    TimeoutError,
)
"""What a stream that is no more raises."""
Answer = TypeVar("Answer")


def word(status: int) -> str:
    """A status as the log has it."""
    return common.Status.Name(status).removeprefix("STATUS_")


def shown_key(state: common.State) -> list[Any]:
    """`key_of` with words."""
    job_id, attempt, seq, task, status = key_of(state)
    return [job_id, attempt, seq, task, word(int(str(status)))]


class Client:
    """Calls one replica after another until one answers, and now and then another at will.

    Args:
        recorder: Where everything goes.
        addresses: The replicas; the first is tried first.
        seed: Of everything random.
    """

    def __init__(self, recorder: Recorder, addresses: Sequence[str], seed: str) -> None:
        self.recorder = recorder
        self.chance = random.Random(f"{seed} {recorder.client}")
        self._addresses = list(addresses)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def stub(self) -> Any:
        if self._stub is None:
            self._channel, self._stub = connect(self._addresses[0])
        return self._stub

    def request_id(self) -> str:
        """One more of this client's request ids."""
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    async def elsewhere(self) -> None:
        """Goes to the next replica, on a connection of its own."""
        self._addresses.append(self._addresses.pop(0))
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            # Other calls of this client may still be under way on it.
            closing = asyncio.create_task(channel.close(OP_SECONDS + 1))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()
        await asyncio.gather(*self._closing)

    async def insist(self, call: Callable[[], Awaitable[Answer]], until: float) -> Answer | None:
        """Repeats a call until it is answered; None when the time was over first.

        Raises:
            grpc.aio.AioRpcError: It was refused, and would be again.
        """
        while True:
            try:
                answer = await call()
                if len(self._addresses) > 1 and self.chance.random() < 0.02:
                    await self.elsewhere()
                return answer
            except grpc.aio.AioRpcError as error:
                self.recorder.note("failure", code=error.code().name, detail=error.details())
                if error.code() not in AGAIN:
                    raise
            if time.monotonic() > until:
                return None
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()
