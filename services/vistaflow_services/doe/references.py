"""Finds what a DOE job refers to: its deck, and the design that it is to run.

A reference is one string: a job's name in the same kit, or an id; for a deck also
its name. Designs are found by the manifest that each DOE job leaves beside its rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core.artifacts import ArtifactStore
from vistaflow_services.core.errors import ConflictError, NotFoundError
from vistaflow_services.core.job_ids import is_job_id
from vistaflow_services.core.jobs import JobError, JobResult
from vistaflow_services.decks.deck import Deck, read_archive
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.space import Space
from vistaflow_services.doe.domain import Region

MANIFEST: Final = "manifest.json"
"""The file in an attempt's prefix that holds the job's result, written last."""

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

    manifest: Mapping[str, Any]
    """What that job published."""

    rows: Path
    """Its `design.parquet`, of the content that was published."""

    region: Region
    """Where it lies."""


def find_deck(
    reference: str, inputs: Mapping[str, JobResult], artifacts: ArtifactStore
) -> FoundDeck:
    """The deck that `reference` names: a job of the kit, a deck id, or a deck's name.

    Raises:
        JobError: There is none, or the job collected several.
    """
    collected = [
        entry
        for each in inputs.values()
        if each.job_type == "DECK_COLLECTION"
        for entry in each.result.get("decks", ())
    ]
    if reference in inputs:
        decks = list(inputs[reference].result.get("decks", ()))
        if len(decks) != 1:
            names = ", ".join(str(each["name"]) for each in decks) or "none"
            raise JobError(
                f"the job `{reference}` collected {len(decks)} decks ({names}); one is needed",
                reason="AMBIGUOUS_DECK",
                hint="name the deck by its id or its name",
            )
        return _collected(decks[0], artifacts)
    for entry in collected:
        if reference in (entry["deck_id"], entry["name"]):
            return _collected(entry, artifacts)
    try:
        found = DeckLibrary(artifacts.root / DECKS).find(reference)
    except NotFoundError as error:
        raise JobError(
            error.message, reason="NO_DECK", hint="collect the deck, or list decks with ListDecks"
        ) from None
    return FoundDeck(deck=found.deck, uri=artifacts.uri(found.path) if found.path else "")


def find_design(
    reference: str, inputs: Mapping[str, JobResult], artifacts: ArtifactStore
) -> FoundDesign:
    """The design that `reference` names: a job of the kit, or a design id.

    Raises:
        JobError: There is none.
    """
    by_id = {each.job_id: each for each in inputs.values()}
    source = inputs.get(reference) or by_id.get(reference)
    if source is not None:
        if "design" not in source.result:
            raise JobError(
                f"the job `{reference}` is {source.job_type}: it made no design",
                reason="NO_DESIGN",
                hint="name a DOE job",
            )
        return opened(source.result, artifacts)
    manifest = stored_manifest(reference, artifacts)
    if manifest is None:
        raise JobError(
            f"no design {reference[:100]}: it is neither a job this one depends on nor a "
            "finished design",
            reason="NO_DESIGN",
            hint="give a job's name in the kit, or the id of a finished DOE job",
        )
    return opened(manifest, artifacts)


def stored_manifest(design_id: str, artifacts: ArtifactStore) -> dict[str, Any] | None:
    """The manifest that the newest complete attempt of a DOE job left, if one did."""
    if not is_job_id(design_id):
        return None
    written = (artifacts.root / "jobs" / design_id).glob(f"*/{MANIFEST}")
    newest = max(written, key=lambda path: int(path.parent.name), default=None)
    if newest is None:
        return None
    manifest: dict[str, Any] = json.loads(newest.read_bytes())
    return manifest


def opened(manifest: Mapping[str, Any], artifacts: ArtifactStore) -> FoundDesign:
    """The design that a manifest describes.

    Raises:
        NotFoundError: Its rows are gone.
        InvalidError: Its rows are not those that were published.
    """
    design = manifest["design"]
    return FoundDesign(
        manifest=manifest,
        rows=artifacts.verified(design["uri"], design["sha256"]),
        region=region_of(manifest),
    )


def region_of(manifest: Mapping[str, Any]) -> Region:
    """Where the design of a manifest lies."""
    return Region(space=Space.from_dict(manifest["space"]), fixed=manifest.get("fixed", {}))


def deck_of(manifest: Mapping[str, Any], artifacts: ArtifactStore) -> Deck:
    """The deck that the design of a manifest is for.

    Raises:
        NotFoundError: Its archive is gone.
        ConflictError: Its archive holds another deck.
    """
    deck = read_archive(artifacts.existing(manifest["deck_uri"]).read_bytes())
    if deck.digest != manifest["deck_id"]:
        raise ConflictError("the deck's archive is not the one that the design was made for")
    return deck


def _collected(entry: Mapping[str, Any], artifacts: ArtifactStore) -> FoundDeck:
    path = artifacts.verified(entry["uri"], entry["sha256"])
    return FoundDeck(deck=read_archive(path.read_bytes()), uri=str(entry["uri"]))
