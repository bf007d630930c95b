"""The gRPC service of studies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow.api.optimize.v1 import optimize_pb2_grpc as rpc
from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.results import JobResult, PublishedFile, readable
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.deck import read_archive
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.space import Space
from vistaflow_services.designs.journal import read_journal
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.optimize import messages, specs
from vistaflow_services.optimize.domain import check_goals
from vistaflow_services.optimize.trials import read_trials
from vistaflow_services.simulators.status import require_simulator

MAX_PAGE = 10_000


class OptimizeServicer(rpc.OptimizeServiceServicer):
    """Translates between the protos, the domain and the registry; decides nothing itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._registry = stage.registry
        self._artifacts = stage.artifacts
        self._drawing = asyncio.Semaphore(1)
        """Held while a picture is drawn, which takes seconds of a core."""

    async def TuneModel(
        self, request: pb.TuneModelRequest, context: Context
    ) -> pb.TuneModelResponse:
        """Starts tuning a model. See the proto for the contract."""
        with _under("spec"):
            specs.tuning_plan(request.spec)
        scaled = await self._result(request.spec.scaler, "ML_SCALE", "spec.scaler")
        with readable(request.spec.scaler, "spec.scaler"):
            _check_response(request.spec.response, scaled.result)
        job = await self._stage.submit(request.spec, "OPTIMIZE", "tune", request.request_id)
        return pb.TuneModelResponse(job=job)

    async def OptimizeDesign(
        self, request: pb.OptimizeDesignRequest, context: Context
    ) -> pb.OptimizeDesignResponse:
        """Starts optimising a design."""
        with _under("spec"):
            specs.study_plan(request.spec)
        design = await self._result(request.spec.design, "DOE", "spec.design")
        if request.spec.model:
            await self._result(request.spec.model, "ML_TRAIN", "spec.model")
        with readable(request.spec.design, "spec.design"):
            await asyncio.to_thread(self._check_design, request.spec, design.result)
        job = await self._stage.submit(request.spec, "OPTIMIZE", "optimize", request.request_id)
        return pb.OptimizeDesignResponse(job=job)

    async def GetStudy(self, request: pb.GetStudyRequest, context: Context) -> pb.GetStudyResponse:
        """Gets the result of a study."""
        source = await self._result(request.study_id, "OPTIMIZE", "study_id")
        with readable(request.study_id, "study_id"):
            study = messages.study_message(request.study_id, source.result)
        return pb.GetStudyResponse(study=study)

    async def ListTrials(
        self, request: pb.ListTrialsRequest, context: Context
    ) -> pb.ListTrialsResponse:
        """Lists what a study tried."""
        violations = Violations()
        limit = pages.size(request, 1_000, MAX_PAGE, violations)
        if request.from_number < 0:
            violations.add("from_number", f"{request.from_number} is negative: give 0 or more")
        offset = pages.decode(request, violations) or request.from_number
        violations.check()
        result = await self._trials(request)
        with readable(request.study_id, "study_id"):
            rows, more = await asyncio.to_thread(self._rows, request, result, offset, limit)
            trials = await asyncio.to_thread(fitting, rows, messages.trial_message)
        more = more or len(trials) < len(rows)
        return pb.ListTrialsResponse(
            trials=trials,
            next_page_token=pages.encode(offset + len(trials), request) if more else "",
            complete=result is not None and not more,
        )

    async def _trials(self, request: pb.ListTrialsRequest) -> Mapping[str, Any] | None:
        """The result that says where the trials are; None while the study is under way."""
        if not request.allow_unfinished:
            return (await self._result(request.study_id, "OPTIMIZE", "study_id")).result
        _check_job_id(request.study_id, "study_id")
        return await self._stage.result_so_far(request.study_id, "OPTIMIZE", "study_id")

    def _rows(
        self,
        request: pb.ListTrialsRequest,
        result: Mapping[str, Any] | None,
        offset: int,
        limit: int,
    ) -> tuple[list[dict[str, Any]], bool]:
        """The trials of a page, and whether there are more."""
        if result is not None:
            table = PublishedFile.read(result["trials"])
            path = self._artifacts.verified(table.uri, table.sha256)
            return read_trials(path, offset=offset, limit=limit)
        folder = self._artifacts.root / "jobs" / request.study_id
        rows = read_journal(folder, offset=offset, limit=limit + 1)
        return rows[:limit], len(rows) > limit

    async def DrawPicture(
        self, request: pb.DrawPictureRequest, context: Context
    ) -> pb.DrawPictureResponse:
        """Draws a picture of a kit."""
        # Imported with the first picture: matplotlib is large.
        from vistaflow_services.optimize.pictures import catalog, subject

        file_format = request.format or "png"
        catalog.check(request.picture, file_format, request.parameters)
        kit = await self._registry.get_kit(request.kit_id)

        def draw() -> bytes:
            with readable(str(kit.kit_id), "kit_id"):
                of = subject.subject_of(kit, self._artifacts)
            chosen = list(request.parameters)
            return catalog.drawn(of, request.picture, file_format, chosen, request.response)

        async with self._drawing:
            content = await asyncio.to_thread(draw)
        return pb.DrawPictureResponse(content=content, media_type=catalog.MEDIA_TYPES[file_format])

    def _check_design(self, spec: pb.OptimizeDesignSpec, result: Mapping[str, Any]) -> None:
        """Raises what would fail the job at once: goals, an unrun design, a missing simulator."""
        manifest = DesignManifest.read(result)
        space = Space.from_dict(manifest.space)
        with _under("spec"):
            check_goals(
                spec.goals,
                responses=list(manifest.units),
                parameters=space.numeric_names,
            )
        violations = Violations()
        if not manifest.evaluated_count:
            violations.add("spec.design", "the design was never run: evaluate it first")
        violations.check()
        archive = self._artifacts.existing(manifest.deck_uri)
        require_simulator(read_archive(archive.read_bytes()).simulator)

    async def _result(self, job_id: str, job_type: str, field: str) -> JobResult:
        """What the finished job that a field names published."""
        _check_job_id(job_id, field)
        return await self._registry.result(job_id, job_type=job_type, field=field)


def _check_job_id(job_id: str, field: str) -> None:
    if not is_job_id(job_id):
        raise NotFoundError(f"{field}: no job `{job_id[:100]}`; give the id of a finished job")


@contextlib.contextmanager
def _under(path: str) -> Iterator[None]:
    """Puts a path before the fields of what is found invalid inside."""
    try:
        yield
    except InvalidError as error:
        violations = Violations()
        violations.extend(path, error)
        violations.check()


def _check_response(response: str, manifest: Mapping[str, Any]) -> None:
    names = [
        str(entry["name"] if isinstance(entry, Mapping) else entry)
        for entry in manifest.get("responses", ())
    ]
    violations = Violations()
    if response and names and response not in names:
        violations.add(
            "spec.response", f"the dataset has no `{response}`{suggest(response, names)}"
        )
    violations.check()
