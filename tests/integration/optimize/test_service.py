"""The optimise service on a real registry: everything through gRPC."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import WELDED_BEAM, Bench

from tests.integration.stages import external, finished, refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow.api.optimize.v1 import optimize_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.message_limits import MESSAGE_BYTES
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.results import JobResult
from vistaflow_services.designs.journal import Journal
from vistaflow_services.optimize.__main__ import SERVICE
from vistaflow_services.optimize.config import Config
from vistaflow_services.optimize.domain import Trial, miss_scale
from vistaflow_services.optimize.trials import trial_table, write_trials


@dataclass(frozen=True)
class Suite:
    """A registry and an optimise service, both serving, and jobs done beside them."""

    stub: rpc.OptimizeServiceAsyncStub
    registry: RegistryClient
    bench: Bench

    async def publish(self, made: JobResult) -> str:
        """Records a job that was done here as an external one; returns its id there."""
        job = await external(self.registry, made.job_type, made.result)
        kept = self.bench.artifacts.open_prefix(job.job_id, 1) / "manifest.json"
        kept.write_bytes(
            (self.bench.artifacts.open_prefix(made.job_id, 1) / "manifest.json").read_bytes()
        )
        return str(job.job_id)

    async def finished(self, job: common_pb2.Job) -> common_pb2.Job:
        """The job once it has ended."""
        return await finished(self.registry, job)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def bench(home: Path) -> Bench:
    made = Bench(home / "artifacts")
    made.design("welded_beam", 24, 1)
    made.scaled()
    return made


@pytest.fixture
async def suite(registry: str, home: Path, bench: Bench) -> AsyncIterator[Suite]:
    client = RegistryClient(registry)
    config = Config(listen="127.0.0.1:0", cores=2, warm=False)
    async with stage_serving(SERVICE, config, home=home, registry=registry) as channel:
        yield Suite(stub=rpc.OptimizeServiceStub(channel), registry=client, bench=bench)
    await client.close()


def wanted(design: str, **spec: Any) -> pb.OptimizeDesignRequest:
    made = pb.OptimizeDesignSpec(**{"design": design, "goals": WELDED_BEAM, "budget": 8, **spec})
    return pb.OptimizeDesignRequest(spec=made)


async def test_a_design_is_optimised_told_and_its_trials_are_listed_in_pages(suite: Suite) -> None:
    design = await suite.publish(suite.bench.inputs["doe"])
    answer = await suite.stub.OptimizeDesign(wanted(design, seed=2, batch_size=2))
    job = await suite.finished(answer.job)
    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    request = pb.GetStudyRequest(study_id=job.job_id)
    study = (await suite.stub.GetStudy(request)).study
    assert (study.study_id, study.kit_id) == (job.job_id, job.kit_id)
    assert (study.goals, study.stop_reason) == (WELDED_BEAM, "budget")
    assert (study.evaluation_count, study.failed_count) == (32, 0)
    assert study.simulated_count + study.cached_count == 8
    assert study.best.feasible == all(each.met for each in study.constraints)
    assert [each.response.name for each in study.comparisons] == [
        "cost", "tau", "sigma", "deflection", "pc"
    ]  # fmt: skip
    cost = study.comparisons[0]
    assert cost.simulated == study.best.objective
    assert cost.predicted.low95 < cost.predicted.mean < cost.predicted.high95
    assert (study.model_id, study.model_row_count) == (job.job_id, 32)
    assert [each.name for each in study.plots] == ["convergence.png", "predicted.png"]

    trials: list[pb.Trial] = []
    token = ""
    while True:
        page = await suite.stub.ListTrials(
            pb.ListTrialsRequest(study_id=job.job_id, page_size=10, page_token=token)
        )
        trials += page.trials
        token = page.next_page_token
        if not token:
            break
    assert [each.number for each in trials] == list(range(33))
    names = {each.response.name for each in study.comparisons}
    assert all(set(each.predicted) == names for each in trials if each.origin == "infill")
    assert all(each.HasField("run_duration") for each in trials if each.origin == "infill")
    for name in ("run_duration", "cached", "predicted"):
        trials[-1].ClearField(name)
    assert trials[-1] == study.best


async def test_trials_that_do_not_fit_one_answer_come_in_more_pages_than_asked_for(
    suite: Suite,
) -> None:
    names = [f"parameter_{n:02}" for n in range(40)]
    trials = [
        Trial(number=number, origin="infill", point=dict.fromkeys(names, 0.5), responses={"y": 1.0})
        for number in range(4_000)
    ]
    path = suite.bench.artifacts.open_prefix(str(uuid.uuid4()), 1) / "trials.parquet"
    write_trials(path, trials, parameters=names, responses=["y"])
    job = await external(
        suite.registry, "OPTIMIZE", {"trials": suite.bench.artifacts.describe(path)}
    )
    numbers: list[int] = []
    pages, token = 0, ""
    while True:
        page = await suite.stub.ListTrials(
            pb.ListTrialsRequest(study_id=job.job_id, page_size=10_000, page_token=token)
        )
        assert page.ByteSize() <= MESSAGE_BYTES
        numbers += [each.number for each in page.trials]
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert numbers == list(range(4_000))
    assert pages > 1


async def test_what_a_study_under_way_has_tried_is_listed_and_then_the_rest(suite: Suite) -> None:
    names = ["width", "depth"]
    trials = [
        Trial(number=number, origin="infill", point=dict.fromkeys(names, 0.5), responses={"y": 1.0})
        for number in range(5)
    ]

    def rows(some: list[Trial]) -> pa.Table:
        return trial_table(some, parameters=names, responses=["y"], scale=miss_scale(some))

    job = await external(suite.registry, "OPTIMIZE")
    folder = suite.bench.artifacts.open_prefix(job.job_id, 1)

    async def listed(**fields: Any) -> pb.ListTrialsResponse:
        request = pb.ListTrialsRequest(study_id=job.job_id, allow_unfinished=True, **fields)
        return await suite.stub.ListTrials(request)

    assert await listed() == pb.ListTrialsResponse()
    with contextlib.closing(Journal(folder)) as journal:
        journal.write(rows(trials[:3]))
        answer = await listed()
        assert [trial.number for trial in answer.trials] == [0, 1, 2]
        assert (answer.complete, answer.next_page_token) == (False, "")
        code, _ = await refused(suite.stub.ListTrials(pb.ListTrialsRequest(study_id=job.job_id)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        journal.write(rows(trials[3:]))
    assert [trial.number for trial in (await listed(from_number=3)).trials] == [3, 4]
    first = await listed(from_number=1, page_size=2)
    rest = await listed(from_number=1, page_size=2, page_token=first.next_page_token)
    assert [trial.number for trial in (*first.trials, *rest.trials)] == [1, 2, 3, 4]

    path = folder / "trials.parquet"
    write_trials(path, trials, parameters=names, responses=["y"])
    row = common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_FINISHED, seq=2)
    row.metadata.update({"result": {"trials": suite.bench.artifacts.describe(path)}})
    await suite.registry.append([row])
    answer = await listed(from_number=2)
    assert answer.complete
    assert [trial.number for trial in answer.trials] == [2, 3, 4]

    code, found = await refused(listed(from_number=-1))
    assert (code, set(found)) == (grpc.StatusCode.INVALID_ARGUMENT, {"from_number"})
    design = await external(suite.registry, "DOE")
    request = pb.ListTrialsRequest(study_id=design.job_id, allow_unfinished=True)
    code, _ = await refused(suite.stub.ListTrials(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_every_mistake_is_found_before_anything_is_queued(suite: Suite) -> None:
    code, found = await refused(
        suite.stub.OptimizeDesign(
            pb.OptimizeDesignRequest(
                spec=pb.OptimizeDesignSpec(budget=-5, batch_size=65, tolerance=2)
            )
        )
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(found) == {
        "spec.design", "spec.goals", "spec.budget", "spec.batch_size", "spec.tolerance"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("goals", "told"),
    [
        ("minimize cots", "did you mean `cost`"),
        ("minimize cost; tau <= 1; tau >= 2", "contradict"),
        ("minimize cost; maximize pc", "keep one"),
    ],
)
async def test_goals_are_checked_against_the_design(suite: Suite, goals: str, told: str) -> None:
    design = await suite.publish(suite.bench.inputs["doe"])
    code, found = await refused(suite.stub.OptimizeDesign(wanted(design, goals=goals)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found) == ["spec.goals"]
    assert told in found["spec.goals"]


async def test_what_does_not_exist_is_not_found_and_what_is_not_done_has_no_result(
    suite: Suite,
) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for name in (nobody, "elsewhere"):
        code, _ = await refused(suite.stub.OptimizeDesign(wanted(name)))
        assert code is grpc.StatusCode.NOT_FOUND
        code, _ = await refused(suite.stub.GetStudy(pb.GetStudyRequest(study_id=name)))
        assert code is grpc.StatusCode.NOT_FOUND
    new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_OPTIMIZE)
    waiting = (await suite.registry.create_job(registry_pb2.CreateJobRequest(job=new))).job
    code, _ = await refused(suite.stub.GetStudy(pb.GetStudyRequest(study_id=waiting.job_id)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_pages_out_of_range_are_refused(suite: Suite) -> None:
    request = pb.ListTrialsRequest(study_id="x", page_size=10_001, page_token="next")
    code, found = await refused(suite.stub.ListTrials(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(found) == {"page_size", "page_token"}


async def test_a_picture_is_drawn_or_the_reason_is_said_why_not(suite: Suite) -> None:
    new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_OPTIMIZE)
    kit_id = (await suite.registry.create_job(registry_pb2.CreateJobRequest(job=new))).job.kit_id

    def asked(picture: str, **fields: Any) -> Any:
        request = pb.DrawPictureRequest(kit_id=kit_id, picture=picture, **fields)
        return suite.stub.DrawPicture(request)

    drawn = await asked("timeline", format="svg")
    assert drawn.media_type == "image/svg+xml"
    assert drawn.content.startswith(b"<?xml")
    assert (await asked("timeline")).content.startswith(b"\x89PNG")
    code, found = await refused(asked("timelines", format="gif"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(found) == {"picture", "format"}
    code, _ = await refused(asked("effects"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    missing = pb.DrawPictureRequest(kit_id=kit_id + 1000, picture="timeline")
    code, _ = await refused(suite.stub.DrawPicture(missing))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_family_is_tuned_and_the_best_settings_are_told(suite: Suite) -> None:
    scaler = await suite.publish(suite.bench.inputs["scale"])
    spec = pb.TuneModelSpec(
        scaler=scaler,
        family=ml_pb2.FAMILY_POLYNOMIAL_RIDGE,
        response="cost",
        trial_count=5,
        folds=3,
    )
    answer = await suite.stub.TuneModel(pb.TuneModelRequest(spec=spec))
    job = await suite.finished(answer.job)
    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    study = (await suite.stub.GetStudy(pb.GetStudyRequest(study_id=job.job_id))).study
    assert list(study.hyperparameters) == ["polynomial_ridge"]
    page = await suite.stub.ListTrials(pb.ListTrialsRequest(study_id=job.job_id))
    assert [each.origin for each in page.trials] == ["default"] + ["tuned"] * 4
    assert study.best.objective == min(each.objective for each in page.trials if each.feasible)


async def test_every_mistake_in_a_tuning_is_told_with_its_field(suite: Suite) -> None:
    spec = pb.TuneModelSpec(trial_count=-1, folds=21)
    code, found = await refused(suite.stub.TuneModel(pb.TuneModelRequest(spec=spec)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(found) == {"spec.scaler", "spec.family", "spec.trial_count", "spec.folds"}
