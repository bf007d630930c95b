"""The table a finished kit ends with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vistaflow._machine.local import home_of
from vistaflow.aio.client import AsyncClient
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.live import clock
from vistaflow.cli.output import number
from vistaflow.errors import VistaError
from vistaflow.models import Job, Kit, struct_dict

WORDS: Final = ("failure", "message", "log")
"""What rows of failed points say beside their parameters."""

LOG_LINES: Final = 4
"""Lines of the end of what a failed run printed that are shown at once."""

REASONS: Final = 3
"""Reasons of failed points that are shown at once: a failed kit is one screen of 24 rows."""

MAX_PICTURES: Final = 50
"""Pictures of a kit that are copied to this machine."""


async def study_of(client: AsyncClient, kit: Kit) -> optimize_pb2.Study | None:
    """The latest study of a finished kit; none if it has no optimisation."""
    for job in reversed(kit.jobs):
        if job.job_type == "OPTIMIZE" and job.status == "FINISHED":
            return (await client.study(job.job_id)).pb
    return None


def result_table(kit: Kit, study: optimize_pb2.Study) -> RenderableType:
    """Best point with units, predicted against simulated, constraints, what it cost."""
    units = kit.spec.get("units", {})
    best = struct_dict(study.best.parameters)
    parameters = Table(box=box.SIMPLE_HEAD)
    parameters.add_column("parameter")
    parameters.add_column("value", justify="right")
    parameters.add_column("unit")
    bounds = {bound.name: bound.end for bound in study.at_bounds}
    if bounds:
        parameters.add_column("")
    for name in _in_order(kit, best):
        end = f"⚠ at its {bounds[name]} end" if name in bounds else ""
        cells = [name, number(best[name]), units.get(name, "")]
        parameters.add_row(*cells, *([Text(end, style="yellow")] if bounds else []))
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
            comparison.response.name: {
                "mean": comparison.predicted.mean,
                "standard_deviation": comparison.predicted.standard_deviation,
            }
            for comparison in study.comparisons
        },
        "noise": {
            comparison.response.name: comparison.noise
            for comparison in study.comparisons
            if comparison.noise
        },
        "verifying_runs": max(
            (comparison.run_count for comparison in study.comparisons), default=1
        ),
        "constraints": {constraint.text: constraint.met for constraint in study.constraints},
        "missed_by": {
            constraint.text: {
                "amount": constraint.miss if math.isfinite(constraint.miss) else None,
                "unit": constraint.unit,
            }
            for constraint in study.constraints
            if not constraint.met
        },
        "margins": {constraint.text: constraint.margin for constraint in study.constraints},
        "active": [constraint.text for constraint in study.constraints if constraint.active],
        "at_bounds": {bound.name: bound.end for bound in study.at_bounds},
        "models": {
            name: {"r2": figures.r2, "coverage95": figures.coverage95, "rows": figures.rows}
            | {"doubts": None if figures.doubts is None else list(figures.doubts)}
            for name, figures in held_out(kit).items()
        },
        "design_best_objective": (
            study.design_best.objective if study.design_best.HasField("objective") else None
        ),
        "evaluations": study.evaluation_count,
        "simulated_count": study.simulated_count,
        "stop_reason": study.stop_reason,
        "notes": list(study.notes),
    }


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How good the model of a response is on rows of the design that it was not trained on."""

    r2: float
    coverage95: float
    """The part of the rows that the 95 % intervals hold."""
    rows: int
    doubts: Sequence[str] | None
    """Why it should not be trusted yet; empty if it may be, None if that was not judged."""


def held_out(kit: Kit) -> dict[str, HeldOut]:
    """The figures of each response that the kit's test has measured."""
    metrics: Any = {}
    for job in kit.jobs:
        if job.job_type == "ML_TEST" and job.status == "FINISHED":
            metrics = job.result.get("metrics") or {}
    figures = {}
    for name, measured in metrics.items() if isinstance(metrics, Mapping) else ():
        with suppress(KeyError, TypeError, ValueError):  # the result of a job done elsewhere
            figures[name] = HeldOut(
                r2=float(measured["r2"]),
                coverage95=float(measured["coverage95"]),
                rows=int(measured["rows"]),
                # Earlier releases published none.
                doubts=measured.get("doubts"),
            )
    return figures


def held_out_table(kit: Kit) -> RenderableType | None:
    """The figures of the models; None if no row was held out."""
    figures = held_out(kit)
    if not figures:
        return None
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("response")
    for name in ("R²", "in 95 %", "rows"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, one in figures.items():
        verdict = Text("✔" if one.doubts is not None else "", style="green")
        if one.doubts:
            verdict = Text(f"⚠ {', '.join(one.doubts)}", style="yellow")
        table.add_row(
            name,
            f"{one.r2:.3f}",
            f"{one.coverage95:.0%}",
            str(one.rows),
            verdict,
        )
    title = Text("models of the design on rows held out", style="bold")
    return Group(title, table)


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The failed points of a kit's design, and why."""

    count: int
    reasons: Sequence[Mapping[str, Any]]
    """`count`, `failure`, `message` and `row_id`, the most common first."""

    rows: Sequence[Mapping[str, Any]]
    """The failed points that are known; those of a failed job may be a part of them."""

    summary: str = ""
    """Of a failed job: how many failed, and what is allowed."""

    hint: str = ""
    """Of a failed job: what usually helps."""


def design_job(kit: Kit) -> Job | None:
    """The kit's job that ran its design."""
    return next((job for job in reversed(kit.jobs) if job.job_type == "DOE"), None)


def taken_text(kit: Kit) -> str:
    """What a kit goes on from: the kit that it extends, and its known points by origin."""
    job = design_job(kit)
    origins: Any = job.result.get("origins") or () if job else ()
    parts = [f"extends kit {kit.spec['extends']}"] if kit.spec.get("extends") else []
    parts += [f"{one['count']} points of {one['origin']}" for one in origins]
    return "; ".join(parts)


async def failures_of(client: AsyncClient, kit: Kit, *, rows: bool = False) -> Failures | None:
    """The failed points of a kit; None if there are none.

    Args:
        client: The client.
        kit: The kit.
        rows: Whether all failed points of a finished design are read.
    """
    job = design_job(kit)
    if job is None or job.status not in ("FINISHED", "FAILED"):
        return None
    if job.status == "FINISHED":
        count = int(job.result.get("failed_count") or 0)
        failed = []
        if rows and count:
            failed = [row for row in await client.design_rows(job.job_id) if row["failure"]]
        failures = Failures(count=count, reasons=job.result.get("reasons") or (), rows=failed)
        return failures if count else None
    error: Mapping[str, Any] = {}
    async for state in client.states(job_ids=[job.job_id], statuses=["FAILED"]):
        if not state.task_name:
            error = state.metadata.get("error") or {}
    details = error.get("details") or {}
    known = [
        {"row_id": row["row_id"], **row["parameters"], **{key: row[key] for key in WORDS}}
        for row in details.get("failed_rows") or ()
    ]
    count = int(details.get("failed_count") or 0)
    if not count:
        return None
    return Failures(
        count=count,
        reasons=details.get("reasons") or (),
        rows=known,
        summary=str(details.get("summary") or ""),
        hint=str(error.get("hint") or ""),
    )


def failures_text(kit: Kit, failures: Failures, *, log: bool = True, width: int = 0) -> str:
    """Why points failed, grouped; how to look at one; the end of what the first printed.

    Args:
        kit: The kit.
        failures: Its failed points.
        log: Whether to show what a run printed, if all failed for one reason.
        width: Columns to fold the text to; 0 leaves its lines as they are.
    """
    job = design_job(kit)
    total = int(job.result.get("evaluated_count") or 0) if job else 0
    counted = f"{failures.count} {f'of {total} ' if total else ''}points failed"
    lines = folded(f"{failures.summary or counted}:", "", width)
    shown = failures.reasons[:REASONS]
    for reason in shown:
        message = f": {reason['message']}" if reason["message"] else ""
        place = f"such as point {reason['row_id']}"
        text = f"  {reason['count']} × {reason['failure']}{message} ({place})"
        lines += folded(text, "      ", width)
    listed = sum(reason["count"] for reason in shown)
    if listed < failures.count:
        lines.append(f"  {failures.count - listed} × other reasons")
    if shown:
        first = shown[0]["row_id"]
        printed = next((row["log"] for row in failures.rows if row["row_id"] == first), "")
        if log and len(shown) == 1 and printed:
            lines += _end_of(printed, shown[0]["message"], first, width)
        if failures.hint:
            hint = failures.hint.replace("retry KIT", f"retry {kit.kit_id}")
            lines += folded(f"what helps: {hint}", "  ", width)
        lines.append(f"look at one: vistaflow try {kit.kit_id} --point {first}")
    lines.append(f"all of them: vistaflow points {kit.kit_id} --failed")
    return "\n".join(lines)


def _end_of(printed: str, message: str, point: int, width: int) -> list[str]:
    """The last lines of a log, a row each; the last of all is mostly the message itself."""
    noise = ("Traceback (most recent call last):", 'File "<frozen ')
    lines = [
        line for line in printed.splitlines() if line.strip() and not line.strip().startswith(noise)
    ]
    if lines and message.rsplit(" (", 1)[0][-40:] in lines[-1]:
        lines.pop()
    if not lines:
        return []
    rows = [f"  | {line}" for line in lines[-LOG_LINES:]]
    if width:
        rows = [row if len(row) <= width else f"{row[: width - 1]}…" for row in rows]
    return [f"point {point} printed at its end:", *rows]


def folded(text: str, indent: str, width: int) -> list[str]:
    """A text as lines of at most `width` columns, all but the first indented; 0: as it is."""
    if not width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


async def pictures(client: AsyncClient, kit: Kit) -> list[Path]:
    """The pictures of a kit; those that are not on this machine are copied to its home first."""
    files: list[Path] = []
    for job in kit.jobs:
        for plot in job.result.get("plots", ()):
            uri = str(plot.get("uri", ""))
            path = artifact_path(uri)
            if path is not None and not path.is_file() and len(files) < MAX_PICTURES:
                path = await _copied(client, uri)
            if path is not None and path.is_file():
                files.append(path)
    return files


async def _copied(client: AsyncClient, uri: str) -> Path | None:
    """The copy of a picture in the home of this machine; None if there is no such picture."""
    home = artifact_home()
    parts = uri.removeprefix("artifact://").split("/")
    # A result may hold any text; this one names a file to write.
    if home is None or any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    path = home.joinpath("pictures", *parts)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            await client.download(uri, path)
        except (OSError, VistaError):
            return None
    return path


def artifact_home() -> Path | None:
    """`$VISTAFLOW_HOME` or its default; None for a user without a home folder."""
    try:
        return home_of()
    except RuntimeError:
        return None


def artifact_path(uri: str) -> Path | None:
    """Where an artifact would lie on this machine; None if the URI is no artifact's."""
    if not uri.startswith("artifact://"):
        return None
    home = artifact_home()
    return home and home / "artifacts" / uri.removeprefix("artifact://")


def _in_order(kit: Kit, names: Iterable[str]) -> list[str]:
    """The parameters in their deck's order, which a Struct does not keep."""
    for job in reversed(kit.jobs):
        space = job.result.get("space")
        if isinstance(space, dict):
            order = [parameter["name"] for parameter in space.get("parameters", ())]
            return sorted(names, key=lambda name: order.index(name) if name in order else 0)
    return sorted(names)


def _proof(study: optimize_pb2.Study) -> str:
    runs = max((comparison.run_count for comparison in study.comparisons), default=1)
    if runs > 1:
        return f"by the mean of {runs} verifying runs"
    return "verified by the simulator" if runs else "not verified by a run"


def _comparison(study: optimize_pb2.Study) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("response")
    noisy = any(comparison.noise for comparison in study.comparisons)
    for name in ("predicted", "± 1 sd", "simulated", *(["± noise"] if noisy else [])):
        table.add_column(name, justify="right")
    table.add_column("unit")
    for comparison in study.comparisons:
        table.add_row(
            comparison.response.name,
            number(comparison.predicted.mean),
            number(comparison.predicted.standard_deviation),
            number(comparison.simulated),
            *([number(comparison.noise)] if noisy else []),
            comparison.response.unit,
        )
    return table


def _constraints(study: optimize_pb2.Study) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("constraint")
    table.add_column("value", justify="right")
    table.add_column("margin", justify="right")
    table.add_column("unit")
    table.add_column("")
    for constraint in study.constraints:
        mark = (
            Text("✔ met, active" if constraint.active else "✔ met", style="green")
            if constraint.met
            else Text(f"✘ missed by {_miss(constraint)}", style="red")
        )
        distance = number(constraint.margin) if math.isfinite(constraint.margin) else "-"
        table.add_row(constraint.text, number(constraint.value), distance, constraint.unit, mark)
    return table


def _miss(constraint: optimize_pb2.ConstraintResult) -> str:
    if not math.isfinite(constraint.miss):
        return "an undefined amount"
    return f"{number(constraint.miss)} {constraint.unit}".rstrip()


def _summary(kit: Kit, study: optimize_pb2.Study) -> str:
    lines = []
    noisy = any(comparison.noise for comparison in study.comparisons)
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
        missed = [
            f"{constraint.text} by {_miss(constraint)}"
            for constraint in study.constraints
            if not constraint.met
        ]
        shortfall = f": it misses {', '.join(missed)}" if missed else ""
        lines.append(f"No point meets every constraint; this one misses them least{shortfall}.")
    lines += study.notes
    taken = (kit.updated_at - kit.created_at) if kit.updated_at and kit.created_at else None
    lines.append(
        f"cost: {study.evaluation_count} points, {study.simulated_count} runs for the "
        f"optimisation, {study.cached_count} found in the store, {study.failed_count} failed;\n"
        f"{clock(taken)} in all; ended by {study.stop_reason or 'its budget'}"
    )
    return "\n".join(lines)
