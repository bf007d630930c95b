"""What is asked of the stages, whose addresses the registry tells."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]
from vistaflow.aio import connect
from vistaflow.api.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.errors import InvalidArgumentError, VistaError


class TwoPages(ingestion_pb2_grpc.IngestionServiceServicer):
    """Has more decks than one answer holds."""

    async def ListDecks(self, request: Any, context: Any) -> ingestion_pb2.ListDecksResponse:
        names, more = (("c",), "") if request.page_token else (("a", "b"), "after b")
        decks = [ingestion_pb2.Deck(name=each) for each in names]
        return ingestion_pb2.ListDecksResponse(decks=decks, next_page_token=more)


async def test_all_decks_are_told_however_many_pages_they_are(scripted: ScriptedRegistry) -> None:
    server = grpc.aio.server()
    ingestion_pb2_grpc.add_IngestionServiceServicer_to_server(TwoPages(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    there = pb.ServiceInfo(name="ingestion", address=f"127.0.0.1:{port}", status="SERVING")
    scripted.answers = [pb.GetServerInfoResponse(services=[there])]

    async with connect(scripted.address) as client:
        assert [each.name for each in await client.decks()] == ["a", "b", "c"]
    await server.stop(0)


async def ingesting() -> tuple[Any, str]:
    """A server with decks, and its address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    ingestion_pb2_grpc.add_IngestionServiceServicer_to_server(TwoPages(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


def at(address: str) -> pb.GetServerInfoResponse:
    there = pb.ServiceInfo(name="ingestion", address=address, status="SERVING")
    return pb.GetServerInfoResponse(services=[there])


async def test_calls_at_once_all_go_on_where_a_service_has_moved(
    scripted: ScriptedRegistry,
) -> None:
    old, address = await ingesting()
    scripted.answers = [at(address)]
    async with connect(scripted.address, timeout=20.0) as client:
        assert len(await client.decks()) == 3
        await old.stop(0)
        new, moved = await ingesting()
        scripted.answers = [at(moved)]

        told = await asyncio.gather(*(client.decks() for _ in range(20)))

        assert [len(decks) for decks in told] == [3] * 20
        assert [stage.address for stage in client._stages.values()] == [moved]
    await new.stop(0)


async def test_calls_at_once_to_a_service_that_is_gone_each_say_so(
    scripted: ScriptedRegistry,
) -> None:
    old, address = await ingesting()
    scripted.answers = [at(address)]
    async with connect(scripted.address, timeout=1.0) as client:
        assert len(await client.decks()) == 3
        await old.stop(0)
        told = await asyncio.gather(*(client.decks() for _ in range(9)), return_exceptions=True)
        assert {isinstance(each, VistaError) for each in told} == {True}


@pytest.mark.parametrize("days", [float("nan"), float("inf"), -1.0, 1e300])
async def test_a_token_is_asked_for_a_time_that_there_is(
    scripted: ScriptedRegistry, days: float
) -> None:
    async with connect(scripted.address) as client:
        with pytest.raises(InvalidArgumentError, match="days: is"):
            await client.create_token("a", "ADMIN", days=days)
