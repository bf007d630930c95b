"""Unary calls: tried again while nobody answers, with one request id, never beyond the timeout."""

from __future__ import annotations

import asyncio
import time
import uuid

import grpc
import pytest
from google.rpc import error_details_pb2

import vistaflow
from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    ScriptedRegistry,
    info,
    refuse,
    stall,
)
from vistaflow._rpc.channel import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, waits
from vistaflow.aio import connect
from vistaflow.api.registry.v1 import registry_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("reason", ["", "UNAVAILABLE", "DRAINING"])
async def test_a_call_is_tried_again_with_the_same_request_id(
    scripted: ScriptedRegistry, reason: str
) -> None:
    lost = refuse(UNAVAILABLE, details=[info(reason)] if reason else [])
    scripted.answers = [lost, lost, pb.CreateKitResponse(kit=pb.Kit(kit_id=7))]

    async with connect(scripted.address) as client:
        kit = await client.create_kit("x")

    ids = {each.request_id for each in scripted.requests}
    assert kit.kit_id == 7
    assert len(scripted.requests) == 3
    assert len(ids) == 1
    assert uuid.UUID(ids.pop())


async def test_a_request_id_of_the_caller_is_kept(scripted: ScriptedRegistry) -> None:
    given = str(uuid.uuid4())
    scripted.answers = [pb.CreateKitResponse()]

    async with connect(scripted.address) as client:
        await client.create_kit("x", request_id=given)

    assert scripted.requests[0].request_id == given


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    ],
)
async def test_what_a_service_said_is_not_asked_again(
    scripted: ScriptedRegistry, code: grpc.StatusCode
) -> None:
    scripted.answers = [refuse(code)]

    async with connect(scripted.address) as client:
        with pytest.raises(vistaflow.VistaError):
            await client.server_info()

    assert len(scripted.requests) == 1


async def test_a_missing_simulator_is_not_waited_for(scripted: ScriptedRegistry) -> None:
    scripted.answers = [refuse(UNAVAILABLE, "get it", details=[info("SIMULATOR_MISSING")])]

    async with connect(scripted.address) as client:
        with pytest.raises(vistaflow.UnavailableError, match="get it"):
            await client.server_info()

    assert len(scripted.requests) == 1


async def test_trying_again_ends_with_the_timeout(scripted: ScriptedRegistry) -> None:
    scripted.answers = [refuse(UNAVAILABLE)]

    async with connect(scripted.address, timeout=1.5) as client:
        with pytest.raises(vistaflow.UnavailableError):
            await client.server_info()

    assert len(scripted.requests) >= 2


async def test_an_answer_that_comes_too_late_is_a_deadline(scripted: ScriptedRegistry) -> None:
    scripted.answers = [stall(3600)]

    async with connect(scripted.address, timeout=1.5) as client:
        with pytest.raises(vistaflow.DeadlineExceededError):
            await client.server_info()

    assert len(scripted.requests) == 1


async def test_a_call_survives_a_restart_of_the_registry(scripted: ScriptedRegistry) -> None:
    async with connect(scripted.address) as client:
        await client.server_info()
        await scripted.stop()
        asking = asyncio.create_task(client.server_info())
        await asyncio.sleep(0.3)
        assert not asking.done()
        await scripted.start(scripted.address)
        await asyncio.wait_for(asking, 60)


async def test_pages_are_fetched_as_they_are_needed(scripted: ScriptedRegistry) -> None:
    scripted.answers = [
        pb.ListKitsResponse(kits=[pb.Kit(kit_id=5), pb.Kit(kit_id=4)], next_page_token="a"),
        pb.ListKitsResponse(kits=[pb.Kit(kit_id=3)], next_page_token="b"),
        pb.ListKitsResponse(kits=[pb.Kit(kit_id=2)]),
    ]

    async with connect(scripted.address) as client:
        async for each in client.kits():
            if each.kit_id == 3:
                break
    assert [each.page_token for each in scripted.requests] == ["", "a"]


def test_waits_grow_and_are_bounded() -> None:
    following = waits()
    found = [following() for _ in range(30)]

    assert FIRST_WAIT_SECONDS * 0.8 <= found[0] <= FIRST_WAIT_SECONDS * 1.2
    assert max(found) <= LONGEST_WAIT_SECONDS * 1.2
    assert min(found[-10:]) >= LONGEST_WAIT_SECONDS * 0.8
    assert len(set(found)) > 20


async def test_a_service_at_its_limit_is_asked_again_when_it_said(
    scripted: ScriptedRegistry,
) -> None:
    wait = error_details_pb2.RetryInfo()
    wait.retry_delay.FromMilliseconds(200)
    limited = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[info("RATE_LIMITED"), wait])
    full = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[info("STORAGE_FULL"), wait])
    scripted.answers = [limited, limited, pb.GetServerInfoResponse(version="1"), full]
    async with connect(scripted.address) as client:
        begun = time.monotonic()
        assert (await client.server_info()).version == "1"
        assert time.monotonic() - begun >= 0.4
        with pytest.raises(vistaflow.ResourceExhaustedError) as caught:
            await client.server_info()
    assert (caught.value.reason, caught.value.retry_after) == ("STORAGE_FULL", 0.2)
    assert len(scripted.requests) == 4
