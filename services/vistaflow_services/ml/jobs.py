"""The four ML jobs: preprocess, scale, train, test.

Each reads what an earlier one published, checked by hash, writes below its own prefix, and leaves
its result there as `manifest.json`. From one seed all of it comes out the same to the bit.
"""

from __future__ import annotations

import datetime
import functools
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.jobs import Attempt, JobError, plain
from vistaflow_services.core.pictures import draw_pictures
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.space import Space
from vistaflow_services.ml.domain import FoldReport, ModelTest, measure, train, verdict
from vistaflow_services.ml.references import (
    MANIFEST,
    find_manifest,
    open_dataset,
    open_file,
    open_model,
)
from vistaflow_services.ml.specs import plan_of, preparation_of
from vistaflow_services.surrogates.dataset import read_design
from vistaflow_services.surrogates.gaussian_process import GaussianProcess
from vistaflow_services.surrogates.model import ResponseModel
from vistaflow_services.surrogates.preparation import prepare
from vistaflow_services.surrogates.scaling import Scaler, fit_scaler

Manifest = dict[str, Any]
Job = Callable[[Attempt], Manifest]

_PASSED_ON = (
    "design_id", "dataset", "deck_id", "deck_uri", "space", "responses", "transforms", "split",
    "constants", "whole_space",
)  # fmt: skip
_TOLD_OUTLIERS = 20

UNMEASURED = (
    "no row is held out, so cross-validation alone measures the model's accuracy; every "
    "point of the space was run, so there is nothing to predict"
)


def _published(job: Job) -> Job:
    """Runs a job on one numeric thread and leaves its result in the attempt's prefix."""

    @functools.wraps(job)
    def run(attempt: Attempt) -> Manifest:
        with threadpool_limits(1):  # sums come out the same whatever the machine
            result: Manifest = plain(job(attempt))
        written = attempt.folder / MANIFEST
        attempt.artifacts.write(written, json.dumps(result, allow_nan=False).encode())
        return result

    return run


@_published
def preprocess(attempt: Attempt) -> Manifest:
    """ML_PREPROCESS: the rows of an evaluated design, made fit to learn from and split.

    Raises:
        JobError: The design is not there or was not run.
        InvalidError: An unknown or constant response, too few usable rows, a setting out of range.
    """
    spec = attempt.unpack(pb.PreprocessSpec)
    how = preparation_of(spec)
    design = find_manifest(attempt, spec.design, job_type="DOE", holds="design")
    if not design.get("evaluated_count"):
        raise JobError(
            "the design was not run, so its points have no responses to learn",
            reason="NOT_EVALUATED",
            hint="run it with EvaluateDesign, or give the DOE job an evaluation",
        )
    space = Space.from_dict(design["space"])
    units = {each["name"]: each.get("unit", "") for each in design["responses"]}
    with attempt.part("clean and split") as told:
        rows = read_design(open_file(design, "design", attempt.artifacts), space)
        attempt.progress("preprocess", 0, len(rows.row_ids), unit="rows")
        dataset, report = prepare(rows, space, how, units, cell_count(space, design.get("fixed")))
        split = Counter(np.where(dataset.training, "train", "test").tolist())
        told.update({"rows": len(dataset), "dropped": report.dropped, "split": dict(split)})
        attempt.progress(
            "preprocess",
            len(rows.row_ids),
            len(rows.row_ids),
            unit="rows",
            message="; ".join(
                [f"{split['train']} for training, {split['test']} held out", *report.notes]
            ),
        )
        told["notes"] = report.notes
    path = attempt.folder / "dataset.parquet"
    with attempt.artifacts.writing(path) as temporary:
        dataset.write(temporary)
    return {
        "dataset": {**attempt.artifacts.describe(path), "digest": dataset.digest},
        "design_id": design.get("design_id", ""),
        "deck_id": design.get("deck_id", ""),
        "deck_uri": design.get("deck_uri", ""),
        "space": design["space"],
        "rows": len(dataset),
        "dropped": report.dropped,
        "outliers": {
            name: {"count": len(ids), "row_ids": ids[:_TOLD_OUTLIERS]}
            for name, ids in report.outliers.items()
        },
        "constant_parameters": report.constant_parameters,
        "constants": report.constants,
        "whole_space": report.whole,
        "notes": report.notes,
        "split": {"train": split["train"], "test": split["test"]},
        "test_fraction": how.test_fraction,
        "seed": how.seed,
        "features": space.feature_names,
        "responses": [{"name": name, "unit": dataset.units[name]} for name in dataset.responses],
        "transforms": dataset.transforms,
    }


@_published
def scale(attempt: Attempt) -> Manifest:
    """ML_SCALE: a scaler fitted on the training rows of a dataset, and on nothing else."""
    spec = attempt.unpack(pb.ScaleSpec)
    source = find_manifest(attempt, spec.dataset, job_type="ML_PREPROCESS", holds="dataset")
    with attempt.part("fit scaler") as told:
        dataset = open_dataset(source, attempt.artifacts)
        scaler = fit_scaler(dataset)
        described = attempt.artifacts.write(
            attempt.folder / "scaler.json",
            json.dumps(scaler.to_dict(), indent=1, sort_keys=True).encode(),
        )
        told.update({"fitted_on": scaler.fitted_on, "held_out": len(dataset) - scaler.fitted_on})
    return {
        "scaler": described,
        "fitted_on": scaler.fitted_on,
        "center": {name: each.center for name, each in scaler.responses.items()},
        "scale": {name: each.scale for name, each in scaler.responses.items()},
        **{name: source[name] for name in _PASSED_ON if name in source},
    }


@_published
def train_model(attempt: Attempt) -> Manifest:
    """ML_TRAIN: a surrogate of each response, its family chosen by cross-validation.

    Each fold of each response is a task, with the error of every family.
    """
    spec = attempt.unpack(pb.TrainSpec)
    plan = plan_of(spec)
    source = find_manifest(attempt, spec.scaler, job_type="ML_SCALE", holds="scaler")
    scaler = Scaler.from_dict(
        json.loads(open_file(source, "scaler", attempt.artifacts).read_bytes())
    )
    dataset = open_dataset(source, attempt.artifacts)
    folds = min(plan.folds, scaler.fitted_on)
    watch = _TrainingWatch(attempt, total=len(dataset.responses) * folds)
    model = train(
        dataset,
        scaler,
        plan,
        deck_id=source.get("deck_id", ""),
        on_start=watch.started,
        on_fold=watch.fold_done,
        on_response=watch.response_done,
        workers=attempt.workers,
    )
    folder = attempt.folder / "model"
    digest = model.save(folder)
    described = attempt.artifacts.describe(folder)
    return {
        "model": {"uri": described["uri"], "sha256": digest, "bytes": described["bytes"]},
        "model_id": attempt.job_id,
        "kit_id": attempt.kit_id,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "families": {each.name: each.family for each in model.responses},
        "cv": {each.name: each.scores for each in model.responses},
        "details": {each.name: _details(each) for each in model.responses},
        "held_parameters": model.held,
        "training_rows": scaler.fitted_on,
        "folds": folds,
        "seed": plan.seed,
        "hyperparameters": plan.hyper_parameters,
        **{name: source[name] for name in _PASSED_ON if name in source},
    }


class _TrainingWatch:
    """Tells of folds and responses as they are done, from whichever thread."""

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

    def response_done(self, made: ResponseModel) -> None:
        r2 = made.scores[made.family]["r2"]
        self._attempt.progress(
            "train", self._done, self._total, unit="folds", message=f"{made.name}: {made.family}, "
            f"cross-validated R2 {r2:.4f}",
        )  # fmt: skip


def _details(response: ResponseModel) -> dict[str, Any]:
    """What is worth knowing of a fitted surrogate."""
    surrogate = response.surrogate
    if not isinstance(surrogate, GaussianProcess):
        return {}
    return {
        "kernel": surrogate.kernel,
        "trend": surrogate.trend,
        "calibration": surrogate.calibration,
        "lengths": [float(f"{each:.4g}") for each in surrogate.lengths[:50]],
    }


@_published
def test_model(attempt: Attempt) -> Manifest:
    """ML_TEST: figures, residuals and pictures of a model on the rows held out."""
    spec = attempt.unpack(pb.TestSpec)
    source = find_manifest(attempt, spec.model, job_type="ML_TRAIN", holds="model")
    model = open_model(source, attempt.artifacts)
    dataset = open_dataset(source, attempt.artifacts)
    with attempt.part("measure") as told:
        attempt.progress("measure", 0, len(model.responses), unit="responses")
        if source.get("whole_space") and dataset.training.all():
            found = ModelTest(row_ids=dataset.row_ids[:0], responses=())
        else:
            found = measure(model, dataset)
        attempt.progress("measure", len(model.responses), len(model.responses), unit="responses")
        told["r2"] = {each.name: each.figures.r2.value for each in found.responses}
    rows = attempt.folder / "residuals.parquet"
    with attempt.artifacts.writing(rows) as temporary:
        _write_residuals(found, temporary)
    with attempt.part("draw") as told:
        drawn = _draw(attempt, found)
        told["plots"] = [each["name"] for each in drawn]
    return {
        "model_id": source["model_id"],
        "rows": len(found.row_ids),
        "metrics": {each.name: _metrics(each.figures) for each in found.responses},
        "units": {each.name: each.unit for each in found.responses},
        "families": {each.name: each.family for each in model.responses},
        "warnings": (
            verdict(found.responses) + _untested(model.response_names, found)
            if len(found.row_ids)
            else [UNMEASURED]
        ),
        "residuals": attempt.artifacts.describe(rows),
        "plots": drawn,
    }


def _untested(names: list[str], found: ModelTest) -> list[str]:
    """A warning for each response that no test row has."""
    tested = {test.name for test in found.responses}
    return [
        f"{name}: no row held out has this response, so the accuracy of its model is not measured"
        for name in names
        if name not in tested
    ]


def _metrics(figures: Any) -> dict[str, Any]:
    """Figures as `{name: value}` and, under `ci`, `{name: [low, high]}`."""
    told = asdict(figures)
    intervals = {
        name: each for name, each in told.items() if isinstance(each, dict) and "low" in each
    }
    return {
        **{name: each["value"] for name, each in intervals.items()},
        "ci": {name: [each["low"], each["high"]] for name, each in intervals.items()},
        "calibration": {f"{level:g}": seen for level, seen in told["calibration"].items()},
        "sharpness": told["sharpness"],
        "rows": told["rows"],
    }


def _write_residuals(found: ModelTest, path: Any) -> None:
    """A row a test row: what was simulated and predicted of each response; null where missing."""
    columns: dict[str, Any] = {"row_id": found.row_ids}
    for test in found.responses:
        places = np.isin(found.row_ids, test.row_ids)
        parts = {"simulated": test.truth, "residual": test.truth - test.predicted.median}
        for part, values in (parts | vars(test.predicted)).items():
            column = np.full(len(found.row_ids), np.nan)
            column[places] = values
            columns[f"{test.name}.{part}"] = pa.array(column, from_pandas=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


def _draw(attempt: Attempt, found: ModelTest) -> list[dict[str, Any]]:
    # Only this job draws; the other three start sooner without the library.
    from vistaflow_services.ml import plots

    def bound(draw: Callable[..., None]) -> Callable[[Path], None]:
        return lambda path: draw(path, found.responses)

    drawings = {
        "parity.png": plots.draw_parity,
        "residuals.png": plots.draw_residuals,
        "calibration.png": plots.draw_calibration,
    }
    if not found.responses:
        return []
    return draw_pictures(attempt, {name: bound(draw) for name, draw in drawings.items()})


PRELOAD: Final = ("sklearn.ensemble", "vistaflow_services.ml.plots")
"""What the process that attempts are forked from imports beforehand."""

JOBS: dict[str, Job] = {
    "ML_PREPROCESS": preprocess,
    "ML_SCALE": scale,
    "ML_TRAIN": train_model,
    "ML_TEST": test_model,
}
