"""A request's kit as a full spec and a plan: the file parsed, the deck read, defaults filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, NotFoundError, Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.document import Document, read_document
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.pipeline.domain import Findings, KitPlan
from vistaflow_services.pipeline.kitfile import FILE, read_kit
from vistaflow_services.pipeline.translate import plan_of, with_defaults
from vistaflow_services.simulators.run import check_deck

MAX_YAML_BYTES = 256 * 1024
"""Largest kit file."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The kit of a request, as it came."""

    spec: pb.KitSpec | None = None
    kit_yaml: str = ""
    deck_archive: bytes = field(default=b"", repr=False)

    @staticmethod
    def of(request: pb.ValidateKitRequest | pb.RunKitRequest) -> Source:
        """The kit that a request carries.

        Raises:
            InvalidError: If it carries none.
        """
        kind = request.WhichOneof("source")
        if kind is None:
            found = Violations()
            found.add("spec", "give the kit as `spec`, or the text of a kit.yaml as `kit_yaml`")
            found.check()
        if kind == "kit_yaml" and len(request.kit_yaml) > MAX_YAML_BYTES:
            raise InvalidError(f"kit_yaml has more than {MAX_YAML_BYTES} characters")
        return Source(
            spec=request.spec if kind == "spec" else None,
            kit_yaml=request.kit_yaml,
            deck_archive=request.deck_archive,
        )

    def check(self, findings: Findings) -> None:
        """Raises `InvalidError` with every mistake found, if there is any."""
        found = Violations()
        for each in self.located(findings.mistakes):
            found.add(each.field, each.description)
        found.check()

    def located(self, violations: Iterable[FieldViolation]) -> list[FieldViolation]:
        """The violations with the line of the kit file, where there is one."""
        if self.spec is not None:
            return list(violations)
        document: Document = read_document(self.kit_yaml.encode(), FILE)
        return [
            FieldViolation(field=document.field(each.field), description=each.description)
            for each in violations
        ]


class Reading:
    """Reads kits, with the decks of this machine at hand."""

    def __init__(self, library: DeckLibrary, roots: Sequence[Path]) -> None:
        self._library = library
        self._roots = roots

    async def read(self, source: Source) -> tuple[pb.KitSpec, KitPlan]:
        """The full spec and the plan of a request's kit.

        Raises:
            InvalidError: If the file is malformed, or the deck is, with every mistake.
            NotFoundError: If there is no such deck.
        """
        # Parsing YAML and sampling a space take milliseconds of processor time each.
        return await asyncio.to_thread(self._read, source)

    def _read(self, source: Source) -> tuple[pb.KitSpec, KitPlan]:
        spec = source.spec or read_kit(source.kit_yaml, source.deck_archive)
        _check_enums(spec)
        deck = self._deck(spec.deck, source)
        full = with_defaults(spec, deck)
        return full, plan_of(full, deck)

    def _deck(self, wanted: ingestion_pb2.DeckSource, source: Source) -> Deck:
        try:
            deck = deck_of(
                name=wanted.name,
                path=wanted.path,
                archive=wanted.archive,
                library=self._library,
                roots=self._roots,
            )
            check_deck(deck)
        except NotFoundError as error:
            found = FieldViolation(field="deck", description=error.message)
            raise NotFoundError(error.message, violations=source.located([found])) from None
        except InvalidError as error:
            told = list(error.violations) or [FieldViolation(field="", description=error.message)]
            if told[0].field not in ("", "path"):
                raise  # mistakes in the deck's own files
            found = FieldViolation(
                field=".".join(each for each in ("deck", told[0].field) if each),
                description=told[0].description,
            )
            raise InvalidError(error.message, violations=source.located([found])) from None
        if wanted.path:
            # Pinned: what was validated is what will run.
            wanted.archive = deck.to_archive()
        return deck


def _check_enums(spec: pb.KitSpec) -> None:
    """Raises `InvalidError` for numbers that no enum value has: protos let them through."""
    found = Violations()
    if spec.design.generator not in doe_pb2.Generator.values():
        found.add("design.generator", f"{spec.design.generator} is no generator")
    if spec.stop_after not in common_pb2.JobType.values():
        found.add("stop_after", f"{spec.stop_after} is no stage of a kit")
    found.check()
