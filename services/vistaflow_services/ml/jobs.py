"""The four ML jobs: preprocess, scale, train, test.

Each reads what an earlier one published, checked by hash, writes below its own prefix, and leaves
its result there as `manifest.json`. From one seed all of it comes out the same to the bit.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# What the models compute with, loaded now: a limit of threads holds for libraries that are loaded.
import scipy.linalg
import scipy.optimize
import scipy.special  # noqa: F401
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.core.work.pictures import draw_pictures
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.space import Space
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.ml.domain import FoldReport, ModelTest, measure, train, verdict
from vistaflow_services.ml.references import (
    find_manifest,
    open_dataset,
    open_file,
    open_model,
)
from vistaflow_services.ml.specs import plan_of, preparation_of
from vistaflow_services.surrogates.dataset import read_design
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess
from vistaflow_services.surrogates.manifest import (
    ModelManifest,
    ModelTestManifest,
    PreparationManifest,
    PublishedDataset,
    ScalerManifest,
    TrainingTable,
    publish_model,
)
from vistaflow_services.surrogates.metrics import HeldOut, doubts_of
from vistaflow_services.surrogates.model import ResponseModel
from vistaflow_services.surrogates.preparation import prepare
from vistaflow_services.surrogates.scaling import Scaler, fit_scaler

Result = dict[str, Any]
Job = Callable[[Attempt], Result]

_LISTED_OUTLIERS = 20
"""Most outliers of a response that the result lists."""

UNMEASURED = (
    "no row is held out, so cross-validation alone measures the model's accuracy; every "
    "point of the space was run, so there is nothing to predict"
)


def _published(job: Job) -> Job:
    """Runs a job on one numeric thread and leaves its result in the attempt's prefix."""

    @functools.wraps(job)
    def run(attempt: Attempt) -> Result:
        with threadpool_limits(1):  # sums come out the same whatever the machine
            result = job(attempt)
        return attempt.publish(result)

    return run


@_published
def preprocess(attempt: Attempt) -> Result:
    """ML_PREPROCESS: the rows of an evaluated design, made fit to learn from and split.

    Raises:
        JobError: The design is not there or was not run.
        InvalidError: An unknown or constant response, too few usable rows, a setting out of range.
    """
    spec = attempt.unpack(pb.PreprocessSpec)
    how = preparation_of(spec)
    design = DesignManifest.read(
        find_manifest(attempt, spec.design, job_type="DOE", holds="design")
    )
    if not design.evaluated_count:
        raise JobError(
            "the design was not run, so its points have no responses to learn",
            reason="NOT_EVALUATED",
            hint="run it with EvaluateDesign, or give the DOE job an evaluation",
        )
    space = Space.from_dict(design.space)
    with attempt.part("clean and split") as metadata:
        rows = read_design(open_file(design.design, attempt.artifacts), space)
        attempt.progress("preprocess", 0, len(rows.row_ids), unit="rows")
        dataset, report = prepare(rows, space, how, design.units, cell_count(space, design.fixed))
        split = Counter(np.where(dataset.training, "train", "test").tolist())
        metadata.update({"rows": len(dataset), "dropped": report.dropped, "split": dict(split)})
        attempt.progress(
            "preprocess",
            len(rows.row_ids),
            len(rows.row_ids),
            unit="rows",
            message="; ".join(
                [f"{split['train']} for training, {split['test']} held out", *report.notes]
            ),
        )
        metadata["notes"] = report.notes
    path = attempt.folder / "dataset.parquet"
    with attempt.artifacts.writing(path) as temporary:
        dataset.write(temporary)
    training_table = TrainingTable(
        dataset=PublishedDataset(**attempt.artifacts.describe(path), digest=dataset.digest),
        design_id=design.design_id,
        deck_id=design.deck_id,
        deck_uri=design.deck_uri,
        space=design.space,
        responses=[{"name": name, "unit": dataset.units[name]} for name in dataset.responses],
        transforms=dataset.transforms,
        split={"train": split["train"], "test": split["test"]},
        constants=report.constants,
        whole_space=report.whole,
    )
    prepared = PreparationManifest(
        rows=len(dataset),
        dropped=report.dropped,
        outliers={
            name: {"count": len(ids), "row_ids": ids[:_LISTED_OUTLIERS]}
            for name, ids in report.outliers.items()
        },
        constant_parameters=report.constant_parameters,
        notes=report.notes,
        test_fraction=how.test_fraction,
        seed=how.seed,
        features=space.feature_names,
    )
    return {**training_table.to_dict(), **prepared.to_dict()}


@_published
def scale(attempt: Attempt) -> Result:
    """ML_SCALE: a scaler fitted on the training rows of a dataset, and on nothing else."""
    spec = attempt.unpack(pb.ScaleSpec)
    source = TrainingTable.read(
        find_manifest(attempt, spec.dataset, job_type="ML_PREPROCESS", holds="dataset")
    )
    with attempt.part("fit scaler") as metadata:
        dataset = open_dataset(source, attempt.artifacts)
        scaler = fit_scaler(dataset)
        described = attempt.artifacts.write(
            attempt.folder / "scaler.json",
            json.dumps(scaler.to_dict(), indent=1, sort_keys=True).encode(),
        )
        metadata.update(
            {"fitted_on": scaler.fitted_on, "held_out": len(dataset) - scaler.fitted_on}
        )
    manifest = ScalerManifest(
        scaler=PublishedFile(**described),
        fitted_on=scaler.fitted_on,
        center={name: response.center for name, response in scaler.responses.items()},
        scale={name: response.scale for name, response in scaler.responses.items()},
    )
    return {**manifest.to_dict(), **source.to_dict()}


@_published
def train_model(attempt: Attempt) -> Result:
    """ML_TRAIN: a surrogate of each response, its family chosen by cross-validation.

    Each fold of each response is a task, with the error of every family.
    """
    spec = attempt.unpack(pb.TrainSpec)
    plan = plan_of(spec)
    result = find_manifest(attempt, spec.scaler, job_type="ML_SCALE", holds="scaler")
    source = TrainingTable.read(result)
    scaler_file = open_file(ScalerManifest.read(result).scaler, attempt.artifacts)
    scaler = Scaler.from_dict(json.loads(scaler_file.read_bytes()))
    dataset = open_dataset(source, attempt.artifacts)
    folds = min(plan.folds, scaler.fitted_on)
    watch = _TrainingWatch(attempt, total=len(dataset.responses) * folds)
    model = train(
        dataset,
        scaler,
        plan,
        deck_id=source.deck_id or "",
        on_start=watch.started,
        on_fold=watch.fold_done,
        on_response=watch.response_done,
        workers=attempt.workers,
    )
    return publish_model(
        attempt,
        model,
        source,
        details={response.name: _details(response) for response in model.responses},
        folds=folds,
        seed=plan.seed,
        hyperparameters=plan.hyper_parameters,
    )


class _TrainingWatch:
    """Reports folds and responses as they are done, from any thread."""

    def __init__(self, attempt: Attempt, total: int) -> None:
        self._attempt = attempt
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def started(self, response: str) -> None:
        self._attempt.task(f"{response}, fold 1", "RUNNING")

    def fold_done(self, report: FoldReport) -> None:
        fold = report.fold
        self._attempt.task(
            f"{report.response}, fold {fold.number}", "FINISHED", {"rmse": fold.rmse}
        )
        if fold.number < fold.total:
            self._attempt.task(f"{report.response}, fold {fold.number + 1}", "RUNNING")
        with self._lock:
            self._done += 1
            done = self._done
        best = min(fold.rmse, key=lambda family: fold.rmse[family])
        self._attempt.progress(
            "cross-validate", done, self._total, unit="folds", message=f"{report.response}: {best}"
        )

    def response_done(self, trained: ResponseModel) -> None:
        r2 = trained.scores[trained.family]["r2"]
        self._attempt.progress(
            "train",
            self._done,
            self._total,
            unit="folds",
            message=f"{trained.name}: {trained.family}, cross-validated R2 {r2:.4f}",
        )


def _details(response: ResponseModel) -> dict[str, Any]:
    """What is worth knowing of a fitted surrogate."""
    surrogate = response.surrogate
    if not isinstance(surrogate, GaussianProcess):
        return {}
    return {
        "kernel": surrogate.kernel,
        "trend": surrogate.trend,
        "calibration": surrogate.calibration,
        "lengths": [float(f"{length:.4g}") for length in surrogate.lengths[:50]],
    }


@_published
def test_model(attempt: Attempt) -> Result:
    """ML_TEST: figures, residuals and pictures of a model on the rows held out."""
    spec = attempt.unpack(pb.TestSpec)
    result = find_manifest(attempt, spec.model, job_type="ML_TRAIN", holds="model")
    manifest, source = ModelManifest.read(result), TrainingTable.read(result)
    model = open_model(manifest, attempt.artifacts)
    dataset = open_dataset(source, attempt.artifacts)
    with attempt.part("measure") as metadata:
        attempt.progress("measure", 0, len(model.responses), unit="responses")
        if source.whole_space and dataset.training.all():
            tested = ModelTest(row_ids=dataset.row_ids[:0], responses=())
        else:
            tested = measure(model, dataset)
        attempt.progress("measure", len(model.responses), len(model.responses), unit="responses")
        metadata["r2"] = {response.name: response.figures.r2.value for response in tested.responses}
    rows = attempt.folder / "residuals.parquet"
    with attempt.artifacts.writing(rows) as temporary:
        _write_residuals(tested, temporary)
    with attempt.part("draw") as metadata:
        drawn = _draw(attempt, tested)
        metadata["plots"] = [picture["name"] for picture in drawn]
    return ModelTestManifest(
        model_id=manifest.model_id,
        rows=len(tested.row_ids),
        metrics={response.name: _metrics(response.figures) for response in tested.responses},
        units={response.name: response.unit for response in tested.responses},
        families={response.name: response.family for response in model.responses},
        warnings=(
            verdict(tested.responses) + _untested(model.response_names, tested)
            if len(tested.row_ids)
            else [UNMEASURED]
        ),
        residuals=PublishedFile(**attempt.artifacts.describe(rows)),
        plots=PublishedFile.read_all(drawn),
    ).to_dict()


def _untested(names: list[str], tested: ModelTest) -> list[str]:
    """A warning for each response that no test row has."""
    measured = {response.name for response in tested.responses}
    return [
        f"{name}: no row held out has this response, so the accuracy of its model is not measured"
        for name in names
        if name not in measured
    ]


def _metrics(figures: HeldOut) -> dict[str, Any]:
    """Figures as `{name: value}` and, under `ci`, `{name: [low, high]}`."""
    fields = asdict(figures)
    intervals = {
        name: value for name, value in fields.items() if isinstance(value, dict) and "low" in value
    }
    return {
        **{name: interval["value"] for name, interval in intervals.items()},
        "ci": {name: [interval["low"], interval["high"]] for name, interval in intervals.items()},
        "calibration": {f"{level:g}": seen for level, seen in fields["calibration"].items()},
        "sharpness": fields["sharpness"],
        "rows": fields["rows"],
        "doubts": doubts_of(figures),
    }


def _write_residuals(tested: ModelTest, path: Any) -> None:
    """A row a test row: what was simulated and predicted of each response; null where missing."""
    columns: dict[str, Any] = {"row_id": tested.row_ids}
    for test in tested.responses:
        places = np.isin(tested.row_ids, test.row_ids)
        parts = {"simulated": test.truth, "residual": test.truth - test.predicted.median}
        for part, values in (parts | vars(test.predicted)).items():
            column = np.full(len(tested.row_ids), np.nan)
            column[places] = values
            columns[f"{test.name}.{part}"] = pa.array(column, from_pandas=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


def _draw(attempt: Attempt, tested: ModelTest) -> list[dict[str, Any]]:
    # Only this job draws; the other three start sooner without the library.
    from vistaflow_services.ml import plots

    drawings = {
        "parity.png": plots.draw_parity,
        "residuals.png": plots.draw_residuals,
        "calibration.png": plots.draw_calibration,
    }
    if not tested.responses:
        return []
    return draw_pictures(
        attempt,
        {name: functools.partial(draw, tested.responses) for name, draw in drawings.items()},
    )


PRELOAD: Final = ("sklearn.ensemble", "vistaflow_services.ml.plots")
"""What the process that attempts are forked from imports beforehand."""

JOBS: dict[str, Job] = {
    "ML_PREPROCESS": preprocess,
    "ML_SCALE": scale,
    "ML_TRAIN": train_model,
    "ML_TEST": test_model,
}
