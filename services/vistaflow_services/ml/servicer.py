"""The gRPC service of the surrogates."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow.api.ml.v1 import ml_pb2_grpc as rpc
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError, NotFoundError, ServiceError, Violations
from vistaflow_services.core.lru import Lru
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.registry_client import result_of
from vistaflow_services.core.results import readable
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.stage import Stage
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.ml import messages, specs
from vistaflow_services.ml.config import Config
from vistaflow_services.ml.references import open_model
from vistaflow_services.surrogates.manifest import ModelManifest
from vistaflow_services.surrogates.model import Model

MAX_PAGE = 1_000


class MlServicer(rpc.MlServiceServicer):
    """Translates between the protos, the models on disk and the registry."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        config = stage.config
        self._models: Lru[str, Model] = Lru(
            config.cached_models if isinstance(config, Config) else 1
        )
        # Small products gain nothing by threads, and answers must not depend on their number.
        self._limits = threadpool_limits(1)

    async def Preprocess(
        self, request: pb.PreprocessRequest, context: Context
    ) -> pb.PreprocessResponse:
        """Starts turning a design's rows into a training table."""
        with _under("spec"):
            specs.preparation_of(request.spec)
        design = await self._result(request.spec.design, "DOE", "spec.design")
        with readable(request.spec.design, "spec.design"), _under("spec"):
            specs.check_responses(request.spec, DesignManifest.read(design))
        job = await self._stage.submit(
            request.spec, "ML_PREPROCESS", "preprocess", request.request_id
        )
        return pb.PreprocessResponse(job=job)

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:
        """Starts fitting the scaler."""
        await self._result(request.spec.dataset, "ML_PREPROCESS", "spec.dataset")
        job = await self._stage.submit(request.spec, "ML_SCALE", "scale", request.request_id)
        return pb.ScaleResponse(job=job)

    async def Train(self, request: pb.TrainRequest, context: Context) -> pb.TrainResponse:
        """Starts training."""
        with _under("spec"):
            specs.plan_of(request.spec)
        await self._result(request.spec.scaler, "ML_SCALE", "spec.scaler")
        job = await self._stage.submit(request.spec, "ML_TRAIN", "train", request.request_id)
        return pb.TrainResponse(job=job)

    async def Test(self, request: pb.TestRequest, context: Context) -> pb.TestResponse:
        """Starts measuring a model."""
        await self._result(request.spec.model, "ML_TRAIN", "spec.model")
        job = await self._stage.submit(request.spec, "ML_TEST", "test", request.request_id)
        return pb.TestResponse(job=job)

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Predicts the responses at raw points."""
        points = messages.points_of(request.points)
        model = await self._model(request.model_id)
        messages.check_answer([response.name for response in model.responses], len(points))
        extrapolate = request.allow_extrapolation

        def predicted() -> pb.PredictResponse:
            predictions = model.predictions(points, extrapolate=extrapolate)
            return messages.predict_response(model, predictions, len(points))

        return await asyncio.to_thread(predicted)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Gets what a model is."""
        result = await self._model_result(request.model_id)
        if "space" not in result:
            model = await self._model(request.model_id)
            result = {**result, "space": model.space.to_dict()}
        with readable(request.model_id, "model_id"):
            message = messages.model_message(request.model_id, result, self._stage.artifacts)
        return pb.GetModelResponse(model=message)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Lists models, newest first."""
        violations = Violations()
        size = pages.size(request, 100, MAX_PAGE, violations)
        violations.check()
        while True:
            page = await self._stage.registry.list_jobs(
                job_types=["ML_TRAIN"],
                statuses=["FINISHED"],
                page_size=size,
                page_token=request.page_token,
            )
            readable_models = await asyncio.to_thread(self._readable_models, page.jobs)
            models = fitting(readable_models, lambda model: model)
            if len(models) == len(readable_models):
                break
            # Where the next page starts is the registry's to say.
            size = len(models)
        return pb.ListModelsResponse(models=models, next_page_token=page.next_page_token)

    def _readable_models(self, jobs: Iterable[common_pb2.Job]) -> list[pb.Model]:
        models = []
        for job in jobs:
            # A model that cannot be read must not end the list.
            with contextlib.suppress(ServiceError), readable(job.job_id, "model_id"):
                result = result_of(job).result
                models.append(messages.model_message(job.job_id, result, self._stage.artifacts))
        return models

    async def _result(self, job_id: str, job_type: str, field: str) -> Mapping[str, Any]:
        """What the finished job that a field names published."""
        if not job_id:
            violations = Violations()
            violations.add(field, f"missing: give the id of a finished {job_type} job")
            violations.check()
        if not is_job_id(job_id):
            raise NotFoundError(f"{field}: no job {job_id[:100]!r}; give a job's id, a UUID")
        found_job = await self._stage.registry.result(job_id, job_type=job_type, field=field)
        return found_job.result

    async def _model_result(self, model_id: str) -> Mapping[str, Any]:
        """The result of the job that trained a model: an ML_TRAIN job, or a study."""
        if not is_job_id(model_id):
            return await self._result(model_id, "ML_TRAIN", "model_id")
        result = await self._stage.registry.result(model_id, field="model_id")
        if result.job_type == "ML_TRAIN":
            return result.result
        model: Mapping[str, Any] | None = result.result.get("last_model")
        if model is None:
            wrong = Violations()
            wrong.add(
                "model_id",
                f"job {model_id} is of type {result.job_type} and published no model; use the id "
                "of an ML_TRAIN job, or of a study that published one",
            )
            wrong.check()
        assert model is not None
        return model

    async def _model(self, model_id: str) -> Model:
        """A model, from memory or from disk; a finished one never changes."""
        model = self._models.get(model_id)
        # A model in memory may belong to a project that this caller does not see.
        if model is None or callers.current().project:
            result = await self._model_result(model_id)
        if model is None:
            with readable(model_id, "model_id"):
                manifest = ModelManifest.read(result)
                model = await asyncio.to_thread(_opened, manifest, self._stage.artifacts)
            self._models.put(model_id, model)
        return model


def _opened(manifest: ModelManifest, artifacts: ArtifactStore) -> Model:
    """A model; what it computes with is loaded before, as limits hold for what is loaded."""
    for name in ("scipy.linalg", "scipy.special"):
        importlib.import_module(name)
    threadpool_limits(1)
    return open_model(manifest, artifacts)


@contextlib.contextmanager
def _under(prefix: str) -> Iterator[None]:
    """Puts the mistakes that the block finds under the field that holds them."""
    try:
        yield
    except InvalidError as error:
        violations = Violations()
        violations.extend(prefix, error)
        violations.check()
