"""The gRPC service of the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import FieldViolation, UnavailableError, Violations
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.pipeline import extension, successor
from vistaflow_services.pipeline.domain import KitPlan
from vistaflow_services.pipeline.estimate import Estimates
from vistaflow_services.pipeline.flows.checks import Checks
from vistaflow_services.pipeline.flows.creation import creation_of, new_jobs
from vistaflow_services.pipeline.flows.reading import FlowRead, FlowReading, flow_document
from vistaflow_services.pipeline.notify import notify_mistakes
from vistaflow_services.pipeline.points import csv_rows, read_points
from vistaflow_services.pipeline.reading import Read, Reading, Source
from vistaflow_services.pipeline.reuse import Reuse
from vistaflow_services.pipeline.schedules.calls import ScheduleCalls
from vistaflow_services.pipeline.translate import jobs_of, spec_record

MISTAKES_BYTES = 96 * 1024
"""Mistakes, or warnings, that one answer holds beside the spec that was asked with."""

Simulators = Callable[[], Awaitable[list[doe_pb2.SimulatorInfo]]]
"""Asks the DOE service for its simulators."""


class PipelineServicer(ScheduleCalls):
    """Translates between the proto and the domain; decides nothing itself."""

    def __init__(
        self,
        registry: RegistryClient,
        reading: Reading,
        simulators: Simulators,
        estimates: Estimates,
        reuse: Reuse,
    ) -> None:
        super().__init__(registry, self._scheduled)
        self._estimates = estimates
        self._reading = reading
        self._simulators = simulators
        self._reuse = reuse
        self._flows = FlowReading(reading, Checks(registry), registry, self._missing)

    async def ValidateKit(
        self, request: pb.ValidateKitRequest, context: Context
    ) -> pb.ValidateKitResponse:
        """Finds every mistake of a kit. See the proto for the contract."""
        source = Source.of(request)
        if document := flow_document(source):
            return _flow_answer(await self._flows.read(document, source))
        read = await self._reading.read(source)
        response = pb.ValidateKitResponse(
            mistakes=mistake_messages(read.mistakes),
            warnings=mistake_messages(read.warnings),
            max_simulation_count=read.simulation_count,
            reused=read.known.origins,
        )
        if read.plan and (missing := await self._missing(read.plan.deck.simulator)):
            located = source.located([FieldViolation(field="deck", description=missing)])
            response.mistakes.extend(mistake_messages(located))
        mistakes = await notify_mistakes(self._registry, read.spec.project, read.spec.notify)
        response.mistakes.extend(mistake_messages(source.located(mistakes)))
        if not response.mistakes and read.plan:
            response.spec.CopyFrom(read.spec)
            response.estimate.CopyFrom(await self._estimate(read, read.plan))
        return response

    async def _estimate(self, read: Read, plan: KitPlan) -> pb.RunEstimate:
        seed, runs = read.spec.design.seed, read.simulation_count
        # Making the design and reading what is stored of it take processor time.
        return await asyncio.to_thread(self._estimates.message, plan, runs, seed)

    async def RunKit(self, request: pb.RunKitRequest, context: Context) -> pb.RunKitResponse:
        """Validates a kit and starts it. See the proto for the contract."""
        source = Source.of(request)
        if document := flow_document(source):
            flow_read = await self._flows.read(document, source)
            flow_read.check()
            creation = creation_of(
                flow_read.flow, flow_read.root, request_id=request.request_id, actor=request.actor
            )
            created = await self._registry.create_kit(creation)
            return pb.RunKitResponse(
                kit=created.kit, revision=created.revision, replayed=created.replayed
            )
        read = await self._reading.read(source)
        spec, plan = read.spec, read.checked()
        violations = Violations()
        for mistake in source.located(
            await notify_mistakes(self._registry, spec.project, spec.notify)
        ):
            violations.add(mistake.field, mistake.description)
        violations.check()
        if missing := await self._missing(plan.deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
        created = await self._create(read, request.request_id, request.actor)
        return pb.RunKitResponse(
            kit=created.kit, revision=created.revision, replayed=created.replayed
        )

    async def RetryKit(self, request: pb.RetryKitRequest, context: Context) -> pb.RetryKitResponse:
        """Continues a kit with another deck. See the proto for the contract."""
        kit = await self._registry.get_kit(request.kit_id)
        restarts = successor.has_no_deck(kit)
        spec = successor.spec_in(kit, request.deck, restarts=restarts)
        read = await self._reading.read(Source(spec=spec))
        plan = read.checked()
        deck = plan.deck
        if missing := await self._missing(deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
        if restarts:
            created = await self._create(read, request.request_id, request.actor)
            return pb.RetryKitResponse(
                kit=created.kit,
                retried_count=len(created.kit.jobs),
                revision=created.revision,
                replayed=created.replayed,
                deck_id=deck.digest,
            )
        changed = await self._registry.retry_kit(
            registry_pb2.RetryKitRequest(
                request_id=request.request_id,
                kit_id=request.kit_id,
                reason=request.reason or f"goes on in the deck {deck.name} {deck.digest[:12]}",
                actor=request.actor,
                replacements=[successor.replacement(deck)],
            )
        )
        return pb.RetryKitResponse(
            kit=changed.kit,
            retried_count=changed.retried_count,
            revision=changed.revision,
            replayed=changed.replayed,
            deck_id=deck.digest,
        )

    async def ExtendKit(
        self, request: pb.ExtendKitRequest, context: Context
    ) -> pb.ExtendKitResponse:
        """Extends a kit by a new one. See the proto for the contract."""
        kit = await self._registry.get_kit(request.kit_id)
        read = await self._reading.read(Source(spec=extension.spec_of(kit, request)))
        plan = read.checked()
        if missing := await self._missing(plan.deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
        if request.validate_only:
            estimate = await self._estimate(read, plan)
            return pb.ExtendKitResponse(reused=read.known.origins, estimate=estimate)
        created = await self._create(read, request.request_id, request.actor)
        return pb.ExtendKitResponse(
            kit=created.kit,
            revision=created.revision,
            replayed=created.replayed,
            reused=read.known.origins,
        )

    async def ImportPoints(
        self, request: pb.ImportPointsRequest, context: Context
    ) -> pb.ImportPointsResponse:
        """Imports a table as points of a deck. See the proto for the contract."""
        file_name = request.file_name or "points.csv"
        deck = await asyncio.to_thread(extension.deck_of_points, request, self._reading.library)
        rows = await asyncio.to_thread(csv_rows, request.csv, file_name)
        points = await asyncio.to_thread(read_points, rows, deck, "")
        violations = Violations()
        for row, column, problem in points.mistakes:
            # The first line is the header.
            violations.add(f"{file_name}:{row + 1} {column}".rstrip(), problem)
        violations.check()
        job = await self._reuse.import_points(request, file_name)
        return pb.ImportPointsResponse(job=job, point_count=points.count)

    async def _create(
        self, read: Read, request_id: str, actor: str
    ) -> registry_pb2.CreateKitResponse:
        """A new kit of a spec that has been read."""
        return await self._registry.create_kit(_creation(read, request_id, actor))

    async def _scheduled(
        self, request: pb.RunKitRequest, violations: Violations
    ) -> registry_pb2.CreateKitRequest | None:
        """What makes the kit of a request at each fire; mistakes are added."""
        source = Source.of(request)
        if document := flow_document(source):
            flow_read = await self._flows.read(document, source)
            for mistake in flow_read.mistakes:
                violations.add(mistake.field, mistake.description)
            return None if violations else creation_of(flow_read.flow, flow_read.root)
        read = await self._reading.read(source)
        wrong = await notify_mistakes(self._registry, read.spec.project, read.spec.notify)
        for mistake in [*read.mistakes, *source.located(wrong)]:
            violations.add(mistake.field, mistake.description)
        if violations or read.plan is None:
            return None
        if missing := await self._missing(read.plan.deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
        return _creation(read)

    async def _missing(self, simulator: str) -> str:
        """Why a simulator cannot be used, and how to get it; nothing if it can."""
        for info in await self._simulators():
            if info.name == simulator:
                return (
                    "" if info.available else f"the simulator {simulator} is missing: {info.hint}"
                )
        return f"the DOE service knows no simulator {simulator}"


def _creation(read: Read, request_id: str = "", actor: str = "") -> registry_pb2.CreateKitRequest:
    """What makes a kit of a spec that has been read without mistakes."""
    spec, plan = read.spec, read.plan
    assert plan is not None
    return registry_pb2.CreateKitRequest(
        request_id=request_id,
        name=spec.name,
        project=spec.project,
        labels=spec.labels,
        jobs=jobs_of(spec, plan, read.known.spec),
        spec=spec_record(spec, plan.deck),
        numbers_checked=True,
        actor=actor,
    )


def _flow_answer(read: FlowRead) -> pb.ValidateKitResponse:
    """What is answered about a data kit."""
    response = pb.ValidateKitResponse(
        mistakes=mistake_messages(read.mistakes),
        warnings=mistake_messages(read.warnings),
        max_simulation_count=read.simulation_count,
    )
    if not read.mistakes:
        for job in new_jobs(read.flow):
            job.ClearField("spec")
            response.jobs.append(job)
    return response


def mistake_messages(mistakes: Sequence[FieldViolation]) -> list[pb.Mistake]:
    """Mistakes as messages, the first if they are very many."""
    messages = fitting(mistakes, lambda mistake: pb.Mistake(**vars(mistake)), MISTAKES_BYTES)
    if len(messages) < len(mistakes):
        more = f"and {len(mistakes) - len(messages):,} more mistakes; correct these first"
        messages.append(pb.Mistake(description=more))
    return messages
