"""The data kit of a request, with every mistake of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, Violations
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.files.document import Document
from vistaflow_services.pipeline.flows.checks import Checks
from vistaflow_services.pipeline.flows.flow import Flow, FlowJob
from vistaflow_services.pipeline.flows.reader import FlowReader, is_flow
from vistaflow_services.pipeline.kitfile import Reader
from vistaflow_services.pipeline.notify import notify_mistakes
from vistaflow_services.pipeline.reading import Reading, Source
from vistaflow_services.pipeline.translate import DESIGN, OPTIMIZE

_STAGES: Final = {DESIGN: "DOE", OPTIMIZE: "OPTIMIZE"}

Missing = Callable[[str], Awaitable[str]]
"""Why a simulator cannot be used; nothing if it can."""


@dataclass(frozen=True, kw_only=True)
class FlowRead:
    """What is in a request's data kit."""

    flow: Flow
    root: Mapping[str, Any]
    mistakes: tuple[FieldViolation, ...]
    warnings: tuple[FieldViolation, ...] = ()
    simulation_count: int = 0

    def check(self) -> None:
        """Raises `InvalidError` with every mistake, if there is any."""
        violations = Violations()
        for mistake in self.mistakes:
            violations.add(mistake.field, mistake.description)
        violations.check()


def flow_document(source: Source) -> Document | None:
    """The kit file of a request if it is a data kit; None for any other, also for broken YAML."""
    if source.spec is not None:
        return None
    try:
        document = source.document()
    except InvalidError:
        return None
    return document if is_flow(document.root) else None


class FlowReading:
    """Reads data kits.

    Args:
        reading: Reads the designs in them.
        checks: Knows what the services know.
        registry: Knows the webhooks.
        missing: Knows the simulators.
    """

    def __init__(
        self, reading: Reading, checks: Checks, registry: RegistryClient, missing: Missing
    ) -> None:
        self._reading = reading
        self._checks = checks
        self._registry = registry
        self._missing = missing

    async def read(self, document: Document, source: Source) -> FlowRead:
        """What is in a kit file; one mistake does not hide another.

        Raises:
            UnavailableError: A service that checks its jobs does not answer.
        """
        reader = FlowReader(document, source.kit_yaml, source.files)
        await asyncio.to_thread(reader.read)
        warnings, count = Violations(), 0
        for job in reader.flow.jobs.values():
            if job.word == "design":
                count += await self._design(reader, job, warnings)
        _check_stages(reader)
        flow = reader.flow
        for mistake in await notify_mistakes(self._registry, flow.project, flow.notify):
            reader.wrong(mistake.field, mistake.description)
        for job, mistakes in await self._checks.mistakes(reader.flow):
            reader.located(job, mistakes)
        return FlowRead(
            flow=reader.flow,
            root=document.root,
            mistakes=tuple(reader.violations),
            warnings=tuple(warnings),
            simulation_count=count,
        )

    async def _design(self, reader: FlowReader, job: FlowJob, warnings: Violations) -> int:
        """Reads a design; returns how many simulator runs it makes at most."""
        document = reader.documents[job.file]
        options = job.options
        if not isinstance(options, Mapping):
            return 0
        for key in sorted(job.kind.hidden & set(options)):
            reader.wrong(f"{job.path}.{key}".lstrip("."), "is the kit's; leave it out", job.file)
        spec, fields = pb.KitSpec(), Reader(document, b"")
        known = {key: value for key, value in options.items() if key not in job.kind.hidden}
        fields.message(known, spec, job.path)
        for violation in fields.violations:
            reader.violations.add(violation.field, violation.description)
        spec.name, spec.project = job.name, reader.flow.project
        read = await self._reading.read(Source(spec=spec))
        reader.located(job, read.mistakes)
        for warning in read.warnings:
            warnings.add(document.field(f"{job.path}.{warning.field}"), warning.description)
        if read.plan is None or read.mistakes or fields.violations:
            return 0
        if missing := await self._missing(read.plan.deck.simulator):
            reader.wrong(f"{job.path}.deck".lstrip("."), missing, job.file)
        job.spec, job.plan, job.reuse = read.spec, read.plan, read.known.spec
        return read.simulation_count


def _check_stages(reader: FlowReader) -> None:
    """Whether the designs run the stages whose values others use."""
    jobs = reader.flow.jobs
    for job in jobs.values():
        for reference in job.references:
            other, stage = jobs.get(reference.job), reference.published.stage
            plan = other.plan if other else None
            if plan is not None and stage and not plan.reaches(_STAGES[stage]):
                reader.wrong(
                    job.path,
                    f"`${{{reference.job}.{reference.value}}}`: the design stops before that stage",
                    job.file,
                )
