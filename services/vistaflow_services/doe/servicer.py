"""The gRPC service of the designs of experiments."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format

from vistaflow._rows import guarded
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow.api.doe.v1 import doe_pb2_grpc as rpc
from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations, field_error
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.results import JobResult, readable
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.deck import Deck, read_archive
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.space import Point
from vistaflow_services.designs import table
from vistaflow_services.designs.journal import read_journal
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.doe import looking, messages, references, specs
from vistaflow_services.doe.known import POINTS, known_points
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.run import check_deck
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
        self._trying = asyncio.Semaphore(max(1, stage.config.capacity))
        """Held while a point is run to be looked at."""

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
            manifest = DesignManifest.read(source.result)
            deck = await asyncio.to_thread(references.deck_of, manifest, self._artifacts)
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
        result = await self._rows_result(request)
        with readable(request.design_id, "design_id"):
            if result is None:
                folder = self._artifacts.root / "jobs" / request.design_id
                chunks = _chunks_so_far(request, folder)
            else:
                rows = DesignManifest.read(result).design
                path = await asyncio.to_thread(self._artifacts.verified, rows.uri, rows.sha256)
                chunks = _chunks(request, path)
            async for chunk in _in_threads(chunks):
                yield chunk

    async def _rows_result(self, request: pb.ReadDesignRequest) -> Mapping[str, Any] | None:
        """The result that says where the rows are; None while the design is under way."""
        if not request.allow_unfinished:
            return (await self._result(request.design_id)).result
        _check_design_id(request.design_id)
        return await self._stage.result_so_far(request.design_id, "DOE", "design_id")

    async def FindPoints(
        self, request: pb.FindPointsRequest, context: Context
    ) -> pb.FindPointsResponse:
        """Counts the known points that a design would take."""
        specs.check_reuse(request.reuse)
        deck = await self._deck(request)
        region = specs.region_of(request.design, deck.space)
        results = {
            job_id: (await self._stage.registry.result(job_id, field="reuse.kits")).result
            for kit in request.reuse.kits
            for job_id in kit.job_ids
        }
        known = await asyncio.to_thread(
            known_points, request.reuse, deck, region, results, self._artifacts
        )
        return pb.FindPointsResponse(origins=[pb.PointOrigin(**entry) for entry in known.origins])

    async def _deck(self, request: pb.TryPointRequest | pb.FindPointsRequest) -> Deck:
        """The deck of a request, by its archive or its name."""
        if request.deck_archive:
            return await asyncio.to_thread(read_archive, request.deck_archive)
        return (await asyncio.to_thread(self._decks.find, request.deck)).deck

    async def TryPoint(self, request: pb.TryPointRequest, context: Context) -> pb.TryPointResponse:
        """Runs one point and returns what it was given and what came of it."""
        deck, point = await self._tried(request)
        remaining = context.time_remaining()
        # An answer that the run took too long still has to reach the caller.
        left = max(remaining * 0.95 - 0.5, 0.1) if remaining is not None else math.inf
        stop = threading.Event()
        try:
            async with self._trying:
                seen = await asyncio.to_thread(
                    looking.look,
                    deck,
                    point,
                    scratch=self._stage.home / "run" / "tried",
                    seconds=min(deck.timeout_seconds, left),
                    should_stop=stop.is_set,
                )
        finally:
            stop.set()
        return messages.try_message(deck, seen)

    async def _tried(self, request: pb.TryPointRequest) -> tuple[Deck, Point]:
        """The deck and the point of a request."""
        violations = Violations()
        sources = [name for name in ("deck", "deck_archive", "design_id") if getattr(request, name)]
        if len(sources) != 1:
            violations.add("deck", "give one of deck, deck_archive and design_id")
        try:
            values = json_format.MessageToDict(request.parameters)
        except ValueError:
            violations.add("parameters", "hold a number that is not finite")
        violations.check()
        if request.design_id:
            source = await self._result(request.design_id)
            with readable(request.design_id, "design_id"):
                manifest = DesignManifest.read(source.result)
                deck = await asyncio.to_thread(references.deck_of, manifest, self._artifacts)
                file = manifest.design
                path = await asyncio.to_thread(self._artifacts.verified, file.uri, file.sha256)
            values = {**await asyncio.to_thread(_point_of, path, request.row_id), **values}
        else:
            deck = await self._deck(request)
        await asyncio.to_thread(check_deck, deck)
        require_simulator(deck.simulator)
        region = specs.region_of(pb.DesignSpec(parameters=request.ranges), deck.space)
        try:
            return deck, looking.middle(region, values)
        except InvalidError as error:
            violations.extend("parameters", error)
        violations.check()
        raise AssertionError

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Gets what is stored of a point's run."""
        deck, point = await self._tried(
            pb.TryPointRequest(
                design_id=request.design_id, row_id=request.row_id, parameters=request.parameters
            )
        )
        store = PointStore(self._artifacts.root / POINTS)
        outcome = await asyncio.to_thread(store.get, deck, point)
        if outcome is None:
            raise NotFoundError(
                "no run of this point is stored: it was never run, or its failure "
                "may be the machine's"
            )
        written = await asyncio.to_thread(store.files, deck, point)
        look = looking.Look(outcome=outcome, log=outcome.log, files=written)
        return pb.GetRunResponse(run=messages.try_message(deck, look), keeps_files=deck.keep_files)

    async def ListSimulators(
        self, request: pb.ListSimulatorsRequest, context: Context
    ) -> pb.ListSimulatorsResponse:
        """Lists the simulators of this machine."""
        statuses = await asyncio.to_thread(simulator_status)
        return pb.ListSimulatorsResponse(
            simulators=[pb.SimulatorInfo(**vars(status)) for status in statuses]
        )

    def _plan(self, request: pb.GenerateDesignRequest) -> Deck:
        """The deck to design for, once all that can be wrong has been looked at."""
        violations = Violations()
        if not request.deck:
            violations.add("deck", "missing: give a deck id or a deck's name")
        if not request.HasField("design"):
            violations.add("design", "missing: say which design to make")
        violations.check()
        deck = self._decks.find(request.deck).deck
        try:
            specs.plan(request.design, deck)
        except InvalidError as error:
            violations.extend("design", error)
        violations.check()
        return deck

    async def _result(self, design_id: str) -> JobResult:
        """What the finished job of a design published."""
        _check_design_id(design_id)
        return await self._stage.registry.result(design_id, job_type="DOE", field="design_id")


def _check_design_id(design_id: str) -> None:
    if not is_job_id(design_id):
        raise NotFoundError(f"no design {design_id[:100]!r}: a design's id is its job's id")


def _check_evaluation(evaluation: pb.EvaluationSpec, deck: Deck) -> None:
    """Raises what would fail the job at once: a wrong policy, a simulator that is not there."""
    violations = Violations()
    try:
        specs.policy_of(evaluation, deck)
    except InvalidError as error:
        violations.extend("evaluation", error)
    violations.check()
    require_simulator(deck.simulator)


def _point_of(path: Path, row_id: int) -> dict[str, Any]:
    """The parameters of a row of a design."""
    count = table.row_count(path)
    if not 0 <= row_id < count:
        raise field_error("row_id", f"the design has the rows 0 to {count - 1}, not {row_id}")
    (row,) = table.iterate_rows(path, offset=row_id, limit=1)
    return {name[2:]: value for name, value in row.items() if name.startswith("x.")}


def _check_read(request: pb.ReadDesignRequest) -> None:
    violations = Violations()
    if request.format not in pb.RowFormat.values():
        violations.add("format", f"{request.format} is no format: choose ROWS, CSV or PARQUET")
    for name in ("offset", "limit"):
        value = getattr(request, name)
        if value < 0:
            violations.add(name, f"{value} is negative: give 0 or more")
        elif value and request.format == pb.ROW_FORMAT_PARQUET:
            violations.add(name, "a Parquet file is read whole: leave it out, or read rows or CSV")
    if request.allow_unfinished and request.format == pb.ROW_FORMAT_PARQUET:
        violations.add("allow_unfinished", "a Parquet file is written at the end: read rows or CSV")
    violations.check()


def _chunks(request: pb.ReadDesignRequest, path: Path) -> Iterator[pb.ReadDesignResponse]:
    span: dict[str, Any] = {"offset": request.offset, "limit": request.limit}
    if request.format == pb.ROW_FORMAT_PARQUET:
        parts = table.iterate_file(path, chunk_bytes=CHUNK_BYTES)
        return (pb.ReadDesignResponse(data=part) for part in parts)
    if request.format == pb.ROW_FORMAT_CSV:
        parts = table.iterate_csv(path, **span, chunk_bytes=CHUNK_BYTES, cell=guarded)
        return (pb.ReadDesignResponse(data=part) for part in parts)
    rows = table.iterate_rows(path, **span)
    return messages.row_messages(rows, chunk_bytes=CHUNK_BYTES)


def _chunks_so_far(request: pb.ReadDesignRequest, job: Path) -> Iterator[pb.ReadDesignResponse]:
    rows = read_journal(job, offset=request.offset, limit=request.limit)
    if request.format == pb.ROW_FORMAT_CSV:
        columns = list(rows[0]) if rows else []
        parts = table.csv_of(columns, rows, chunk_bytes=CHUNK_BYTES, cell=guarded)
        return (pb.ReadDesignResponse(data=part) for part in parts)
    return messages.row_messages(rows, chunk_bytes=CHUNK_BYTES)


async def _in_threads(iterator: Iterator[Chunk]) -> AsyncIterator[Chunk]:
    """Each step of the iterator in a thread, one after the other: reading waits for the reader."""
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
