"""What an OPTIMIZE job does that tunes a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.core.errors import InvalidError, ServiceError, Violations
from vistaflow_services.core.expressions import suggest
from vistaflow_services.core.jobs import Attempt, JobError
from vistaflow_services.optimize import specs
from vistaflow_services.optimize.inputs import find_manifest
from vistaflow_services.optimize.trials import PARAMETER
from vistaflow_services.optimize.tuning import TuningTrial, best_tuning, tune_family
from vistaflow_services.surrogates.dataset import Dataset
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
        told = next((each.failure for each in trials if each.failure), "")
        attempt.task("tune", "FAILED", {"family": plan.family}, reason=told)
        raise JobError(
            f"no setting of {plan.family} could be fitted: {told}",
            reason="ALL_FAILED",
            hint="choose another family or a larger design",
        )
    attempt.task("tune", "FINISHED", {"family": plan.family, "best": _told(best)})
    table = attempt.folder / "trials.parquet"
    with attempt.artifacts.writing(table) as temporary:
        pq.write_table(_table(trials), temporary, compression="zstd")
    return {
        "kind": "model",
        "study_id": attempt.job_id,
        "kit_id": attempt.kit_id,
        "family": plan.family,
        "responses": names,
        "folds": plan.folds,
        "seed": plan.seed,
        "best": _told(best),
        "default": _told(trials[0]),
        "hyperparameters": {plan.family: best.settings},
        "trial_count": len(trials),
        "pruned_count": sum(each.pruned for each in trials),
        "failed_count": sum(bool(each.failure) for each in trials),
        "rows": int(np.count_nonzero(rows)),
        "trials": attempt.artifacts.describe(table),
        "plots": [],
    }


def _scaled(attempt: Attempt, reference: str) -> tuple[Dataset, Scaler]:
    inputs, artifacts = attempt.inputs, attempt.artifacts
    manifest = find_manifest(reference, "scaled dataset", "scaler", inputs, artifacts)
    dataset = manifest.get("dataset") or _preprocessed(attempt)
    try:
        scaler = artifacts.verified(manifest["scaler"]["uri"], manifest["scaler"]["sha256"])
        table = artifacts.verified(dataset["uri"], dataset["sha256"])
    except ServiceError as error:
        raise JobError(error.message, reason="MISSING_ARTIFACT") from error
    return Dataset.read(table), Scaler.from_dict(json.loads(scaler.read_bytes()))


def _preprocessed(attempt: Attempt) -> Mapping[str, Any]:
    found: Mapping[str, Any] = attempt.input("ML_PREPROCESS").result["dataset"]
    return found


def _responses(wanted: str, scaler: Scaler) -> list[str]:
    names = list(scaler.responses)
    found = Violations()
    if not names:
        found.add("scaler", "the dataset has no response that varies, so there is nothing to tune")
    elif not wanted:
        return names
    if wanted not in names:
        found.add("response", f"the dataset has no `{wanted}`{suggest(wanted, names)}")
    if found:
        raise InvalidError("; ".join(each.description for each in found), violations=list(found))
    return [wanted]


def _told(trial: TuningTrial) -> dict[str, Any]:
    return {"number": trial.number, "settings": trial.settings, "rmse": trial.score}


def _table(trials: list[TuningTrial]) -> pa.Table:
    names = sorted({name for each in trials for name in each.settings})
    columns: dict[str, Any] = {
        "number": pa.array([each.number for each in trials], pa.int64()),
        "origin": pa.array(["tuned" if each.number else "default" for each in trials]),
    }
    for name in names:
        columns[PARAMETER + name] = pa.array([each.settings.get(name) for each in trials])
    scores = [each.score if np.isfinite(each.score) else None for each in trials]
    columns["objective"] = pa.array(scores, pa.float64())
    columns["feasible"] = pa.array([not (each.pruned or each.failure) for each in trials])
    failures = [each.failure or ("PRUNED" if each.pruned else None) for each in trials]
    columns["failure"] = pa.array(failures, pa.string())
    return pa.table(columns)
