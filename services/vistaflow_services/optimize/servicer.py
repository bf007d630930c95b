"""The gRPC service of studies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow.api.optimize.v1 import optimize_pb2_grpc as rpc
from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations
from vistaflow_services.core.expressions import suggest
from vistaflow_services.core.interceptor import Context
from vistaflow_services.core.job_ids import is_job_id
from vistaflow_services.core.jobs import JobResult
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.results import readable
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.deck import read_archive
from vistaflow_services.decks.space import Space
from vistaflow_services.optimize import messages, specs
from vistaflow_services.optimize.domain import check_goals
from vistaflow_services.optimize.trials import read_trials
from vistaflow_services.simulators.status import require_simulator

DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000


class OptimizeServicer(rpc.OptimizeServiceServicer):
    """Translates between the protos, the domain and the registry; decides nothing itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._registry = stage.registry
        self._artifacts = stage.artifacts

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
        offset, limit = _page(request)
        source = await self._result(request.study_id, "OPTIMIZE", "study_id")
        with readable(request.study_id, "study_id"):
            uri, sha256 = source.result["trials"]["uri"], source.result["trials"]["sha256"]
            path = await asyncio.to_thread(self._artifacts.verified, uri, sha256)
            rows, more = await asyncio.to_thread(read_trials, path, offset=offset, limit=limit)
            trials = await asyncio.to_thread(fitting, rows, messages.trial_message)
        return pb.ListTrialsResponse(
            trials=trials,
            next_page_token=str(offset + len(trials)) if more or len(trials) < len(rows) else "",
        )

    def _check_design(self, spec: pb.OptimizeDesignSpec, manifest: Mapping[str, Any]) -> None:
        """Raises what would fail the job at once: goals, an unrun design, a missing simulator."""
        space = Space.from_dict(manifest["space"])
        with _under("spec"):
            check_goals(
                spec.goals,
                responses=[each["name"] for each in manifest["responses"]],
                parameters=space.numeric_names,
            )
        found = Violations()
        if not manifest.get("evaluated_count"):
            found.add("spec.design", "the design was never run: evaluate it first")
        found.check()
        archive = self._artifacts.existing(manifest["deck_uri"])
        require_simulator(read_archive(archive.read_bytes()).simulator)

    async def _result(self, job_id: str, job_type: str, field: str) -> JobResult:
        """What the finished job that a field names published."""
        if not is_job_id(job_id):
            raise NotFoundError(f"{field}: no job `{job_id[:100]}`; give the id of a finished job")
        return await self._registry.result(job_id, job_type=job_type, field=field)


@contextlib.contextmanager
def _under(path: str) -> Iterator[None]:
    """Puts a path before the fields of what is found invalid inside."""
    try:
        yield
    except InvalidError as error:
        found = Violations()
        found.extend(path, error)
        found.check()


def _check_response(response: str, manifest: Mapping[str, Any]) -> None:
    known = [
        str(each["name"] if isinstance(each, Mapping) else each)
        for each in manifest.get("responses", ())
    ]
    found = Violations()
    if response and known and response not in known:
        found.add("spec.response", f"the dataset has no `{response}`{suggest(response, known)}")
    found.check()


def _page(request: pb.ListTrialsRequest) -> tuple[int, int]:
    """Where a page starts and how many trials it has at most."""
    found = Violations()
    if not 0 <= request.page_size <= MAX_PAGE:
        found.add("page_size", f"{request.page_size} is not from 1 to {MAX_PAGE}")
    token = request.page_token
    if token and not (token.isascii() and token.isdigit() and len(token) <= 12):
        found.add("page_token", f"`{token[:40]}` is none: pass what the last answer returned")
    found.check()
    return int(token or 0), request.page_size or DEFAULT_PAGE
