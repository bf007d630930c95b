"""Callers without a valid token: refused cheaply, and no more often than their machine may be."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.unit.core.door.test_interceptor import (  # type: ignore[import-not-found]
    Keeper,
    calling,
    detail,
    failed,
    get,
    serving,
)
from vistaflow_services.core.door.buckets import KEPT, Buckets, machine
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.door.tokens import KEPT_REFUSALS, MOST_ASKED, Tokens, new_token


async def codes(calls: Any) -> Counter[str]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(
        each.code().name if isinstance(each, grpc.aio.AioRpcError) else "OK" for each in outcomes
    )


async def guessed(address: str) -> str:
    async with calling(address, new_token()[1]) as channel:
        return await get(channel)  # type: ignore[no-any-return]


async def test_whoever_guesses_tokens_is_soon_refused_without_anybody_being_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper = Keeper()
    async with serving(keeper, required=True, refusals_per_second=0.5) as address:
        with caplog.at_level(logging.INFO):
            told = await codes(guessed(address) for _ in range(60))
        error = await failed(guessed(address))

    assert set(told) == {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
    assert told["UNAUTHENTICATED"] == keeper.asked
    assert 5 <= keeper.asked <= 20
    assert detail(error, error_details_pb2.ErrorInfo).reason == "TOO_MANY_REFUSALS"
    assert 0 < detail(error, error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() <= 2e9
    lines = [each for each in caplog.records if "without a valid token" in each.message]
    assert [each.levelname for each in lines] == ["WARNING"]


async def test_a_flood_locks_out_nobody_who_is_known_already() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True, refusals_per_second=0.1) as address,
        calling(address, keeper.make(Role.VIEWER)) as known,
    ):
        assert await get(known) == "VIEWER t"
        told = await codes(guessed(address) for _ in range(20))
        assert told["RESOURCE_EXHAUSTED"] >= 18
        await asyncio.sleep(0.4)  # what was learned of the token is to be asked for again
        assert await get(known) == "VIEWER t"


async def test_calls_without_any_token_take_nothing_from_those_that_show_one() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True, refusals_per_second=0.1) as address,
        calling(address) as bare,
        calling(address, keeper.make(Role.VIEWER)) as late,
    ):
        told = await codes(get(bare) for _ in range(30))
        assert told["RESOURCE_EXHAUSTED"] >= 28
        assert await get(late) == "VIEWER t"


async def test_clients_with_valid_tokens_may_all_begin_at_once() -> None:
    keeper = Keeper()
    async with serving(keeper, required=True, refusals_per_second=0.1) as address:

        async def begin() -> str:
            async with calling(address, keeper.make(Role.EDITOR)) as channel:
                return await get(channel)  # type: ignore[no-any-return]

        for _ in range(20):
            assert await begin() == "EDITOR t"


async def test_a_streams_first_call_shows_its_token_too() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True) as address,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):
        stream = channel.unary_stream("/vistaflow.api.registry.v1.RegistryService/WatchStates")(
            b"", timeout=60
        )
        assert await stream.read()
        stream.cancel()


async def test_calls_that_a_role_is_refused_count_against_its_rate() -> None:
    keeper = Keeper()
    path = "/vistaflow.api.registry.v1.RegistryService/Unknown"
    async with (
        serving(keeper, required=True, rate_per_second=2) as address,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):
        await get(channel)
        told = await codes(channel.unary_unary(path)(b"", timeout=60) for _ in range(30))
    assert told["PERMISSION_DENIED"] >= 1
    assert told["RESOURCE_EXHAUSTED"] >= 15


async def test_tokens_that_are_not_valid_push_out_none_that_is() -> None:
    keeper = Keeper()
    tokens = Tokens(keeper.find, seconds=60)
    text = keeper.make(Role.VIEWER)
    await tokens.caller(text)
    rounds = (KEPT_REFUSALS + 200) // MOST_ASKED
    for _ in range(rounds):
        made = (tokens.caller(new_token()[1]) for _ in range(MOST_ASKED))
        await asyncio.gather(*made, return_exceptions=True)
    asked = keeper.asked
    await tokens.caller(text)
    assert keeper.asked == asked == 1 + rounds * MOST_ASKED
    assert len(tokens._refused) == KEPT_REFUSALS


async def test_only_so_many_unknown_tokens_are_asked_for_at_once() -> None:
    keeper = Keeper()
    tokens = Tokens(keeper.find)
    calls = (tokens.caller(new_token()[1]) for _ in range(MOST_ASKED + 50))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    told = Counter(getattr(each, "reason", "") for each in outcomes)
    assert told == {"TOKEN_INVALID": MOST_ASKED, "TOO_MANY_TOKENS": 50}


@pytest.mark.parametrize(
    ("peer", "who"),
    [
        ("ipv4:10.0.0.7:41234", "ipv4:10.0.0.7"),
        ("ipv6:%5B::1%5D:41234", "ipv6:::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:99", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:[::ffff:10.0.0.7]:99", "ipv4:10.0.0.7"),
        ("ipv6:[fe80::1%eth0]:99", "ipv6:fe80::/64"),
        ("unix:", "unix:"),
        ("unix:/run/registry.sock", "unix:/run/registry.sock"),
    ],
)
def test_a_peer_is_known_by_its_machine(peer: str, who: str) -> None:
    assert machine(peer) == who


async def test_a_bucket_fills_all_the_time_up_to_its_brim() -> None:
    buckets = Buckets(100, 2)
    assert [buckets.take("a"), buckets.take("a")] == [0, 0]
    assert 0 < buckets.take("a") <= 0.01
    assert buckets.take("b") == 0
    buckets.give_back("a")
    assert buckets.take("a") == 0
    for number in range(KEPT + 1):
        buckets.take(str(number))
    assert len(buckets._left) == KEPT
    assert Buckets(0, 0).take("a") == 0
