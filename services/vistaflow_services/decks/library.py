"""The decks that were collected, by content, and those shipped, by name.

One folder of zip files named by the decks' ids: collecting the same deck twice keeps one, and a
file once there never changes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core import files
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.results import Manifest
from vistaflow_services.decks.deck import Deck, read_archive, shipped_deck, shipped_decks

DECK_ID: Final = re.compile(r"[0-9a-f]{64}")
"""What a deck's id looks like."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A deck of the library."""

    deck: Deck
    shipped: bool
    created_at: datetime | None
    """When it was first collected; never, for a shipped deck that nobody collected."""
    path: Path | None
    """Its zip file; none for a shipped deck that nobody collected."""


@dataclass(frozen=True, kw_only=True)
class CollectedDeck(Manifest):
    """A deck as the result of the job that collected it lists it."""

    deck_id: str
    name: str
    version: str = ""
    simulator: str = ""
    uri: str = ""
    """Its zip file."""
    sha256: str = ""
    bytes: int = 0
    parameters: Sequence[str] = ()
    responses: Sequence[str] = ()


def collected_decks(result: Mapping[str, Any]) -> list[CollectedDeck]:
    """The decks that the result of a job lists; none if it collected none."""
    return [CollectedDeck.read(entry) for entry in result.get("decks", ())]


class DeckLibrary:
    """Decks below one folder, which all stage services share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, deck: Deck) -> Collected:
        """Keeps a deck; the same deck again changes nothing."""
        path = self._folder / f"{deck.digest}.zip"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            created = datetime.now(UTC)
            record = {"name": deck.name, "version": deck.version, "created_at": created.isoformat()}
            # The zip comes last: a deck is there when its zip is.
            files.write(path.with_suffix(".json"), json.dumps(record).encode())
            files.write(path, deck.to_archive())
        return self._collected(path)

    def find(self, reference: str) -> Collected:
        """A deck by its id or its name.

        A name means the newest collected deck of that name, else the shipped one.

        Raises:
            NotFoundError: If there is none; the nearest name is suggested.
        """
        if DECK_ID.fullmatch(reference):
            path = self._folder / f"{reference}.zip"
            if path.exists():
                return self._collected(path)
            for shipped in _shipped():
                if shipped.digest == reference:
                    return Collected(deck=shipped, shipped=True, created_at=None, path=None)
            raise NotFoundError(f"no deck has the id {reference}; list them with ListDecks")
        everything = self.list()
        for entry in everything:
            if entry.deck.name == reference:
                return entry
        names = sorted({entry.deck.name for entry in everything})
        near = difflib.get_close_matches(reference, names, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names[:20])}"
        raise NotFoundError(f"no deck is called `{reference[:100]}`; {hint}")

    def list(self) -> list[Collected]:
        """Every deck, by name, the newest first; shipped ones that nobody collected come last."""
        collected = [self._collected(path) for path in self._folder.glob("*.zip")]
        digests = {entry.deck.digest for entry in collected}
        collected.sort(key=lambda entry: entry.created_at or datetime.min, reverse=True)
        collected += [
            Collected(deck=deck, shipped=True, created_at=None, path=None)
            for deck in _shipped()
            if deck.digest not in digests
        ]
        return sorted(collected, key=lambda entry: entry.deck.name)

    def _collected(self, path: Path) -> Collected:
        record = json.loads(path.with_suffix(".json").read_bytes())
        deck = _opened(path)
        return Collected(
            deck=deck,
            shipped=deck.digest in {shipped.digest for shipped in _shipped()},
            created_at=datetime.fromisoformat(record["created_at"]),
            path=path,
        )


@lru_cache(maxsize=256)
def _opened(path: Path) -> Deck:
    """A kept deck; its file is named by its content, so it can be remembered."""
    return read_archive(path.read_bytes())


@lru_cache(maxsize=1)
def _shipped() -> tuple[Deck, ...]:
    return tuple(shipped_deck(name) for name in shipped_decks())
