"""A request's kit as a full spec and a plan: the file parsed, the deck read, defaults filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, NotFoundError, Violations
from vistaflow_services.core.names import text_problems
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.files.document import Document
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.pipeline.domain import KitPlan, examine
from vistaflow_services.pipeline.kitfile import FILE, document_of, read_kit
from vistaflow_services.pipeline.reuse import Known, Reuse
from vistaflow_services.pipeline.translate import plan_of, with_defaults
from vistaflow_services.simulators.run import check_deck

MAX_YAML_BYTES = 256 * 1024
"""Largest kit file."""

MAX_FILES = 20
"""Most other files that a data kit names."""

MAX_SETTINGS = 100
"""Most values that a request replaces, and most labels that it adds."""

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
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Texts of other files that a data kit names."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Values that replace those of the file, by path."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels beside those of the file."""

    @staticmethod
    def of(request: pb.ValidateKitRequest | pb.RunKitRequest) -> Source:
        """The kit that a request carries.

        Raises:
            InvalidError: If it carries none.
        """
        kind = request.WhichOneof("source")
        if kind is None:
            violations = Violations()
            violations.add(
                "spec", "give the kit as `spec`, or the text of a kit.yaml as `kit_yaml`"
            )
            violations.check()
        if kind == "kit_yaml" and len(request.kit_yaml) > MAX_YAML_BYTES:
            raise InvalidError(f"kit_yaml has more than {MAX_YAML_BYTES} characters")
        if len(request.kit_file) > MAX_FILE_CHARACTERS or not request.kit_file.isprintable():
            violations = Violations()
            violations.add(
                "kit_file", f"give at most {MAX_FILE_CHARACTERS} characters that can be printed"
            )
            violations.check()
        size = sum(len(text) for text in request.files.values())
        if len(request.files) > MAX_FILES or size > MAX_YAML_BYTES:
            raise InvalidError(f"files: at most {MAX_FILES}, {MAX_YAML_BYTES} characters together")
        if request.files:
            violations = Violations()
            if kind == "spec":
                violations.add("files", "are those that `kit_yaml` names; leave them out")
            for name in request.files:
                for problem in text_problems(name, MAX_FILE_CHARACTERS):
                    violations.add("files", f"a name {problem}")
            violations.check()
        if len(request.settings) > MAX_SETTINGS or len(request.labels) > MAX_SETTINGS:
            raise InvalidError(f"settings and labels: at most {MAX_SETTINGS} each")
        if kind == "spec" and request.settings:
            violations = Violations()
            violations.add("settings", "change `spec` itself; they are for `kit_yaml`")
            violations.check()
        if kind == "spec":
            request.spec.labels.update(request.labels)
        return Source(
            spec=request.spec if kind == "spec" else None,
            kit_yaml=request.kit_yaml,
            kit_file=request.kit_file or FILE,
            deck_archive=request.deck_archive,
            files=dict(request.files),
            settings=dict(request.settings),
            labels=dict(request.labels),
        )

    def document(self) -> Document:
        """The kit file with its values replaced.

        Raises:
            InvalidError: If it is no YAML.
        """
        return document_of(self.kit_yaml, self.kit_file, self.settings, self.labels)

    def located(self, violations: Iterable[FieldViolation]) -> list[FieldViolation]:
        """The violations with the line of the kit file, where there is one."""
        unplaced = list(violations)
        if self.spec is not None or not unplaced:  # of a file that is not YAML there are none
            return unplaced
        document = self.document()
        return [
            FieldViolation(field=document.field(violation.field), description=violation.description)
            for violation in unplaced
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
    known: Known = field(default_factory=Known)
    """The known points that it takes."""
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
        violations = Violations()
        for mistake in self.mistakes:
            violations.add(mistake.field, mistake.description)
        violations.check()
        assert self.plan is not None  # or there would be a mistake
        return self.plan


class Reading:
    """Reads kits, with the decks of this machine at hand."""

    def __init__(self, library: DeckLibrary, roots: Sequence[Path], reuse: Reuse) -> None:
        self.library = library
        self._roots = roots
        self._reuse = reuse

    async def read(self, source: Source) -> Read:
        """What is in a request's kit; one mistake does not hide another."""
        # Parsing YAML and sampling a space take milliseconds of processor time each.
        read = await asyncio.to_thread(self._parsed, source)
        if read.plan is None:
            return read
        known = Known()
        if read.spec.HasField("reuse"):
            known = await self._reuse.known(read.spec, read.plan.deck)
        return await asyncio.to_thread(_examined, read, source, known)

    def _parsed(self, source: Source) -> Read:
        mistakes: list[FieldViolation] = []
        try:
            spec, unreadable = _spec(source)
            mistakes += unreadable
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
        if spec.extends < 0:
            negative = FieldViolation(field="extends", description="is negative; leave it out")
            mistakes += source.located([negative])
        full = with_defaults(spec, deck)
        return Read(spec=full, plan=plan_of(full, deck), mistakes=tuple(mistakes))

    def _deck(self, deck_source: ingestion_pb2.DeckSource, source: Source) -> Deck:
        try:
            deck = deck_of(
                name=deck_source.name,
                path=deck_source.path,
                archive=deck_source.archive,
                library=self.library,
                roots=self._roots,
            )
            check_deck(deck)
        except NotFoundError as error:
            violation = FieldViolation(field="deck", description=error.message)
            raise NotFoundError(error.message, violations=source.located([violation])) from None
        except InvalidError as error:
            violations = list(error.violations) or [
                FieldViolation(field="", description=error.message)
            ]
            if violations[0].field not in ("", "path"):
                raise  # mistakes in the deck's own files
            violation = FieldViolation(
                field=".".join(part for part in ("deck", violations[0].field) if part),
                description=violations[0].description,
            )
            raise InvalidError(error.message, violations=source.located([violation])) from None
        if deck_source.path:
            # Pinned: what was validated is what will run.
            deck_source.archive = deck.to_archive()
        return deck


def _examined(read: Read, source: Source, known: Known) -> Read:
    """What could be read, with every mistake of it."""
    assert read.plan is not None
    plan = replace(read.plan, known_count=known.count)
    findings = examine(plan)
    # What could not be read is reported already: that it is missing is no mistake of its own.
    mistakes = [*read.mistakes, *source.located(known.mistakes)]
    paths = [_path(mistake) for mistake in mistakes]
    mistakes += [
        mistake
        for mistake in source.located(findings.mistakes)
        if not any(_path(mistake).startswith(path) for path in paths)
    ]
    return replace(
        read,
        plan=plan,
        mistakes=tuple(mistakes),
        warnings=tuple(source.located(findings.warnings)),
        simulation_count=findings.simulation_count,
        known=known,
    )


def _spec(source: Source) -> tuple[pb.KitSpec, list[FieldViolation]]:
    """The spec as far as it can be read, and what cannot."""
    if source.spec is None:
        return read_kit(
            source.kit_yaml, source.deck_archive, source.kit_file, document=source.document()
        )
    # Protos let numbers through that no enum value has.
    spec, violations = pb.KitSpec(), Violations()
    spec.CopyFrom(source.spec)
    if spec.design.generator not in doe_pb2.Generator.values():
        violations.add("design.generator", f"{spec.design.generator} is no generator")
        spec.design.ClearField("generator")
    if spec.stop_after not in common_pb2.JobType.values():
        violations.add("stop_after", f"{spec.stop_after} is no stage of a kit")
        spec.ClearField("stop_after")
    if spec.ml.outliers not in ml_pb2.OutlierPolicy.values():
        violations.add("ml.outliers", f"{spec.ml.outliers} is no outlier policy; give flag or drop")
        spec.ml.ClearField("outliers")
    families = ml_pb2.Family.values()
    for index, family in enumerate(spec.ml.families[: len(families)]):
        if not family or family not in families:
            violations.add(f"ml.families[{index}]", f"{family} is no family of models")
    if len(spec.ml.families) > len(families):
        violations.add("ml.families", f"{len(spec.ml.families):,} are named; name each family once")
    return spec, list(violations)


def _path(violation: FieldViolation) -> str:
    """The field without the file and line before it."""
    return violation.field.rpartition(" ")[2]
