"""Streams that stay take no place from calls that are over soon, from workers or health checks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.unit.core.door.test_interceptor import (  # type: ignore[import-not-found]
    SERVICE,
    Keeper,
    calling,
    detail,
    failed,
    get,
    serving,
)
from vistaflow_services.core.door import interceptor
from vistaflow_services.core.door.callers import EVERYBODY, Caller, Role
from vistaflow_services.core.door.limits import Place, Places
from vistaflow_services.core.errors import ExhaustedError

CALLS = 100
HELD = 60.0
"""How long a stream would stay, if nobody ended it."""


async def begun(call: Any) -> str:
    """The code with which a stream begins."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def counted(calls: list[Any]) -> Counter[str]:
    """How often streams that were opened at once begin with each code."""
    return Counter(await asyncio.gather(*map(begun, calls)))


def watch(channel: grpc.aio.Channel) -> Any:
    return channel.unary_stream(f"/{SERVICE}/WatchStates")(b"", timeout=HELD)


def lease(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(f"/{SERVICE}/LeaseJobs")(timeout=HELD)


def health(channel: grpc.aio.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=HELD)


async def check(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status)


@pytest.mark.parametrize("required", [False, True], ids=["no tokens", "tokens required"])
async def test_idle_watches_leave_room_for_calls_workers_and_health(required: bool) -> None:
    keeper = Keeper()
    async with serving(keeper, calls=CALLS, required=required) as address:
        tokens = [keeper.make(Role.VIEWER) for _ in range(4)] if required else [""] * 4
        worker = keeper.make(Role.WORKER) if required else ""
        streams, codes = [], []
        channels = [calling(address, token) for token in tokens]
        opened = [await each.__aenter__() for each in channels]
        for number in range(CALLS + 20):
            streams.append(watch(opened[number % 4]))
            codes.append(await begun(streams[-1]))
        assert codes == ["OK"] * 75 + ["RESOURCE_EXHAUSTED"] * 45

        assert await get(opened[0])
        error = await failed(watch(opened[0]).read())
        assert detail(error, error_details_pb2.ErrorInfo).reason == "TOO_MANY_STREAMS"
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 5
        async with calling(address, worker) as channel, calling(address) as bare:
            workers = [lease(channel) for _ in range(11)]
            assert await counted(workers) == {"OK": 10, "RESOURCE_EXHAUSTED": 1}
            assert await check(bare)
            assert await begun(health(bare)) == "OK"
        assert await get(opened[0])

        streams[0].cancel()
        async with asyncio.timeout(120):
            while (code := await begun(watch(opened[1]))) != "OK":
                assert code == "RESOURCE_EXHAUSTED"
        for each in channels:
            await each.__aexit__(None, None, None)


@pytest.mark.parametrize("required", [False, True], ids=["no tokens", "tokens required"])
async def test_a_machine_has_only_so_many_streams_of_open_services(required: bool) -> None:
    keeper = Keeper()
    async with (
        serving(keeper, calls=CALLS, required=required) as address,
        calling(address) as bare,
        calling(address, keeper.make(Role.VIEWER) if required else "") as channel,
    ):
        streams = [health(bare) for _ in range(CALLS + 20)]
        assert await counted(streams) == {"OK": 3, "RESOURCE_EXHAUSTED": 117}

        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        asked = stub.ServerReflectionInfo(iter([request]), timeout=60)
        assert await begun(asked) == "RESOURCE_EXHAUSTED"
        assert await get(channel)
        assert await begun(watch(channel)) == "OK"
        assert await check(bare)


async def test_checks_whose_request_never_comes_leave_room_for_those_whose_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interceptor, "REQUEST_SECONDS", 1.0)
    keeper = Keeper()
    async with (
        serving(keeper, calls=CALLS, required=True) as address,
        calling(address) as bare,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):
        # As the server sees it, a call that has sent its headers and nothing more.
        method = "/grpc.health.v1.Health/Check"
        silent = [bare.stream_stream(method)(timeout=HELD) for _ in range(CALLS + 20)]
        waiting = {asyncio.ensure_future(begun(each)) for each in silent}
        while len(waiting) > 2:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert {each.result() for each in done} == {"RESOURCE_EXHAUSTED"}
        assert await get(channel)
        # Those that say nothing do not stay for good.
        codes = {each.result() for each in (await asyncio.wait(waiting))[0]}
        assert codes == {"INVALID_ARGUMENT"}
        assert await check(bare)


async def test_a_token_has_half_of_the_streams_and_another_the_rest() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, calls=CALLS, required=True) as address,
        calling(address, keeper.make(Role.VIEWER)) as greedy,
        calling(address, keeper.make(Role.VIEWER)) as other,
    ):
        streams = [watch(greedy) for _ in range(CALLS)]
        assert await counted(streams) == {"OK": 37, "RESOURCE_EXHAUSTED": 63}
        assert await begun(watch(other)) == "OK"


def test_a_place_is_free_again_however_its_call_ends() -> None:
    places = Places(10)
    caller = Caller(token_id="a")
    for _ in range(50):
        with pytest.raises(RuntimeError), places.held(Place.STREAM, caller, "ipv4:1.2.3.4:5"):
            raise RuntimeError
    with places.held(Place.CHECK, EVERYBODY, "ipv4:1.2.3.4:5"):
        with (
            pytest.raises(ExhaustedError),
            places.held(Place.CHECK, EVERYBODY, "ipv4:1.2.3.4:6"),
        ):
            pass
        with places.held(Place.CHECK, EVERYBODY, "ipv4:1.2.3.5:5"):
            pass
