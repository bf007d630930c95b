"""What is asked of the stages, whose addresses the registry tells."""

from __future__ import annotations

from typing import Any

import grpc

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]
from vistaflow.aio import connect
from vistaflow.api.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2 as pb


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
