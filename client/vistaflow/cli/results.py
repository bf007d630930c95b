"""The table a finished kit ends with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vistaflow.aio.client import AsyncClient
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.live import clock
from vistaflow.cli.output import number
from vistaflow.models import Kit, struct_dict


async def study_of(client: AsyncClient, kit: Kit) -> optimize_pb2.Study | None:
    """The latest study of a finished kit; none if it has no optimisation."""
    for job in reversed(kit.jobs):
        if job.job_type == "OPTIMIZE" and job.status == "FINISHED":
            return await client.study(job.job_id)
    return None


def result_table(kit: Kit, study: optimize_pb2.Study) -> RenderableType:
    """Best point with units, predicted against simulated, constraints, what it cost."""
    units = kit.spec.get("units", {})
    best = struct_dict(study.best.parameters)
    parameters = Table(box=box.SIMPLE_HEAD)
    parameters.add_column("parameter")
    parameters.add_column("value", justify="right")
    parameters.add_column("unit")
    for name in _in_order(kit, best):
        parameters.add_row(name, number(best[name]), units.get(name, ""))
    parts: list[RenderableType] = [
        Text(f"best point, {_proof(study)}", style="bold"),
        parameters,
    ]
    if study.comparisons:
        parts += [Text("predicted against simulated", style="bold"), _comparison(study)]
    if study.constraints:
        parts += [Text("constraints", style="bold"), _constraints(study)]
    parts.append(Text(_summary(kit, study)))
    return Group(*parts)


def result_dict(kit: Kit, study: optimize_pb2.Study) -> dict[str, Any]:
    """The same for programs."""
    return {
        "kit_id": kit.kit_id,
        "status": kit.status,
        "study_id": study.study_id,
        "feasible": study.best.feasible,
        "objective": study.best.objective if study.best.HasField("objective") else None,
        "best": struct_dict(study.best.parameters),
        "simulated": dict(study.best.responses),
        "predicted": {
            each.response.name: {
                "mean": each.predicted.mean,
                "standard_deviation": each.predicted.standard_deviation,
            }
            for each in study.comparisons
        },
        "noise": {each.response.name: each.noise for each in study.comparisons if each.noise},
        "verifying_runs": max((each.run_count for each in study.comparisons), default=1),
        "constraints": {each.text: each.met for each in study.constraints},
        "missed_by": {
            each.text: {
                "amount": each.miss if math.isfinite(each.miss) else None,
                "unit": each.unit,
            }
            for each in study.constraints
            if not each.met
        },
        "design_best_objective": (
            study.design_best.objective if study.design_best.HasField("objective") else None
        ),
        "evaluations": study.evaluation_count,
        "simulated_count": study.simulated_count,
        "stop_reason": study.stop_reason,
        "notes": list(study.notes),
    }


def pictures(kit: Kit) -> list[Path]:
    """The pictures of a kit that are on this machine."""
    found: list[Path] = []
    try:
        home = Path(os.environ.get("VISTAFLOW_HOME") or "~/.vistaflow").expanduser()
    except RuntimeError:  # a user without a home folder has none there
        return found
    for job in kit.jobs:
        for plot in job.result.get("plots", ()):
            path = home / "artifacts" / str(plot.get("uri", "")).removeprefix("artifact://")
            if path.is_file():
                found.append(path)
    return found


def _in_order(kit: Kit, names: Iterable[str]) -> list[str]:
    """The parameters in their deck's order, which a Struct does not keep."""
    for job in reversed(kit.jobs):
        space = job.result.get("space")
        if isinstance(space, dict):
            order = [each["name"] for each in space.get("parameters", ())]
            return sorted(names, key=lambda name: order.index(name) if name in order else 0)
    return sorted(names)


def _proof(study: optimize_pb2.Study) -> str:
    runs = max((each.run_count for each in study.comparisons), default=1)
    if runs > 1:
        return f"by the mean of {runs} verifying runs"
    return "verified by the simulator" if runs else "not verified by a run"


def _comparison(study: optimize_pb2.Study) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("response")
    noisy = any(each.noise for each in study.comparisons)
    for name in ("predicted", "± 1 sd", "simulated", *(["± noise"] if noisy else [])):
        table.add_column(name, justify="right")
    table.add_column("unit")
    for each in study.comparisons:
        table.add_row(
            each.response.name,
            number(each.predicted.mean),
            number(each.predicted.standard_deviation),
            number(each.simulated),
            *([number(each.noise)] if noisy else []),
            each.response.unit,
        )
    return table


def _constraints(study: optimize_pb2.Study) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("constraint")
    table.add_column("value", justify="right")
    table.add_column("")
    for each in study.constraints:
        mark = (
            Text("✔ met", style="green")
            if each.met
            else Text(f"✘ missed by {_miss(each)}", style="red")
        )
        table.add_row(each.text, number(each.value), mark)
    return table


def _miss(constraint: optimize_pb2.ConstraintResult) -> str:
    if not math.isfinite(constraint.miss):
        return "an undefined amount"
    return f"{number(constraint.miss)} {constraint.unit}".rstrip()


def _summary(kit: Kit, study: optimize_pb2.Study) -> str:
    lines = []
    noisy = any(each.noise for each in study.comparisons)
    if study.best.HasField("objective"):
        reading = "best reading" if noisy else "best"
        before = (
            f"; the design's {reading} was {number(study.design_best.objective)}"
            if study.design_best.HasField("objective")
            else "; no point of the design met the constraints"
        )
        goal = study.goals.replace("\n", ";").split(";")[0].strip()
        lines.append(f"{goal}: {number(study.best.objective)}{before}")
    if not study.best.feasible:
        missed = [f"{each.text} by {_miss(each)}" for each in study.constraints if not each.met]
        told = f": it misses {', '.join(missed)}" if missed else ""
        lines.append(f"No point meets every constraint; this one misses them least{told}.")
    lines += study.notes
    taken = (kit.updated_at - kit.created_at) if kit.updated_at and kit.created_at else None
    lines.append(
        f"cost: {study.evaluation_count} points, {study.simulated_count} runs for the "
        f"optimisation, {study.cached_count} found in the store, {study.failed_count} failed;\n"
        f"{clock(taken)} in all; ended by {study.stop_reason or 'its budget'}"
    )
    return "\n".join(lines)
