"""The ML service on a real registry: models made by its own worker, everything through gRPC."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import json_format, struct_pb2

from tests.integration.stages import external, finished, refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow.api.ml.v1 import ml_pb2_grpc as rpc
from vistaflow_services.core.registry_client import RegistryClient, job_type_number, struct_to_dict
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.ml.__main__ import SERVICE
from vistaflow_services.ml.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUEST = str(uuid.uuid4())
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


@dataclass(frozen=True)
class Suite:
    """A registry and an ML service, both serving, and the jobs of a model made there."""

    stub: rpc.MlServiceAsyncStub
    registry: RegistryClient
    store: ArtifactStore
    jobs: dict[str, common_pb2.Job]

    @property
    def model_id(self) -> str:
        return self.jobs["train"].job_id

    async def job_count(self) -> int:
        return len((await self.registry.list_jobs(page_size=1000)).jobs)

    async def keep(self, name: str, job: common_pb2.Job) -> str:
        """Waits for a job and keeps it by name; returns its id."""
        self.jobs[name] = await finished(self.registry, job)
        assert self.jobs[name].status == common_pb2.STATUS_FINISHED, self.jobs[name].reason
        return self.jobs[name].job_id


def evaluated_design(store: ArtifactStore) -> dict[str, Any]:
    """What a DOE job publishes of 60 points."""
    points = SPACE.decode(np.random.default_rng(0).random((60, 4)))
    outcomes = [outcome(point) for point in points]
    path = store.open_prefix(str(uuid.uuid4()), 1) / "design.parquet"
    table: dict[str, Any] = {"row_id": list(range(60)), "failure": pa.nulls(60, pa.string())}
    table |= {f"x.{name}": [each[name] for each in points] for name in SPACE.names}
    table |= {f"y.{name}": [each[name] for each in outcomes] for name in outcomes[0]}
    pq.write_table(pa.table(table), path)
    return {
        "design": store.describe(path),
        "design_id": "design",
        "deck_id": "d" * 64,
        "deck_uri": "artifact://decks/d",
        "space": SPACE.to_dict(),
        "responses": [{"name": "ion", "unit": "mA"}, {"name": "ioff", "unit": "A"}],
        "evaluated_count": 60,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home = tmp_path_factory.mktemp("home")
    registry = RegistryClient(module_registry)
    config = Config(listen="127.0.0.1:0", cores=2)
    async with stage_serving(SERVICE, config, home=home, registry=module_registry) as channel:
        stub: Any = rpc.MlServiceStub(channel)
        made = Suite(stub, registry, ArtifactStore(home / "artifacts"), {})
        made.jobs["doe"] = await external(registry, "DOE", evaluated_design(made.store))
        preprocess = pb.PreprocessSpec(design=made.jobs["doe"].job_id)
        answer = await stub.Preprocess(pb.PreprocessRequest(request_id=REQUEST, spec=preprocess))
        dataset = await made.keep("preprocess", answer.job)
        answer = await stub.Scale(pb.ScaleRequest(spec=pb.ScaleSpec(dataset=dataset)))
        train = pb.TrainSpec(
            scaler=await made.keep("scale", answer.job),
            families=[pb.FAMILY_GAUSSIAN_PROCESS, pb.FAMILY_POLYNOMIAL_RIDGE],
            folds=3,
        )
        await made.keep("train", (await stub.Train(pb.TrainRequest(spec=train))).job)
        yield made
    await registry.close()


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(dict(values))
    return made


GOOD = {"width": 2.0, "doping": 1e16, "fins": 3, "gate": "metal"}


async def test_raw_points_are_predicted_with_units_and_intervals(suite: Suite) -> None:
    request = pb.PredictRequest(model_id=suite.model_id, points=[struct(GOOD), struct(GOOD)])
    answer = await suite.stub.Predict(request)
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


async def test_every_mistake_in_points_is_told_with_its_place(suite: Suite) -> None:
    bad = struct({"width": 9.0, "doping": float("nan"), "fins": 2.5, "gate": "metal"})
    unknown = struct({**GOOD, "widht": 1.0})
    request = pb.PredictRequest(model_id=suite.model_id, points=[struct(GOOD), bad, unknown])
    code, found = await refused(suite.stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == [
        "points[1].width",
        "points[1].doping",
        "points[1].fins",
        "points[2].widht",
    ]


@pytest.mark.parametrize("value", [None, True, [1.0], {"a": 1.0}], ids=str)
async def test_what_is_no_value_is_refused(value: Any, suite: Suite) -> None:
    points = [struct({**GOOD, "width": value})]
    request = pb.PredictRequest(model_id=suite.model_id, points=points)
    code, found = await refused(suite.stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["points[0].width"]


@pytest.mark.parametrize("count", [0, 10_001])
async def test_too_few_and_too_many_points_are_refused(count: int, suite: Suite) -> None:
    points = [struct({})] * count
    request = pb.PredictRequest(model_id=suite.model_id, points=points)
    code, found = await refused(suite.stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["points"]


async def test_extrapolation_has_to_be_allowed(suite: Suite) -> None:
    request = pb.PredictRequest(model_id=suite.model_id, points=[struct({**GOOD, "width": 6.0})])
    code, _ = await refused(suite.stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    request.allow_extrapolation = True
    answer = await suite.stub.Predict(request)
    assert answer.predictions[0].responses["ion"].mean > 0


async def test_a_model_that_is_not_there_is_not_found(suite: Suite) -> None:
    for model_id in (str(uuid.uuid4()), "mine", "../../etc/passwd"):
        request = pb.PredictRequest(model_id=model_id, points=[struct(GOOD)])
        code, _ = await refused(suite.stub.Predict(request))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_a_model_still_in_training_is_a_failed_precondition(suite: Suite) -> None:
    running = await external(suite.registry, "ML_TRAIN")
    request = pb.PredictRequest(model_id=running.job_id, points=[struct(GOOD)])
    assert (await refused(suite.stub.Predict(request)))[0] is grpc.StatusCode.FAILED_PRECONDITION
    ask = suite.stub.GetModel(pb.GetModelRequest(model_id=running.job_id))
    assert (await refused(ask))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_changed_model_is_not_predicted_with(suite: Suite) -> None:
    told = struct_to_dict(suite.jobs["train"].result)
    told["model"]["sha256"] = "0" * 64
    other = await external(suite.registry, "ML_TRAIN", told)
    request = pb.PredictRequest(model_id=other.job_id, points=[struct(GOOD)])
    assert (await refused(suite.stub.Predict(request)))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_last_model_of_a_study_predicts_and_tells_how_it_was_made(suite: Suite) -> None:
    told = struct_to_dict(suite.jobs["train"].result)
    told.pop("space")
    study = await external(suite.registry, "OPTIMIZE", {"kind": "design", "last_model": told})
    request = pb.PredictRequest(model_id=study.job_id, points=[struct(GOOD)])
    direct = pb.PredictRequest(model_id=suite.model_id, points=[struct(GOOD)])
    assert await suite.stub.Predict(request) == await suite.stub.Predict(direct)
    model = (await suite.stub.GetModel(pb.GetModelRequest(model_id=study.job_id))).model
    assert (model.model_id, model.training_row_count) == (study.job_id, 48)
    assert [each.name for each in model.parameters] == SPACE.names


async def test_a_study_without_a_model_is_refused_with_what_to_name(suite: Suite) -> None:
    study = await external(suite.registry, "OPTIMIZE", {"kind": "model", "last_model": None})
    request = pb.PredictRequest(model_id=study.job_id, points=[struct(GOOD)])
    code, details = await refused(suite.stub.Predict(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "published no model" in details["model_id"]


async def test_a_model_tells_how_it_was_made(suite: Suite) -> None:
    model = (await suite.stub.GetModel(pb.GetModelRequest(model_id=suite.model_id))).model
    assert (model.model_id, model.kit_id, model.deck_id) == (
        suite.model_id,
        suite.jobs["train"].kit_id,
        "d" * 64,
    )
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
    assert all(suite.store.verified(each.uri, each.sha256) for each in model.files)


async def test_models_are_listed_by_page_newest_first(suite: Suite) -> None:
    published = struct_to_dict(suite.jobs["train"].result)
    newer = await external(suite.registry, "ML_TRAIN", published)
    pages, token = [], ""
    while not pages or token:
        request = pb.ListModelsRequest(page_size=1, page_token=token)
        pages.append(await suite.stub.ListModels(request))
        token = pages[-1].next_page_token
    found = [each.model_id for page in pages for each in page.models]
    assert (found[0], found[-1]) == (newer.job_id, suite.model_id)
    assert len(set(found)) == len(found)
    code, told = await refused(suite.stub.ListModels(pb.ListModelsRequest(page_size=2_000)))
    assert (code, list(told)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_size"])


async def test_a_stage_is_a_job_that_is_watched_in_the_registry(suite: Suite) -> None:
    spec = pb.TestSpec(model=suite.model_id)
    job = await finished(suite.registry, (await suite.stub.Test(pb.TestRequest(spec=spec))).job)
    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    assert set(struct_to_dict(job.result)["metrics"]) == {"ion", "ioff"}
    made = [*suite.jobs.values(), job]
    assert [(each.job_type, each.attempt, each.external) for each in made] == [
        (job_type_number("DOE"), 1, True),
        (job_type_number("ML_PREPROCESS"), 1, False),
        (job_type_number("ML_SCALE"), 1, False),
        (job_type_number("ML_TRAIN"), 1, False),
        (job_type_number("ML_TEST"), 1, False),
    ]
    kept = pb.TrainSpec()
    assert suite.jobs["train"].spec.Unpack(kept)
    assert kept.scaler == suite.jobs["scale"].job_id
    folds = {f"{response}, fold {each}" for response in ("ion", "ioff") for each in (1, 2, 3)}
    assert folds <= {each.task_name for each in suite.jobs["train"].tasks}


async def test_the_same_request_again_is_the_same_job(suite: Suite) -> None:
    spec = pb.PreprocessSpec(design=suite.jobs["doe"].job_id)
    again = await suite.stub.Preprocess(pb.PreprocessRequest(request_id=REQUEST, spec=spec))
    assert again.job.job_id == suite.jobs["preprocess"].job_id


async def test_mistakes_are_told_before_a_job_is_started(suite: Suite) -> None:
    ids = {name: each.job_id for name, each in suite.jobs.items()}
    before = await suite.job_count()
    bad = pb.TrainSpec(scaler=ids["scale"], folds=99)
    json_format.ParseDict({"gp": {"kernel": "cubic"}}, bad.hyperparameters)
    code, found = await refused(suite.stub.Train(pb.TrainRequest(spec=bad)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["spec.folds", "spec.hyperparameters.gp"]
    spec = pb.PreprocessSpec(design=ids["doe"], test_fraction=2.0)
    code, found = await refused(suite.stub.Preprocess(pb.PreprocessRequest(spec=spec)))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.test_fraction"])
    spec = pb.PreprocessSpec(design=ids["doe"], responses=["ion", "iof"])
    code, found = await refused(suite.stub.Preprocess(pb.PreprocessRequest(spec=spec)))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.responses[1]"])
    assert "did you mean `ioff`?" in found["spec.responses[1]"]
    code, found = await refused(suite.stub.Scale(pb.ScaleRequest()))
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["spec.dataset"])
    wrong = pb.ScaleSpec(dataset=ids["doe"])
    assert (await refused(suite.stub.Scale(pb.ScaleRequest(spec=wrong))))[0] is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    missing = pb.TestSpec(model=str(uuid.uuid4()))
    assert (await refused(suite.stub.Test(pb.TestRequest(spec=missing))))[
        0
    ] is grpc.StatusCode.NOT_FOUND
    assert await suite.job_count() == before
