"""A request's kit as a full spec and a plan: the file parsed, the deck read, defaults filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, NotFoundError, Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.document import Document, read_document
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.pipeline.domain import KitPlan, examine
from vistaflow_services.pipeline.kitfile import FILE, read_kit
from vistaflow_services.pipeline.translate import plan_of, with_defaults
from vistaflow_services.simulators.run import check_deck

MAX_YAML_BYTES = 256 * 1024
"""Largest kit file."""

MAX_FILE_CHARACTERS = 200
"""Longest name of a kit file."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The kit of a request, as it came."""

    spec: pb.KitSpec | None = None
    kit_yaml: str = ""
    kit_file: str = FILE
    """How mistakes name the file."""
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
        if len(request.kit_file) > MAX_FILE_CHARACTERS or not request.kit_file.isprintable():
            found = Violations()
            found.add(
                "kit_file", f"give at most {MAX_FILE_CHARACTERS} characters that can be printed"
            )
            found.check()
        return Source(
            spec=request.spec if kind == "spec" else None,
            kit_yaml=request.kit_yaml,
            kit_file=request.kit_file or FILE,
            deck_archive=request.deck_archive,
        )

    def located(self, violations: Iterable[FieldViolation]) -> list[FieldViolation]:
        """The violations with the line of the kit file, where there is one."""
        if self.spec is not None:
            return list(violations)
        document: Document = read_document(self.kit_yaml.encode(), self.kit_file)
        return [
            FieldViolation(field=document.field(each.field), description=each.description)
            for each in violations
        ]


@dataclass(frozen=True, kw_only=True)
class Read:
    """What is in a request's kit, and every mistake of it."""

    spec: pb.KitSpec
    """With the defaults filled in, where the deck could be read."""
    plan: KitPlan | None = None
    """None if the deck could not be read."""
    mistakes: tuple[FieldViolation, ...] = ()
    warnings: tuple[FieldViolation, ...] = ()
    simulation_count: int = 0
    """Simulator runs the kit makes at most."""
    missing: NotFoundError | None = None
    """If there is no such deck."""

    def checked(self) -> KitPlan:
        """The plan of a kit without mistakes.

        Raises:
            NotFoundError: If all that is wrong is that there is no such deck.
            InvalidError: With every mistake.
        """
        if self.missing is not None and len(self.mistakes) == 1:
            raise self.missing
        found = Violations()
        for each in self.mistakes:
            found.add(each.field, each.description)
        found.check()
        assert self.plan is not None  # or there would be a mistake
        return self.plan


class Reading:
    """Reads kits, with the decks of this machine at hand."""

    def __init__(self, library: DeckLibrary, roots: Sequence[Path]) -> None:
        self._library = library
        self._roots = roots

    async def read(self, source: Source) -> Read:
        """What is in a request's kit; one mistake does not hide another."""
        # Parsing YAML and sampling a space take milliseconds of processor time each.
        return await asyncio.to_thread(self._read, source)

    def _read(self, source: Source) -> Read:
        mistakes: list[FieldViolation] = []
        try:
            spec, told = _spec(source)
            mistakes += told
            deck = self._deck(spec.deck, source) if spec.deck.WhichOneof("source") else None
        except NotFoundError as error:
            mistakes += error.violations
            return Read(spec=spec, mistakes=tuple(mistakes), missing=error)
        except InvalidError as error:
            mistakes += error.violations
            return Read(spec=pb.KitSpec(), mistakes=tuple(mistakes))
        if deck is None:
            if not mistakes:
                missing = FieldViolation(field="deck", description="say which deck")
                mistakes += source.located([missing])
            return Read(spec=spec, mistakes=tuple(mistakes))
        full = with_defaults(spec, deck)
        plan = plan_of(full, deck)
        findings = examine(plan)
        # What could not be read was told; that it is missing therefore need not be.
        known = [_path(each) for each in mistakes]
        mistakes += [
            each
            for each in source.located(findings.mistakes)
            if not any(_path(each).startswith(path) for path in known)
        ]
        return Read(
            spec=full,
            plan=plan,
            mistakes=tuple(mistakes),
            warnings=tuple(source.located(findings.warnings)),
            simulation_count=findings.simulation_count,
        )

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


def _spec(source: Source) -> tuple[pb.KitSpec, list[FieldViolation]]:
    """The spec as far as it can be read, and what cannot."""
    if source.spec is None:
        return read_kit(source.kit_yaml, source.deck_archive, source.kit_file)
    # Protos let numbers through that no enum value has.
    spec, found = pb.KitSpec(), Violations()
    spec.CopyFrom(source.spec)
    if spec.design.generator not in doe_pb2.Generator.values():
        found.add("design.generator", f"{spec.design.generator} is no generator")
        spec.design.ClearField("generator")
    if spec.stop_after not in common_pb2.JobType.values():
        found.add("stop_after", f"{spec.stop_after} is no stage of a kit")
        spec.ClearField("stop_after")
    if spec.ml.outliers not in ml_pb2.OutlierPolicy.values():
        found.add("ml.outliers", f"{spec.ml.outliers} is no outlier policy; give flag or drop")
        spec.ml.ClearField("outliers")
    known = ml_pb2.Family.values()
    for at, family in enumerate(spec.ml.families[: len(known)]):
        if not family or family not in known:
            found.add(f"ml.families[{at}]", f"{family} is no family of models")
    if len(spec.ml.families) > len(known):
        found.add("ml.families", f"{len(spec.ml.families):,} are named; name each family once")
    return spec, list(found)


def _path(violation: FieldViolation) -> str:
    """The field without the file and line before it."""
    return violation.field.rpartition(" ")[2]
