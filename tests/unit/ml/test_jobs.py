"""The four ML jobs, one after the other, on a real artifact store."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.errors import ConflictError, InvalidError
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.decks.space import Kind, Parameter, Space
from vistaflow_services.ml.jobs import JOBS
from vistaflow_services.surrogates.dataset import Dataset
from vistaflow_services.surrogates.model import Model

SPACE = Space(
    parameters=(
        Parameter(name="width", low=1.0, high=5.0, unit="um"),
        Parameter(name="tox", low=1.0, high=3.0, unit="nm"),
        Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal")),
    )
)
FAMILIES = [pb.FAMILY_GAUSSIAN_PROCESS, pb.FAMILY_POLYNOMIAL_RIDGE]


def _outcome(point: Mapping[str, Any]) -> dict[str, float]:
    metal = point["gate"] == "metal"
    drive = point["width"] / point["tox"] + 0.4 * metal + math.sin(point["width"])
    return {"ion": drive, "ioff": 10 ** (-8 - 2 * point["tox"] + 0.5 * metal)}


@dataclass
class Kit:
    """The jobs of one kit, run in order in this process."""

    store: ArtifactStore
    results: dict[str, JobResult] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def run(self, job_type: str, spec: Any, *, name: str, workers: int = 2) -> dict[str, Any]:
        job_id = str(uuid.uuid4())
        attempt = Attempt(
            kit_id=7,
            job_id=job_id,
            job_type=job_type,
            name=name,
            spec=spec,
            inputs=dict(self.results),
            folder=self.store.open_prefix(job_id, 1),
            artifacts=self.store,
            workers=workers,
            report=self.messages.append,
        )
        result = json.loads(json.dumps(JOBS[job_type](attempt)))
        self.results[name] = JobResult(job_id=job_id, job_type=job_type, attempt=1, result=result)
        return dict(result)

    def model(self) -> Model:
        told = self.results["train"].result["model"]
        return Model.load(self.store.path(told["uri"]), told["sha256"])


def make_kit(folder: Path, n: int = 60, *, failed: int = 5, **columns: Any) -> Kit:
    store = ArtifactStore(folder)
    points = SPACE.decode(np.random.default_rng(0).random((n, 3)))
    job_id = str(uuid.uuid4())
    path = store.open_prefix(job_id, 1) / "design.parquet"
    failures = ["NO_CONVERGENCE"] * failed + [None] * (n - failed)
    outcomes = [_outcome(point) for point in points]
    table = {
        "row_id": list(range(n)),
        **{f"x.{name}": [point[name] for point in points] for name in SPACE.names},
        **{
            f"y.{name}": [
                None if failure else each[name]
                for each, failure in zip(outcomes, failures, strict=True)
            ]
            for name in ("ion", "ioff")
        },
        "failure": pa.array(failures, pa.string()),
        "seconds": [0.1] * n,
        **columns,
    }
    pq.write_table(pa.table(table), path)
    result = {
        "design": store.describe(path),
        "design_id": job_id,
        "deck_id": "d" * 64,
        "deck_uri": "artifact://decks/d.zip",
        "space": SPACE.to_dict(),
        "responses": [{"name": "ion", "unit": "mA"}, {"name": "ioff", "unit": "A"}],
        "evaluated_count": n,
    }
    kit = Kit(store)
    kit.results["doe"] = JobResult(job_id=job_id, job_type="DOE", attempt=1, result=result)
    return kit


def run_all(kit: Kit, *, workers: int = 2, seed: int = 3) -> dict[str, dict[str, Any]]:
    return {
        "preprocess": kit.run(
            "ML_PREPROCESS", pb.PreprocessSpec(design="doe", seed=seed), name="preprocess"
        ),
        "scale": kit.run("ML_SCALE", pb.ScaleSpec(dataset="preprocess"), name="scale"),
        "train": kit.run(
            "ML_TRAIN",
            pb.TrainSpec(scaler="scale", families=FAMILIES, folds=3, seed=seed),
            name="train",
            workers=workers,
        ),
        "test": kit.run("ML_TEST", pb.TestSpec(model="train"), name="test"),
    }


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    made = make_kit(tmp_path_factory.mktemp("store"))
    run_all(made)
    return made


def test_the_dataset_says_what_was_kept_and_how_it_was_split(kit: Kit) -> None:
    told = kit.results["preprocess"].result
    assert told["dropped"] == {"failed": 5}
    assert told["split"] == {"train": 44, "test": 11}
    assert told["transforms"] == {"ion": "identity", "ioff": "log10"}
    assert told["features"] == ["width", "tox", "gate=poly", "gate=metal"]
    table = pq.read_table(kit.store.path(told["dataset"]["uri"]))
    assert table["row_id"].to_pylist() == list(range(5, 60))
    assert set(table["split"].to_pylist()) == {"train", "test"}
    assert Dataset.read(kit.store.path(told["dataset"]["uri"])).digest == told["dataset"]["digest"]


def test_the_scaler_was_fitted_on_the_training_rows(kit: Kit) -> None:
    told = kit.results["scale"].result
    assert told["fitted_on"] == 44
    scaler = json.loads(kit.store.path(told["scaler"]["uri"]).read_text())
    assert scaler["dataset_sha256"] == kit.results["preprocess"].result["dataset"]["digest"]


def test_training_tells_the_choice_and_every_fold(kit: Kit) -> None:
    told = kit.results["train"].result
    assert set(told["families"]) == {"ion", "ioff"}
    assert set(told["cv"]["ion"]) == {"gp", "polynomial_ridge"}
    assert set(told["cv"]["ion"]["gp"]) == {"rmse", "r2", "nlpd"}
    finished = [
        each["name"]
        for each in kit.messages
        if each["kind"] == "task" and each["status"] == "FINISHED" and "fold" in each["name"]
    ]
    assert sorted(finished) == sorted(
        f"{response}, fold {fold}" for response in ("ion", "ioff") for fold in (1, 2, 3)
    )


def test_every_task_runs_before_it_is_finished(kit: Kit) -> None:
    seen: dict[str, list[str]] = {}
    for each in kit.messages:
        if each["kind"] == "task":
            seen.setdefault(each["name"], []).append(each["status"])
    assert seen
    assert all(statuses == ["RUNNING", "FINISHED"] for statuses in seen.values())


def test_the_model_predicts_what_was_held_out(kit: Kit) -> None:
    told = kit.results["test"].result
    assert told["rows"] == 11
    assert told["metrics"]["ion"]["r2"] > 0.98
    assert told["metrics"]["ioff"]["rmse_decades"] < 0.05
    low, high = told["metrics"]["ion"]["ci"]["rmse"]
    assert low <= told["metrics"]["ion"]["rmse"] <= high
    assert told["units"] == {"ion": "mA", "ioff": "A"}
    rows = pq.read_table(kit.store.path(told["residuals"]["uri"])).to_pydict()
    held_out = pq.read_table(
        kit.store.path(kit.results["preprocess"].result["dataset"]["uri"]),
        filters=[("split", "==", "test")],
    )
    assert rows["row_id"] == held_out["row_id"].to_pylist()
    assert rows["ion.simulated"] == held_out["y.ion"].to_pylist()


def test_the_plots_are_pictures_of_a_readable_size(kit: Kit) -> None:
    from matplotlib.image import imread

    plots = kit.results["test"].result["plots"]
    assert [each["name"] for each in plots] == ["parity.png", "residuals.png", "calibration.png"]
    for each in plots:
        height, width = imread(kit.store.path(each["uri"])).shape[:2]
        assert width >= 900
        assert height >= 400


def test_the_saved_model_is_the_one_that_was_tested(kit: Kit) -> None:
    points = SPACE.decode(np.random.default_rng(5).random((20, 3)))
    mean, sd = kit.model().predict(points)["ion"]
    truth = np.array([_outcome(point)["ion"] for point in points])
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.1
    assert (sd > 0).all()


def test_everything_comes_out_the_same_to_the_bit_on_any_number_of_cores(tmp_path: Path) -> None:
    first = run_all(make_kit(tmp_path / "a"), workers=1)
    second = run_all(make_kit(tmp_path / "b"), workers=3)
    assert first["preprocess"]["dataset"]["digest"] == second["preprocess"]["dataset"]["digest"]
    assert first["train"]["model"]["sha256"] == second["train"]["model"]["sha256"]
    assert first["test"]["metrics"] == second["test"]["metrics"]
    pictures = [[each["sha256"] for each in told["test"]["plots"]] for told in (first, second)]
    assert pictures[0] == pictures[1]


def test_another_seed_makes_another_split(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    digests = {
        kit.run("ML_PREPROCESS", pb.PreprocessSpec(design="doe", seed=seed), name="p")["dataset"][
            "digest"
        ]
        for seed in (1, 2)
    }
    assert len(digests) == 2


def test_a_job_of_another_kit_is_found_by_its_id(kit: Kit) -> None:
    job_id = kit.results["preprocess"].job_id
    other = Kit(kit.store, {job_id: kit.results["preprocess"]})
    assert other.run("ML_SCALE", pb.ScaleSpec(dataset=job_id), name="scale")["fitted_on"] == 44


def test_a_reference_to_nothing_says_what_to_give(kit: Kit) -> None:
    with pytest.raises(JobError) as raised:
        kit.run("ML_SCALE", pb.ScaleSpec(dataset="prep"), name="x")
    assert raised.value.reason == "NO_DATASET"
    assert "ML_PREPROCESS" in raised.value.hint


def test_a_reference_to_the_wrong_job_says_so(kit: Kit) -> None:
    with pytest.raises(JobError, match="the job `doe` is DOE") as raised:
        kit.run("ML_TRAIN", pb.TrainSpec(scaler="doe"), name="x")
    assert raised.value.reason == "WRONG_INPUT"


def test_a_design_that_was_not_run_is_refused(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    kit.results["doe"].result["evaluated_count"] = 0  # type: ignore[index]
    with pytest.raises(JobError, match="was not run") as raised:
        kit.run("ML_PREPROCESS", pb.PreprocessSpec(design="doe"), name="p")
    assert raised.value.reason == "NOT_EVALUATED"


def test_a_design_whose_runs_all_failed_is_refused_with_the_count(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, failed=60)
    with pytest.raises(InvalidError, match="60 in the design; dropped: 60 failed"):
        kit.run("ML_PREPROCESS", pb.PreprocessSpec(design="doe"), name="p")
    failed = [each for each in kit.messages if each.get("status") == "FAILED"]
    assert [each["name"] for each in failed] == ["clean and split"]


def test_a_changed_dataset_is_refused(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    told = kit.run("ML_PREPROCESS", pb.PreprocessSpec(design="doe"), name="preprocess")
    path = kit.store.path(told["dataset"]["uri"])
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InvalidError, match="altered or damaged"):
        kit.run("ML_SCALE", pb.ScaleSpec(dataset="preprocess"), name="scale")


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    told = run_all(kit)["train"]["model"]
    path = kit.store.path(told["uri"]) / "response.ion.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(ConflictError, match=r"response\.ion\.npz of the model is not what"):
        kit.run("ML_TEST", pb.TestSpec(model="train"), name="again")


def test_nothing_held_out_leaves_nothing_to_test_on(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    spec = pb.PreprocessSpec(design="doe", test_fraction=0.0)
    assert kit.run("ML_PREPROCESS", spec, name="preprocess")["split"] == {"train": 55, "test": 0}
    kit.run("ML_SCALE", pb.ScaleSpec(dataset="preprocess"), name="scale")
    kit.run("ML_TRAIN", pb.TrainSpec(scaler="scale", families=FAMILIES[1:]), name="train")
    with pytest.raises(InvalidError, match="no row is held out"):
        kit.run("ML_TEST", pb.TestSpec(model="train"), name="test")


def test_every_mistake_of_a_training_spec_is_told_at_once(kit: Kit) -> None:
    spec = pb.TrainSpec(scaler="scale", families=[1, 1, 9], folds=50)  # type: ignore[list-item]
    json_format.ParseDict(
        {"gp": {"kernel": "cubic"}, "extra_trees": {"leaves": 3}, "gradient_boosting": 4},
        spec.hyperparameters,
    )
    with pytest.raises(InvalidError) as raised:
        kit.run("ML_TRAIN", spec, name="x")
    assert [each.field for each in raised.value.violations] == [
        "families[2]",
        "hyperparameters.gradient_boosting",
        "folds",
        "families[1]",
        "hyperparameters.extra_trees.leaves",
        "hyperparameters.gp",
    ]


def test_hyper_parameters_of_a_study_are_used(kit: Kit) -> None:
    spec = pb.TrainSpec(scaler="scale", families=FAMILIES[:1], folds=2)
    json_format.ParseDict({"gp": {"kernel": "matern52", "trend": 1}}, spec.hyperparameters)
    told = kit.run("ML_TRAIN", spec, name="tuned")
    assert {each["kernel"] for each in told["details"].values()} == {"matern52"}
    assert {each["trend"] for each in told["details"].values()} == {1}


def test_results_fit_a_state_row(kit: Kit) -> None:
    assert all(len(json.dumps(each.result)) < 48 * 1024 for each in kit.results.values())
