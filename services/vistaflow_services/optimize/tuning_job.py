"""What an OPTIMIZE job does that tunes a model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.core.errors import InvalidError, ServiceError, Violations
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.optimize import specs
from vistaflow_services.optimize.inputs import find_manifest
from vistaflow_services.optimize.trials import PARAMETER
from vistaflow_services.optimize.tuning import TuningTrial, best_tuning, tune_family
from vistaflow_services.search.manifest import StudyManifest, TuningManifest, TuningRecord
from vistaflow_services.surrogates.dataset import Dataset
from vistaflow_services.surrogates.manifest import (
    PublishedDataset,
    ScalerManifest,
    TrainingTable,
)
from vistaflow_services.surrogates.scaling import Scaler


def tune(attempt: Attempt) -> dict[str, Any]:
    """Tunes a family on the training rows of a scaled dataset; returns the study's manifest.

    Raises:
        JobError: The dataset is missing, or no setting could be fitted.
        InvalidError: The response is unknown.
    """
    spec = attempt.unpack(pb.TuneModelSpec)
    plan = specs.tuning_plan(spec)
    dataset, scaler = _scaled(attempt, spec.scaler)
    names = _responses(plan.response, scaler)
    # One fit a fold serves all responses, so it takes the rows that have all of them.
    rows = np.logical_and.reduce([dataset.training, *map(dataset.present, names)])
    targets = {name: scaler.standardise(dataset, name)[rows] for name in names}
    seen: list[TuningTrial] = []

    def on_trial(trial: TuningTrial) -> None:
        seen.append(trial)
        best = best_tuning(seen)
        message = "" if best is None else f"best RMSE {best.score:.4g} in trial {best.number}"
        attempt.progress("tune", len(seen), plan.trial_count, unit="trials", message=message)

    attempt.task("tune", "RUNNING", {"family": plan.family})
    trials = tune_family(
        plan.family,
        scaler.inputs(dataset.features[rows]),
        targets,
        trial_count=plan.trial_count,
        folds=plan.folds,
        seed=plan.seed,
        on_trial=on_trial,
    )
    best = best_tuning(trials)
    if best is None:
        failure = next((trial.failure for trial in trials if trial.failure), "")
        attempt.task("tune", "FAILED", {"family": plan.family}, reason=failure)
        raise JobError(
            f"no setting of {plan.family} could be fitted: {failure}",
            reason="ALL_FAILED",
            hint="choose another family or a larger design",
        )
    attempt.task("tune", "FINISHED", {"family": plan.family, "best": _record(best).to_dict()})
    table = attempt.folder / "trials.parquet"
    with attempt.artifacts.writing(table) as temporary:
        pq.write_table(_table(trials), temporary, compression="zstd")
    study = StudyManifest(
        kind="model",
        study_id=attempt.job_id,
        kit_id=attempt.kit_id,
        seed=plan.seed,
        trials=PublishedFile(**attempt.artifacts.describe(table)),
        plots=(),
    )
    manifest = TuningManifest(
        family=plan.family,
        responses=names,
        folds=plan.folds,
        best=_record(best),
        default=_record(trials[0]),
        hyperparameters={plan.family: best.settings},
        trial_count=len(trials),
        pruned_count=sum(trial.pruned for trial in trials),
        failed_count=sum(bool(trial.failure) for trial in trials),
        rows=int(np.count_nonzero(rows)),
    )
    return {**study.to_dict(), **manifest.to_dict()}


def _scaled(attempt: Attempt, reference: str) -> tuple[Dataset, Scaler]:
    inputs, artifacts = attempt.inputs, attempt.artifacts
    result = find_manifest(reference, "scaled dataset", "scaler", inputs, artifacts)
    scaler_file = ScalerManifest.read(result).scaler
    dataset = TrainingTable.read(result).dataset or _preprocessed(attempt)
    try:
        scaler = artifacts.verified(scaler_file.uri, scaler_file.sha256)
        table = artifacts.verified(dataset.uri, dataset.sha256)
    except ServiceError as error:
        raise JobError(error.message, reason="MISSING_ARTIFACT") from error
    return Dataset.read(table), Scaler.from_dict(json.loads(scaler.read_bytes()))


def _preprocessed(attempt: Attempt) -> PublishedDataset:
    """The dataset of the kit's ML_PREPROCESS job, for a scaler that does not name its own."""
    return PublishedDataset.read(attempt.input("ML_PREPROCESS").result["dataset"])


def _responses(response: str, scaler: Scaler) -> list[str]:
    names = list(scaler.responses)
    violations = Violations()
    if not names:
        violations.add(
            "scaler", "the dataset has no response that varies, so there is nothing to tune"
        )
    elif not response:
        return names
    if response not in names:
        violations.add("response", f"the dataset has no `{response}`{suggest(response, names)}")
    if violations:
        raise InvalidError(
            "; ".join(violation.description for violation in violations),
            violations=list(violations),
        )
    return [response]


def _record(trial: TuningTrial) -> TuningRecord:
    return TuningRecord(number=trial.number, settings=trial.settings, rmse=trial.score)


def _table(trials: list[TuningTrial]) -> pa.Table:
    names = sorted({name for trial in trials for name in trial.settings})
    columns: dict[str, Any] = {
        "number": pa.array([trial.number for trial in trials], pa.int64()),
        "origin": pa.array(["tuned" if trial.number else "default" for trial in trials]),
    }
    for name in names:
        columns[PARAMETER + name] = pa.array([trial.settings.get(name) for trial in trials])
    scores = [trial.score if np.isfinite(trial.score) else None for trial in trials]
    columns["objective"] = pa.array(scores, pa.float64())
    columns["feasible"] = pa.array([not (trial.pruned or trial.failure) for trial in trials])
    failures = [trial.failure or ("PRUNED" if trial.pruned else None) for trial in trials]
    columns["failure"] = pa.array(failures, pa.string())
    return pa.table(columns)
