"""Finds what a DOE job refers to: its deck, and the design that it is to run.

A reference is one string: a job's name in the same kit, or an id; for a deck also
its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core.errors import ConflictError, NotFoundError
from vistaflow_services.core.results import JobResult, find_result, stored_result
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import JobError
from vistaflow_services.decks.deck import Deck, read_archive
from vistaflow_services.decks.library import CollectedDeck, DeckLibrary, collected_decks
from vistaflow_services.designs.manifest import DesignManifest

DECKS: Final = "decks"
"""The folder of the artifact store that holds every collected deck."""


@dataclass(frozen=True, kw_only=True)
class FoundDeck:
    """A deck and where its archive lies."""

    deck: Deck

    uri: str
    """Empty if it has no place in the artifact store yet."""


@dataclass(frozen=True, kw_only=True)
class FoundDesign:
    """A design that another job made."""

    result: Mapping[str, Any]
    """What that job published."""

    manifest: DesignManifest
    """The part of it that says what the design is."""

    rows: Path
    """Its `design.parquet`, of the content that was published."""


def find_deck(
    reference: str, inputs: Mapping[str, JobResult], artifacts: ArtifactStore
) -> FoundDeck:
    """The deck that `reference` names: a job of the kit, a deck id, or a deck's name.

    Raises:
        JobError: There is none, or the job collected several.
    """
    collected = [
        deck
        for result in inputs.values()
        if result.job_type == "DECK_COLLECTION"
        for deck in collected_decks(result.result)
    ]
    if reference in inputs:
        decks = collected_decks(inputs[reference].result)
        if len(decks) != 1:
            names = ", ".join(deck.name for deck in decks) or "none"
            raise JobError(
                f"the job `{reference}` collected {len(decks)} decks ({names}); one is needed",
                reason="AMBIGUOUS_DECK",
                hint="name the deck by its id or its name",
            )
        return _collected(decks[0], artifacts)
    for deck in collected:
        if reference in (deck.deck_id, deck.name):
            return _collected(deck, artifacts)
    try:
        entry = DeckLibrary(artifacts.root / DECKS).find(reference)
    except NotFoundError as error:
        raise JobError(
            error.message, reason="NO_DECK", hint="collect the deck, or list decks with ListDecks"
        ) from None
    return FoundDeck(deck=entry.deck, uri=artifacts.uri(entry.path) if entry.path else "")


def find_design(
    reference: str, inputs: Mapping[str, JobResult], artifacts: ArtifactStore
) -> FoundDesign:
    """The design that `reference` names: a job of the kit, or a design id.

    Raises:
        JobError: There is none.
    """
    source = find_result(reference, inputs)
    if source is not None:
        if "design" not in source.result:
            raise JobError(
                f"the job `{reference}` is {source.job_type}: it made no design",
                reason="NO_DESIGN",
                hint="name a DOE job",
            )
        return opened(source.result, artifacts)
    result = stored_result(reference, artifacts.root)
    if result is None:
        raise JobError(
            f"no design {reference[:100]}: it is neither a job this one depends on nor a "
            "finished design",
            reason="NO_DESIGN",
            hint="give a job's name in the kit, or the id of a finished DOE job",
        )
    return opened(result, artifacts)


def opened(result: Mapping[str, Any], artifacts: ArtifactStore) -> FoundDesign:
    """The design that a DOE job published.

    Raises:
        NotFoundError: Its rows are gone.
        InvalidError: Its rows are not those that were published.
    """
    manifest = DesignManifest.read(result)
    rows = artifacts.verified(manifest.design.uri, manifest.design.sha256)
    return FoundDesign(result=result, manifest=manifest, rows=rows)


def deck_of(manifest: DesignManifest, artifacts: ArtifactStore) -> Deck:
    """The deck that a design is for.

    Raises:
        LookupError: The design's job published none.
        NotFoundError: Its archive is gone.
        ConflictError: Its archive holds another deck.
    """
    if not manifest.deck_uri:
        raise LookupError("deck_uri")
    deck = read_archive(artifacts.existing(manifest.deck_uri).read_bytes())
    if deck.digest != manifest.deck_id:
        raise ConflictError("the deck's archive is not the one that the design was made for")
    return deck


def _collected(collected: CollectedDeck, artifacts: ArtifactStore) -> FoundDeck:
    path = artifacts.verified(collected.uri, collected.sha256)
    return FoundDeck(deck=read_archive(path.read_bytes()), uri=collected.uri)
