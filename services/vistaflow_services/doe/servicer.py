"""The gRPC service of the designs of experiments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow.api.doe.v1 import doe_pb2_grpc as rpc
from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations
from vistaflow_services.core.interceptor import Context
from vistaflow_services.core.job_ids import is_job_id
from vistaflow_services.core.jobs import JobResult
from vistaflow_services.core.results import readable
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.doe import messages, references, specs, table
from vistaflow_services.simulators.status import require_simulator, simulator_status

CHUNK_BYTES = 1 << 20
"""About how large a streamed message is."""

Chunk = TypeVar("Chunk")


class DoeServicer(rpc.DoeServiceServicer):
    """Translates between the protos, the domain and the registry; decides nothing itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._artifacts = stage.artifacts
        self._decks = DeckLibrary(stage.artifacts.root / references.DECKS)

    async def ListGenerators(
        self, request: pb.ListGeneratorsRequest, context: Context
    ) -> pb.ListGeneratorsResponse:
        """Lists the ways to make a design. See the proto for the contract."""
        return pb.ListGeneratorsResponse(generators=messages.generator_infos())

    async def GenerateDesign(
        self, request: pb.GenerateDesignRequest, context: Context
    ) -> pb.GenerateDesignResponse:
        """Starts making a design."""
        deck = await asyncio.to_thread(self._plan, request)
        spec = pb.DoeSpec(deck=deck.digest, design=request.design)
        job = await self._stage.submit(spec, "DOE", f"design-{deck.name}", request.request_id)
        return pb.GenerateDesignResponse(job=job)

    async def EvaluateDesign(
        self, request: pb.EvaluateDesignRequest, context: Context
    ) -> pb.EvaluateDesignResponse:
        """Starts running a design."""
        source = await self._result(request.design_id)
        with readable(request.design_id, "design_id"):
            deck = await asyncio.to_thread(references.deck_of, source.result, self._artifacts)
        await asyncio.to_thread(_check_evaluation, request.evaluation, deck)
        spec = pb.DoeSpec(design_id=request.design_id, evaluation=request.evaluation)
        spec.evaluation.SetInParent()
        job = await self._stage.submit(spec, "DOE", f"evaluate-{deck.name}", request.request_id)
        return pb.EvaluateDesignResponse(job=job)

    async def GetDesign(
        self, request: pb.GetDesignRequest, context: Context
    ) -> pb.GetDesignResponse:
        """Gets what a design is."""
        source = await self._result(request.design_id)
        with readable(request.design_id, "design_id"):
            design = messages.design_message(request.design_id, source.result)
        return pb.GetDesignResponse(design=design)

    async def ReadDesign(
        self, request: pb.ReadDesignRequest, context: Context
    ) -> AsyncIterator[pb.ReadDesignResponse]:
        """Streams the rows of a design, holding a part of them at a time."""
        _check_read(request)
        source = await self._result(request.design_id)
        with readable(request.design_id, "design_id"):
            uri, sha256 = source.result["design"]["uri"], source.result["design"]["sha256"]
            path = await asyncio.to_thread(self._artifacts.verified, uri, sha256)
            async for chunk in _in_threads(_chunks(request, path)):
                yield chunk

    async def ListSimulators(
        self, request: pb.ListSimulatorsRequest, context: Context
    ) -> pb.ListSimulatorsResponse:
        """Lists the simulators of this machine."""
        found = await asyncio.to_thread(simulator_status)
        return pb.ListSimulatorsResponse(
            simulators=[pb.SimulatorInfo(**vars(each)) for each in found]
        )

    def _plan(self, request: pb.GenerateDesignRequest) -> Deck:
        """The deck to design for, once all that can be wrong has been looked at."""
        found = Violations()
        if not request.deck:
            found.add("deck", "missing: give a deck id or a deck's name")
        if not request.HasField("design"):
            found.add("design", "missing: say which design to make")
        found.check()
        deck = self._decks.find(request.deck).deck
        try:
            specs.plan(request.design, deck)
        except InvalidError as error:
            found.extend("design", error)
        found.check()
        return deck

    async def _result(self, design_id: str) -> JobResult:
        """What the finished job of a design published."""
        if not is_job_id(design_id):
            raise NotFoundError(f"no design {design_id[:100]!r}: a design's id is its job's id")
        return await self._stage.registry.result(design_id, job_type="DOE", field="design_id")


def _check_evaluation(evaluation: pb.EvaluationSpec, deck: Deck) -> None:
    """Raises what would fail the job at once: a wrong policy, a simulator that is not there."""
    found = Violations()
    try:
        specs.policy_of(evaluation, deck)
    except InvalidError as error:
        found.extend("evaluation", error)
    found.check()
    require_simulator(deck.simulator)


def _check_read(request: pb.ReadDesignRequest) -> None:
    found = Violations()
    if request.format not in pb.RowFormat.values():
        found.add("format", f"{request.format} is no format: choose ROWS, CSV or PARQUET")
    for name in ("offset", "limit"):
        value = getattr(request, name)
        if value < 0:
            found.add(name, f"{value} is negative: give 0 or more")
        elif value and request.format == pb.ROW_FORMAT_PARQUET:
            found.add(name, "a Parquet file is read whole: leave it out, or read rows or CSV")
    found.check()


def _chunks(request: pb.ReadDesignRequest, path: Path) -> Iterator[pb.ReadDesignResponse]:
    span: dict[str, Any] = {"offset": request.offset, "limit": request.limit}
    if request.format == pb.ROW_FORMAT_PARQUET:
        parts = table.iterate_file(path, chunk_bytes=CHUNK_BYTES)
        return (pb.ReadDesignResponse(data=part) for part in parts)
    if request.format == pb.ROW_FORMAT_CSV:
        parts = table.iterate_csv(path, **span, chunk_bytes=CHUNK_BYTES)
        return (pb.ReadDesignResponse(data=part) for part in parts)
    rows = table.iterate_rows(path, **span)
    return messages.row_messages(rows, chunk_bytes=CHUNK_BYTES)


async def _in_threads(iterator: Iterator[Chunk]) -> AsyncIterator[Chunk]:
    """Each step of the iterator in a thread, one after the other: reading waits for the reader."""
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
