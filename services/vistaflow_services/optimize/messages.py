"""From the manifests and tables of studies to the messages that tell of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.messages import artifact_message
from vistaflow_services.optimize.trials import PARAMETER, RESPONSE, named

Z95 = 1.959963984540054
"""Half the width of a central 95 % interval, in standard deviations."""


def study_message(study_id: str, manifest: Mapping[str, Any]) -> pb.Study:
    """The study that an OPTIMIZE job's manifest describes."""
    message = pb.Study(
        study_id=study_id,
        kit_id=int(manifest.get("kit_id", 0)),
        trials=artifact_message("trials.parquet", manifest["trials"]),
        plots=[artifact_message(each["name"], each) for each in manifest["plots"]],
        stop_reason=manifest.get("stop_reason", "budget"),
        notes=manifest.get("notes", ()),
    )
    (_tell_tuning if manifest["kind"] == "model" else _tell_design)(message, manifest)
    return message


def _tell_design(message: pb.Study, manifest: Mapping[str, Any]) -> None:
    best, counts = manifest["best"], manifest["evaluations"]
    message.goals = manifest["goals"]
    message.best.CopyFrom(_best_message(best))
    before = manifest.get("doe_best")
    if before is not None and before["feasible"]:
        message.design_best.CopyFrom(_best_message(before))
    message.comparisons.extend(
        pb.ResponseComparison(
            response=common_pb2.Response(name=each["name"], unit=each["unit"]),
            predicted=_prediction(best["predicted"].get(each["name"])),
            simulated=best["simulated"].get(each["name"], 0.0),
            noise=best.get("noise", {}).get(each["name"], 0.0),
            run_count=best.get("run_count", 1),
        )
        for each in manifest["responses"]
    )
    message.constraints.extend(
        pb.ConstraintResult(
            text=each["text"],
            value=_number(each["value"]),
            limit=_number(each["limit"]),
            met=each["met"],
            miss=_miss(each),
            unit=each.get("unit", ""),
        )
        for each in best["constraints"]
    )
    model = manifest.get("last_model")
    if model is not None:
        message.model_id = model["model_id"]
        message.model_row_count = model["training_rows"]
    message.evaluation_count = counts["total"]
    message.simulated_count = counts["simulated"]
    message.cached_count = counts["cached"]
    message.failed_count = counts["failed"]


def _tell_tuning(message: pb.Study, manifest: Mapping[str, Any]) -> None:
    best = manifest["best"]
    message.best.number = best["number"]
    message.best.origin = "tuned" if best["number"] else "default"
    message.best.parameters.update(best["settings"])
    message.best.objective = best["rmse"]
    message.best.feasible = True
    message.goals = f"minimize cross-validated RMSE of {manifest['family']}"
    message.hyperparameters.update(manifest["hyperparameters"])
    message.evaluation_count = manifest["trial_count"]
    message.failed_count = manifest["failed_count"]


def _best_message(told: Mapping[str, Any]) -> pb.Trial:
    trial = pb.Trial(
        number=told["number"],
        origin=told["origin"],
        responses=told["simulated"],
        feasible=told["feasible"],
    )
    trial.parameters.update(told["point"])
    if told["objective"] is not None:
        trial.objective = told["objective"]
    return trial


def _prediction(told: Mapping[str, float] | None) -> ml_pb2.Prediction | None:
    if told is None:
        return None
    mean, sd = _number(told["mean"]), _number(told["sd"])
    return ml_pb2.Prediction(
        mean=mean, standard_deviation=sd, low95=mean - Z95 * sd, high95=mean + Z95 * sd
    )


def _miss(told: Mapping[str, Any]) -> float:
    """How far a constraint is missed; manifests of version 0.1.0 have the sides only."""
    if told["met"]:
        return 0.0
    miss = told.get("miss", abs(_number(told["value"]) - _number(told["limit"])))
    return math.inf if miss is None or math.isnan(miss) else float(miss)


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
    )
    trial.parameters.update(named(row, PARAMETER))
    if row["objective"] is not None:
        trial.objective = row["objective"]
    return trial
