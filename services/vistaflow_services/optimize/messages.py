"""From the manifests and tables of studies to the messages that tell of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.messages import artifact_message
from vistaflow_services.optimize.trials import DEVIATION, MEAN, PARAMETER, RESPONSE, named
from vistaflow_services.search.manifest import (
    ConstraintRecord,
    DesignStudyManifest,
    StudyManifest,
    TrialRecord,
    TuningManifest,
)

ACTIVE = 0.01
"""The part of its sides within which a constraint that is met is active."""

Z95 = 1.959963984540054
"""Half the width of a central 95 % interval, in standard deviations."""


def study_message(study_id: str, result: Mapping[str, Any]) -> pb.Study:
    """The study that an OPTIMIZE job published."""
    manifest = StudyManifest.read(result)
    message = pb.Study(
        study_id=study_id,
        kit_id=int(manifest.kit_id),
        trials=artifact_message("trials.parquet", manifest.trials),
        plots=[artifact_message(plot.name or "", plot) for plot in manifest.plots],
    )
    if manifest.kind == "model":
        _fill_tuning(message, TuningManifest.read(result))
    else:
        _fill_design(message, DesignStudyManifest.read(result))
    return message


def _fill_design(message: pb.Study, manifest: DesignStudyManifest) -> None:
    best, counts = manifest.best, manifest.evaluations
    message.stop_reason = manifest.stop_reason
    message.notes.extend(manifest.notes)
    message.goals = manifest.goals
    message.best.CopyFrom(_trial_of(best))
    if manifest.doe_best is not None and manifest.doe_best.feasible:
        message.design_best.CopyFrom(_trial_of(manifest.doe_best))
    message.comparisons.extend(
        pb.ResponseComparison(
            response=common_pb2.Response(name=response["name"], unit=response["unit"]),
            predicted=_prediction(best.predicted.get(response["name"])),
            simulated=best.simulated.get(response["name"], 0.0),
            noise=best.noise.get(response["name"], 0.0),
            run_count=best.run_count,
        )
        for response in manifest.responses
    )
    message.constraints.extend(
        pb.ConstraintResult(
            text=constraint.text,
            value=_number(constraint.value),
            limit=_number(constraint.limit),
            met=constraint.met,
            miss=_miss(constraint),
            unit=constraint.unit,
            margin=_margin(constraint),
            active=constraint.met and _margin(constraint) <= ACTIVE * _scale(constraint),
        )
        for constraint in best.constraints
    )
    message.at_bounds.extend(pb.ParameterAtBound(**bound) for bound in manifest.at_bounds)
    model = manifest.last_model
    if model is not None:
        message.model_id = model["model_id"]
        message.model_row_count = model["training_rows"]
    message.evaluation_count = counts["total"]
    message.simulated_count = counts["simulated"]
    message.cached_count = counts["cached"]
    message.failed_count = counts["failed"]


def _fill_tuning(message: pb.Study, manifest: TuningManifest) -> None:
    best = manifest.best
    message.stop_reason = "budget"
    message.best.number = best.number
    message.best.origin = "tuned" if best.number else "default"
    message.best.parameters.update(best.settings)
    if best.rmse is None:
        raise ValueError("the best trial has no error")
    message.best.objective = best.rmse
    message.best.feasible = True
    message.goals = f"minimize cross-validated RMSE of {manifest.family}"
    message.hyperparameters.update(manifest.hyperparameters)
    message.evaluation_count = manifest.trial_count
    message.failed_count = manifest.failed_count


def _trial_of(record: TrialRecord) -> pb.Trial:
    trial = pb.Trial(
        number=record.number,
        origin=record.origin,
        responses=record.simulated,
        feasible=record.feasible,
    )
    trial.parameters.update(record.point)
    if record.objective is not None:
        trial.objective = record.objective
    return trial


def _prediction(figures: Mapping[str, float] | None) -> ml_pb2.Prediction | None:
    if figures is None:
        return None
    return _prediction_of(_number(figures["mean"]), _number(figures["sd"]))


def _prediction_of(mean: float, sd: float) -> ml_pb2.Prediction:
    return ml_pb2.Prediction(
        mean=mean, standard_deviation=sd, low95=mean - Z95 * sd, high95=mean + Z95 * sd
    )


def _miss(constraint: ConstraintRecord) -> float:
    """How far a constraint is missed."""
    if constraint.met:
        return 0.0
    miss = constraint.miss
    return math.inf if miss is None or math.isnan(miss) else float(miss)


def _margin(constraint: ConstraintRecord) -> float:
    """How far a side is from its limit; negative if the constraint is missed."""
    if not constraint.met:
        return -_miss(constraint)
    return abs(_number(constraint.limit) - _number(constraint.value))


def _scale(constraint: ConstraintRecord) -> float:
    return max(abs(_number(constraint.limit)), abs(_number(constraint.value)))


def _number(value: float | None) -> float:
    """What JSON has no word for, nan or an infinity, comes back as None."""
    return float("nan") if value is None else float(value)


def trial_message(row: Mapping[str, Any]) -> pb.Trial:
    """A row of `trials.parquet`."""
    trial = pb.Trial(
        number=row["number"],
        origin=row["origin"],
        responses=named(row, RESPONSE),
        feasible=row["feasible"],
        failure=row["failure"] or "",
        message=row.get("message") or "",
        log=row.get("log") or "",
        source=row.get("source") or "",
    )
    trial.parameters.update(named(row, PARAMETER))
    trial.cached = bool(row.get("cached"))
    if row.get("seconds"):
        trial.run_duration.FromTimedelta(timedelta(seconds=row["seconds"]))
    deviations = named(row, DEVIATION)
    for name, mean in named(row, MEAN).items():
        trial.predicted[name].MergeFrom(_prediction_of(mean, deviations[name]))
    if row["objective"] is not None:
        trial.objective = row["objective"]
    return trial
