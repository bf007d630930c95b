"""The gRPC service of the pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import FieldViolation, UnavailableError
from vistaflow_services.core.interceptor import Context
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.pipeline import successor
from vistaflow_services.pipeline.reading import Reading, Source
from vistaflow_services.pipeline.translate import jobs_of, spec_record

MISTAKES_BYTES = 96 * 1024
"""Mistakes, or warnings, that one answer holds beside the spec that was asked with."""

Simulators = Callable[[], Awaitable[list[doe_pb2.SimulatorInfo]]]
"""Asks the DOE service for its simulators."""


class PipelineServicer(rpc.PipelineServiceServicer):
    """Translates between the proto and the domain; decides nothing itself."""

    def __init__(self, registry: RegistryClient, reading: Reading, simulators: Simulators) -> None:
        self._registry = registry
        self._reading = reading
        self._simulators = simulators

    async def ValidateKit(
        self, request: pb.ValidateKitRequest, context: Context
    ) -> pb.ValidateKitResponse:
        """Finds every mistake of a kit. See the proto for the contract."""
        source = Source.of(request)
        read = await self._reading.read(source)
        response = pb.ValidateKitResponse(
            mistakes=mistake_messages(read.mistakes),
            warnings=mistake_messages(read.warnings),
            max_simulation_count=read.simulation_count,
        )
        if read.plan and (missing := await self._missing(read.plan.deck.simulator)):
            located = source.located([FieldViolation(field="deck", description=missing)])
            response.mistakes.extend(mistake_messages(located))
        if not response.mistakes:
            response.spec.CopyFrom(read.spec)
        return response

    async def RunKit(self, request: pb.RunKitRequest, context: Context) -> pb.RunKitResponse:
        """Validates a kit and starts it. See the proto for the contract."""
        read = await self._reading.read(Source.of(request))
        spec, plan = read.spec, read.checked()
        if missing := await self._missing(plan.deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
        created = await self._registry.create_kit(
            registry_pb2.CreateKitRequest(
                request_id=request.request_id,
                name=spec.name,
                project=spec.project,
                labels=spec.labels,
                jobs=jobs_of(spec, plan),
                spec=spec_record(spec, plan.deck),
                numbers_checked=True,
                actor=request.actor,
            )
        )
        return pb.RunKitResponse(
            kit=created.kit, revision=created.revision, replayed=created.replayed
        )

    async def RetryKit(self, request: pb.RetryKitRequest, context: Context) -> pb.RetryKitResponse:
        """Continues a kit with another deck. See the proto for the contract."""
        kit = await self._registry.get_kit(request.kit_id)
        read = await self._reading.read(Source(spec=successor.spec_in(kit, request.deck)))
        deck = read.checked().deck
        if missing := await self._missing(deck.simulator):
            raise UnavailableError(missing, reason="SIMULATOR_MISSING")
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

    async def _missing(self, simulator: str) -> str:
        """Why a simulator cannot be used, and how to get it; nothing if it can."""
        for each in await self._simulators():
            if each.name == simulator:
                return (
                    "" if each.available else f"the simulator {simulator} is missing: {each.hint}"
                )
        return f"the DOE service knows no simulator {simulator}"


def mistake_messages(mistakes: Sequence[FieldViolation]) -> list[pb.Mistake]:
    """Mistakes as messages, the first if they are very many."""
    told = fitting(mistakes, lambda each: pb.Mistake(**vars(each)), MISTAKES_BYTES)
    if len(told) < len(mistakes):
        more = f"and {len(mistakes) - len(told):,} more mistakes; correct these first"
        told.append(pb.Mistake(description=more))
    return told
