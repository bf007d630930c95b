"""The job that collects decks: read, checked, hashed, kept once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.jobs import Attempt, JobError
from vistaflow_services.decks.library import Collected, DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.ingestion.config import Config
from vistaflow_services.simulators.run import check_deck

MAX_WARNINGS: Final = 20
"""Most warnings that are recorded of one deck."""


def collect(attempt: Attempt) -> dict[str, Any]:
    """Collects the decks of a `CollectDecksSpec`; the result names each by its id."""
    spec = attempt.unpack(ingestion_pb2.CollectDecksSpec)
    library = DeckLibrary(attempt.artifacts.root / "decks")
    roots = read_config(Config, "VISTAFLOW_INGESTION_").deck_folders
    decks = []
    for at, source in enumerate(spec.sources):
        attempt.progress("collect", at, len(spec.sources), unit="decks")
        try:
            deck = deck_of(
                name=source.name,
                path=source.path,
                archive=source.archive,
                library=library,
                roots=roots,
            )
            check_deck(deck)
        except ServiceError as error:
            raise JobError(
                f"sources[{at}]: {error.message}",
                reason=error.reason,
                hint="correct the deck and collect it again",
                details={"violations": [vars(each) for each in error.violations[:50]]},
            ) from None
        collected = library.put(deck)
        warnings = list(deck.warnings[:MAX_WARNINGS])
        attempt.task(
            deck.name,
            "FINISHED",
            {"deck_id": deck.digest, "version": deck.version, "warnings": warnings},
            reason="; ".join(f"warning: {each}" for each in warnings),
        )
        decks.append(_manifest(attempt, collected))
    attempt.progress("collect", len(spec.sources), len(spec.sources), unit="decks")
    return {"decks": decks}


JOBS: Final[dict[str, Callable[[Attempt], dict[str, Any]]]] = {"DECK_COLLECTION": collect}
"""The jobs of this service, by type."""


def _manifest(attempt: Attempt, collected: Collected) -> dict[str, Any]:
    deck = collected.deck
    assert collected.path is not None  # just kept
    return {
        "deck_id": deck.digest,
        "name": deck.name,
        "version": deck.version,
        "simulator": deck.simulator,
        **attempt.artifacts.describe(collected.path),
        "parameters": deck.space.names,
        "responses": deck.response_names,
    }
