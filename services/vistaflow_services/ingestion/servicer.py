"""The gRPC service of ingestion."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.core.errors import NotFoundError, ServiceError, Violations
from vistaflow_services.core.interceptor import Context
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.library import Collected, DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.translate import deck_to_proto
from vistaflow_services.simulators.run import check_deck

MAX_SOURCES = 100
"""Most decks in one request."""

MAX_PAGE = 1_000
DEFAULT_PAGE = 100


class IngestionServicer(rpc.IngestionServiceServicer):
    """Translates between the protos and the decks; decides nothing itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._library = DeckLibrary(stage.artifacts.root / "decks")
        assert isinstance(stage.config, Config)
        self._roots = stage.config.deck_folders

    async def CollectDecks(
        self, request: pb.CollectDecksRequest, context: Context
    ) -> pb.CollectDecksResponse:
        """Starts collecting decks. See the proto for the contract."""
        await asyncio.to_thread(self._check, request.spec.sources)
        job = await self._stage.submit(
            request.spec, "DECK_COLLECTION", request_id=request.request_id
        )
        return pb.CollectDecksResponse(job=job)

    async def ListDecks(
        self, request: pb.ListDecksRequest, context: Context
    ) -> pb.ListDecksResponse:
        """Lists the decks collected and shipped."""
        size, after = _page(request)
        found = await asyncio.to_thread(self._library.list)
        wanted = [each for each in _after(found, after) if _matches(each, request)]
        decks = fitting(wanted[:size], lambda deck: deck_to_proto(deck, with_text=False))
        more = len(wanted) > len(decks)
        return pb.ListDecksResponse(
            decks=decks, next_page_token=_token(_key(wanted[len(decks) - 1])) if more else ""
        )

    async def GetDeck(self, request: pb.GetDeckRequest, context: Context) -> pb.GetDeckResponse:
        """Gets one deck with its files."""
        found = await asyncio.to_thread(self._library.find, request.deck)
        return pb.GetDeckResponse(deck=deck_to_proto(found, with_text=True))

    def _check(self, sources: Sequence[pb.DeckSource]) -> None:
        """Raises `InvalidError` with every mistake of the sources, before anything is queued."""
        found = Violations()
        if not 1 <= len(sources) <= MAX_SOURCES:
            found.add("spec.sources", f"{len(sources)} given; 1 to {MAX_SOURCES} may be")
        missing: list[NotFoundError] = []
        for at, each in enumerate(sources[:MAX_SOURCES]):
            try:
                deck = deck_of(
                    name=each.name,
                    path=each.path,
                    archive=each.archive,
                    library=self._library,
                    roots=self._roots,
                )
                check_deck(deck)
            except NotFoundError as error:
                missing.append(error)
            except ServiceError as error:
                found.extend(f"spec.sources[{at}]", error)
        found.check()
        if missing:
            raise missing[0]


def _key(collected: Collected) -> str:
    return f"{collected.deck.name}/{collected.deck.digest}"


def _after(found: list[Collected], key: str) -> list[Collected]:
    """The decks that come after the one of that key."""
    keys = [_key(each) for each in found]
    if key in keys:
        return found[keys.index(key) + 1 :]
    name = key.partition("/")[0]
    return [each for each in found if each.deck.name > name]


def _matches(collected: Collected, request: pb.ListDecksRequest) -> bool:
    if request.HasField("shipped") and collected.shipped != request.shipped:
        return False
    return request.name_contains.lower() in collected.deck.name


def _page(request: pb.ListDecksRequest) -> tuple[int, str]:
    """The page's size and the key it starts after."""
    found = Violations()
    if not 0 <= request.page_size <= MAX_PAGE:
        found.add("page_size", f"{request.page_size} is not from 1 to {MAX_PAGE}")
    after = ""
    try:
        after = base64.b64decode(request.page_token.encode(), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        found.add("page_token", "is not one that this service gave out; begin without one")
    found.check()
    return request.page_size or DEFAULT_PAGE, after


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()
