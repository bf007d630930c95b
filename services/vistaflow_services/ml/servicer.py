"""The gRPC service of the surrogates."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow.api.ml.v1 import ml_pb2_grpc as rpc
from vistaflow_services.core import callers
from vistaflow_services.core.errors import InvalidError, NotFoundError, ServiceError, Violations
from vistaflow_services.core.interceptor import Context
from vistaflow_services.core.job_ids import is_job_id
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.registry_client import result_of
from vistaflow_services.core.results import readable
from vistaflow_services.core.stage import Stage
from vistaflow_services.ml import messages, specs
from vistaflow_services.ml.config import Config
from vistaflow_services.ml.references import open_model
from vistaflow_services.surrogates.model import Model

DEFAULT_PAGE, MAX_PAGE = 100, 1_000


class MlServicer(rpc.MlServiceServicer):
    """Translates between the protos, the models on disk and the registry."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        config = stage.config
        self._models = ModelCache(config.cached_models if isinstance(config, Config) else 1)
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
            specs.check_responses(request.spec, design)
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
        messages.check_answer([each.name for each in model.responses], len(points))
        extrapolate = request.allow_extrapolation

        def predicted() -> pb.PredictResponse:
            found = model.predictions(points, extrapolate=extrapolate)
            return messages.predict_response(model, found, len(points))

        return await asyncio.to_thread(predicted)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Gets what a model is."""
        manifest = await self._manifest(request.model_id)
        if "space" not in manifest:
            model = await self._model(request.model_id)
            manifest = {**manifest, "space": model.space.to_dict()}
        with readable(request.model_id, "model_id"):
            found = messages.model_message(request.model_id, manifest, self._stage.artifacts)
        return pb.GetModelResponse(model=found)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Lists models, newest first."""
        size = _page_size(request.page_size)
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
            # One that cannot be read must not end the list for everybody.
            with contextlib.suppress(ServiceError), readable(job.job_id, "model_id"):
                manifest = result_of(job).result
                models.append(messages.model_message(job.job_id, manifest, self._stage.artifacts))
        return models

    async def _result(self, job_id: str, job_type: str, field: str) -> Mapping[str, Any]:
        """What the finished job that a field names published."""
        if not job_id:
            found = Violations()
            found.add(field, f"missing: give the id of a finished {job_type} job")
            found.check()
        if not is_job_id(job_id):
            raise NotFoundError(f"{field}: no job {job_id[:100]!r}; give a job's id, a UUID")
        found_job = await self._stage.registry.result(job_id, job_type=job_type, field=field)
        return found_job.result

    async def _manifest(self, model_id: str) -> Mapping[str, Any]:
        """The result of the job that trained a model: an ML_TRAIN job, or a study."""
        if not is_job_id(model_id):
            return await self._result(model_id, "ML_TRAIN", "model_id")
        found = await self._stage.registry.result(model_id, field="model_id")
        if found.job_type == "ML_TRAIN":
            return found.result
        model: Mapping[str, Any] | None = found.result.get("last_model")
        if model is None:
            wrong = Violations()
            wrong.add(
                "model_id",
                f"job {model_id} is of type {found.job_type} and published no model; use the id "
                "of an ML_TRAIN job, or of a study that published one",
            )
            wrong.check()
        assert model is not None
        return model

    async def _model(self, model_id: str) -> Model:
        """A model, from memory or from disk; a finished one never changes."""
        model = self._models.get(model_id)
        # That the model is in memory tells nothing of whether it exists for this caller.
        if model is None or callers.current().project:
            manifest = await self._manifest(model_id)
        if model is None:
            with readable(model_id, "model_id"):
                model = await asyncio.to_thread(open_model, manifest, self._stage.artifacts)
            self._models.put(model_id, model)
        return model


def _page_size(asked: int) -> int:
    if not 0 <= asked <= MAX_PAGE:
        found = Violations()
        found.add("page_size", f"{asked} is not from 1 to {MAX_PAGE:,}")
        found.check()
    return asked or DEFAULT_PAGE


@contextlib.contextmanager
def _under(prefix: str) -> Iterator[None]:
    """Puts the mistakes that the block finds under the field that holds them."""
    try:
        yield
    except InvalidError as error:
        found = Violations()
        found.extend(prefix, error)
        found.check()


class ModelCache:
    """The models used last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._models: OrderedDict[str, Model] = OrderedDict()

    def get(self, model_id: str) -> Model | None:
        """The model, if it is kept."""
        if model_id in self._models:
            self._models.move_to_end(model_id)
        return self._models.get(model_id)

    def put(self, model_id: str, model: Model) -> None:
        """Keeps a model, and drops the one not used for longest if there are too many."""
        self._models[model_id] = model
        self._models.move_to_end(model_id)
        while len(self._models) > self._size:
            self._models.popitem(last=False)
