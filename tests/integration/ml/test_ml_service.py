"""The ML service over gRPC: models made by its own jobs, a registry that holds their results."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format, struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow.api.ml.v1 import ml_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow_services.core.artifacts import ArtifactStore
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.jobs import Attempt, JobResult
from vistaflow_services.core.registry_client import RegistryClient, job_type_number
from vistaflow_services.core.server import make_server
from vistaflow_services.core.stage import Stage
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.ml.__main__ import SERVICE, build
from vistaflow_services.ml.config import Config
from vistaflow_services.ml.jobs import JOBS

REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
SPACE = Space(
    parameters=(
        Parameter(name="width", low=1.0, high=5.0, unit="um"),
        Parameter(name="doping", low=1e15, high=1e18, unit="cm^-3", scale=Scale.LOG),
        Parameter(name="fins", kind=Kind.INTEGER, low=1, high=4),
        Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal")),
    )
)


def outcome(point: Mapping[str, Any]) -> dict[str, float]:
    log = np.log10(point["doping"] / 1e15)
    drive = 3 + point["width"] * 0.2 * point["fins"] + 0.4 * (point["gate"] == "metal")
    return {"ion": drive, "ioff": float(10 ** (-7 - 2 * log + 0.1 * point["width"]))}


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Holds jobs and their results in memory, and records what it is asked to create."""

    def __init__(self) -> None:
        self.jobs: dict[str, common_pb2.Job] = {}
        self.created: list[registry_pb2.CreateJobRequest] = []

    def add(self, result: JobResult, status: common_pb2.Status.ValueType) -> None:
        job = common_pb2.Job(
            kit_id=7,
            job_id=result.job_id,
            job_type=job_type_number(result.job_type),
            status=status,
            attempt=1,
        )
        job.result.update(dict(result.result))
        self.jobs[result.job_id] = job

    async def GetJob(self, request: Any, context: Any) -> Any:
        if request.job_id not in self.jobs:
            raise NotFoundError(f"no job {request.job_id}")
        return registry_pb2.GetJobResponse(job=self.jobs[request.job_id])

    async def ListJobs(self, request: Any, context: Any) -> Any:
        kept = [
            each
            for each in self.jobs.values()
            if each.job_type in request.job_types and each.status in request.statuses
        ]
        return registry_pb2.ListJobsResponse(jobs=kept[: request.page_size], next_page_token="next")

    async def CreateJob(self, request: Any, context: Any) -> Any:
        self.created.append(request)
        job = common_pb2.Job(
            kit_id=8, job_id=str(uuid.uuid4()), job_type=request.job.job_type, name=request.job.name
        )
        return registry_pb2.CreateJobResponse(job=job)


class Trained:
    """What the four jobs made of a small design."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = ArtifactStore(home / "artifacts")
        self.results: dict[str, JobResult] = {}
        points = SPACE.decode(np.random.default_rng(0).random((60, 4)))
        outcomes = [outcome(point) for point in points]
        path = self.store.open_prefix("design", 1) / "design.parquet"
        table: dict[str, Any] = {"row_id": list(range(60)), "failure": pa.nulls(60, pa.string())}
        table |= {f"x.{name}": [each[name] for each in points] for name in SPACE.names}
        table |= {f"y.{name}": [each[name] for each in outcomes] for name in outcomes[0]}
        pq.write_table(pa.table(table), path)
        self.keep("doe", "DOE", {
            "design": self.store.describe(path),
            "design_id": "design",
            "deck_id": "d" * 64,
            "deck_uri": "artifact://decks/d",
            "space": SPACE.to_dict(),
            "responses": [{"name": "ion", "unit": "mA"}, {"name": "ioff", "unit": "A"}],
            "evaluated_count": 60,
        })  # fmt: skip
        self.run("preprocess", "ML_PREPROCESS", pb.PreprocessSpec(design="doe"))
        self.run("scale", "ML_SCALE", pb.ScaleSpec(dataset="preprocess"))
        families = [pb.FAMILY_GAUSSIAN_PROCESS, pb.FAMILY_POLYNOMIAL_RIDGE]
        self.run("train", "ML_TRAIN", pb.TrainSpec(scaler="scale", families=families, folds=3))

    def keep(self, name: str, job_type: str, result: dict[str, Any], job_id: str = "") -> None:
        self.results[name] = JobResult(
            job_id=job_id or str(uuid.uuid4()), job_type=job_type, attempt=1, result=result
        )

    def run(self, name: str, job_type: str, spec: Any) -> None:
        job_id = str(uuid.uuid4())
        attempt = Attempt(
            kit_id=7,
            job_id=job_id,
            spec=spec,
            inputs=dict(self.results),
            folder=self.store.open_prefix(job_id, 1),
            artifacts=self.store,
        )
        self.keep(name, job_type, JOBS[job_type](attempt), job_id)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("home"))


@pytest.fixture
async def registry(trained: Trained) -> AsyncIterator[tuple[Registry, str]]:
    made = Registry()
    for each in trained.results.values():
        made.add(each, common_pb2.STATUS_FINISHED)
    server = make_server(REGISTRY)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(made, server)
    address = server.bind("127.0.0.1:0")
    await server.start()
    yield made, address
    await server.stop(0)


@pytest.fixture
async def stub(
    trained: Trained, registry: tuple[Registry, str]
) -> AsyncIterator[rpc.MlServiceStub]:
    client = RegistryClient(registry[1], actor="ml")
    server = make_server(*SERVICE.service_names)
    build(Stage("ml", Config(), client, trained.home), server)
    address = server.bind("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.MlServiceStub(channel)
    await server.stop(0)
    await client.close()


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(dict(values))
    return made


GOOD = {"width": 2.0, "doping": 1e16, "fins": 3, "gate": "metal"}


async def refused(call: Any) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The status of a call that must fail, and its violations by field."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    found: dict[str, str] = {}
    status = rpc_status.from_call(raised.value)
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found = {each.field: each.description for each in bad.field_violations}
    return raised.value.code(), found


async def test_raw_points_are_predicted_with_units_and_intervals(
    stub: rpc.MlServiceStub, trained: Trained
) -> None:
    model_id = trained.results["train"].job_id
    request = pb.PredictRequest(model_id=model_id, points=[struct(GOOD), struct(GOOD)])
    answer = await stub.Predict(request)
    assert {each.name: each.unit for each in answer.responses} == {"ion": "mA", "ioff": "A"}
    assert len(answer.predictions) == 2
    truth = outcome(GOOD)
    ion = answer.predictions[0].responses["ion"]
    assert ion.mean == pytest.approx(truth["ion"], rel=0.02)
    assert ion.low95 < ion.mean < ion.high95
    assert ion.standard_deviation > 0
    ioff = answer.predictions[0].responses["ioff"]
    assert ioff.mean == pytest.approx(truth["ioff"], rel=0.2)
    assert 0 < ioff.low95 < ioff.high95


async def test_every_mistake_in_points_is_told_with_its_place(
    stub: rpc.MlServiceStub, trained: Trained
) -> None:
    model_id = trained.results["train"].job_id
    bad = struct({"width": 9.0, "doping": float("nan"), "fins": 2.5, "gate": "metal"})
    unknown = struct({**GOOD, "widht": 1.0})
    request = pb.PredictRequest(model_id=model_id, points=[struct(GOOD), bad, unknown])
    code, found = await refused(stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == [
        "points[1].width",
        "points[1].doping",
        "points[1].fins",
        "points[2].widht",
    ]


@pytest.mark.parametrize("value", [None, True, [1.0], {"a": 1.0}], ids=str)
async def test_what_is_no_value_is_refused(
    value: Any, stub: rpc.MlServiceStub, trained: Trained
) -> None:
    points = [struct({**GOOD, "width": value})]
    request = pb.PredictRequest(model_id=trained.results["train"].job_id, points=points)
    code, found = await refused(stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["points[0].width"]


@pytest.mark.parametrize("count", [0, 10_001])
async def test_too_few_and_too_many_points_are_refused(
    count: int, stub: rpc.MlServiceStub, trained: Trained
) -> None:
    points = [struct({})] * count
    request = pb.PredictRequest(model_id=trained.results["train"].job_id, points=points)
    code, found = await refused(stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["points"]


async def test_extrapolation_has_to_be_allowed(stub: rpc.MlServiceStub, trained: Trained) -> None:
    request = pb.PredictRequest(
        model_id=trained.results["train"].job_id, points=[struct({**GOOD, "width": 6.0})]
    )
    code, _ = await refused(stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    request.allow_extrapolation = True
    answer = await stub.Predict(request)
    assert answer.predictions[0].responses["ion"].mean > 0


async def test_a_model_that_is_not_there_is_not_found(stub: rpc.MlServiceStub) -> None:
    for model_id in (str(uuid.uuid4()), "mine", "../../etc/passwd"):
        request = pb.PredictRequest(model_id=model_id, points=[struct(GOOD)])
        code, _ = await refused(stub.Predict(request))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_a_model_still_in_training_is_a_failed_precondition(
    stub: rpc.MlServiceStub, registry: tuple[Registry, str]
) -> None:
    running = JobResult(job_id=str(uuid.uuid4()), job_type="ML_TRAIN", attempt=1, result={})
    registry[0].add(running, common_pb2.STATUS_RUNNING)
    request = pb.PredictRequest(model_id=running.job_id, points=[struct(GOOD)])
    assert (await refused(stub.Predict(request)))[0] is grpc.StatusCode.FAILED_PRECONDITION
    ask = stub.GetModel(pb.GetModelRequest(model_id=running.job_id))
    assert (await refused(ask))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_changed_model_is_not_predicted_with(
    stub: rpc.MlServiceStub, tmp_path: Path, registry: tuple[Registry, str], trained: Trained
) -> None:
    told = dict(trained.results["train"].result)
    told["model"] = {**told["model"], "sha256": "0" * 64}
    other = JobResult(job_id=str(uuid.uuid4()), job_type="ML_TRAIN", attempt=1, result=told)
    registry[0].add(other, common_pb2.STATUS_FINISHED)
    request = pb.PredictRequest(model_id=other.job_id, points=[struct(GOOD)])
    assert (await refused(stub.Predict(request)))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_model_tells_how_it_was_made(stub: rpc.MlServiceStub, trained: Trained) -> None:
    model_id = trained.results["train"].job_id
    model = (await stub.GetModel(pb.GetModelRequest(model_id=model_id))).model
    assert (model.model_id, model.kit_id, model.deck_id) == (model_id, 7, "d" * 64)
    assert model.training_row_count == 48
    assert [each.name for each in model.parameters] == SPACE.names
    assert (model.parameters[1].low, model.parameters[1].high) == (1e15, 1e18)
    assert model.parameters[1].scale == common_pb2.PARAMETER_SCALE_LOG
    assert [each.string_value for each in model.parameters[3].choices] == ["poly", "metal"]
    told = {each.response.name: each for each in model.responses}
    assert told["ioff"].log_scale
    assert not told["ion"].log_scale
    assert set(told["ion"].cross_validation_rmse) == {"gp", "polynomial_ridge"}
    assert told["ion"].response.unit == "mA"
    assert {each.name for each in model.files} == {
        "manifest.json",
        "model.json",
        "response.ion.npz",
        "response.ioff.npz",
    }
    assert all(trained.store.verified(each.uri, each.sha256) for each in model.files)


async def test_models_are_listed_by_page(stub: rpc.MlServiceStub, trained: Trained) -> None:
    answer = await stub.ListModels(pb.ListModelsRequest(page_size=10))
    assert [each.model_id for each in answer.models] == [trained.results["train"].job_id]
    assert answer.next_page_token == "next"
    code, found = await refused(stub.ListModels(pb.ListModelsRequest(page_size=2_000)))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_size"])


async def test_starting_a_stage_creates_its_job(
    stub: rpc.MlServiceStub, trained: Trained, registry: tuple[Registry, str]
) -> None:
    ids = {name: each.job_id for name, each in trained.results.items()}
    request_id = str(uuid.uuid4())
    starts = {
        "ML_PREPROCESS": stub.Preprocess(
            pb.PreprocessRequest(request_id=request_id, spec=pb.PreprocessSpec(design=ids["doe"]))
        ),
        "ML_SCALE": stub.Scale(pb.ScaleRequest(spec=pb.ScaleSpec(dataset=ids["preprocess"]))),
        "ML_TRAIN": stub.Train(pb.TrainRequest(spec=pb.TrainSpec(scaler=ids["scale"]))),
        "ML_TEST": stub.Test(pb.TestRequest(spec=pb.TestSpec(model=ids["train"]))),
    }
    for job_type, call in starts.items():
        answer: Any = await call
        assert answer.job.job_type == job_type_number(job_type)
    created = {each.job.job_type: each for each in registry[0].created}
    assert created[common_pb2.JOB_TYPE_ML_PREPROCESS].request_id == request_id
    spec = pb.TrainSpec()
    assert created[common_pb2.JOB_TYPE_ML_TRAIN].job.spec.Unpack(spec)
    assert spec.scaler == ids["scale"]


async def test_mistakes_are_told_before_a_job_is_started(
    stub: rpc.MlServiceStub, trained: Trained, registry: tuple[Registry, str]
) -> None:
    ids = {name: each.job_id for name, each in trained.results.items()}
    bad = pb.TrainSpec(scaler=ids["scale"], folds=99)
    json_format.ParseDict({"gp": {"kernel": "cubic"}}, bad.hyperparameters)
    code, found = await refused(stub.Train(pb.TrainRequest(spec=bad)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["spec.folds", "spec.hyperparameters.gp"]
    spec = pb.PreprocessSpec(design=ids["doe"], test_fraction=2.0)
    code, found = await refused(stub.Preprocess(pb.PreprocessRequest(spec=spec)))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.test_fraction"])
    spec = pb.PreprocessSpec(design=ids["doe"], responses=["ion", "iof"])
    code, found = await refused(stub.Preprocess(pb.PreprocessRequest(spec=spec)))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.responses[1]"])
    assert "did you mean `ioff`?" in found["spec.responses[1]"]
    code, found = await refused(stub.Scale(pb.ScaleRequest()))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.dataset"])
    wrong = pb.ScaleSpec(dataset=ids["doe"])
    assert (await refused(stub.Scale(pb.ScaleRequest(spec=wrong))))[0] is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    missing = pb.TestSpec(model=str(uuid.uuid4()))
    assert (await refused(stub.Test(pb.TestRequest(spec=missing))))[0] is grpc.StatusCode.NOT_FOUND
    assert registry[0].created == []
