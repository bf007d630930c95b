"""A stream of appends: how long it waits before it is opened again, and when it gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import vistaflow
from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    ScriptedRegistry,
    info,
    refuse,
    row,
)
from vistaflow.aio import connect
from vistaflow.api.registry.v1 import registry_pb2 as pb


class Streams(ScriptedRegistry):  # type: ignore[misc]
    """Refuses the first streams, and ends the others after a time."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0
        self.retry_after = 0.0
        self.lasting = 60.0
        self.opened_at: list[float] = []
        self.fourth = asyncio.Event()

    async def StreamStates(
        self, requests: AsyncIterator[pb.StreamStatesRequest], context: Any
    ) -> AsyncIterator[pb.StreamStatesResponse]:
        self.opened_at.append(time.monotonic())
        if len(self.opened_at) == 4:
            self.fourth.set()
        if len(self.opened_at) <= self.refusals:
            later = error_details_pb2.RetryInfo()
            later.retry_delay.FromNanoseconds(round(self.retry_after * 1e9))
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            await refuse(code, details=[info("RATE_LIMITED"), later])(context)
        yield pb.StreamStatesResponse(credit=pb.StreamCredit(row_count=100))
        try:
            async with asyncio.timeout(self.lasting):
                async for each in requests:
                    yield pb.StreamStatesResponse(ack=pb.StreamAck(number=each.number, revision=7))
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the script says")


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    registry = Streams()
    await registry.start()
    yield registry
    await registry.stop()


async def test_a_stream_is_opened_again_when_the_service_said(streams: Streams) -> None:
    streams.refusals, streams.retry_after = 1, 0.6
    async with asyncio.timeout(60), connect(streams.address) as client, client.stream() as stream:
        await stream.send([row(0)])
        assert await stream.flush() == 7
    first, second = streams.opened_at
    assert second - first >= 0.6


async def test_a_service_that_asks_for_more_than_the_patience_is_not_waited_for(
    streams: Streams,
) -> None:
    streams.refusals, streams.retry_after = 1, 3600.0
    async with asyncio.timeout(60), connect(streams.address) as client:
        with pytest.raises(vistaflow.ResourceExhaustedError) as refused:
            async with client.stream(patience=5) as stream:
                await stream.send([row(0)])
    assert (refused.value.reason, refused.value.retry_after) == ("RATE_LIMITED", 3600.0)
    assert len(streams.opened_at) == 1


async def test_a_stream_with_nothing_to_send_outlives_its_patience(streams: Streams) -> None:
    streams.lasting = 0.7
    async with (
        asyncio.timeout(60),
        connect(streams.address) as client,
        client.stream(patience=0.5) as stream,
    ):
        await stream.send([row(0)])
        await stream.flush()
        await streams.fourth.wait()
        assert (await (await stream.send([row(0)]))).revision == 7
