"""kits, jobs, states, requests: lists, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vistaflow.cli.arguments import (
    AnyKit,
    JobIds,
    Labels,
    Project,
    Since,
    Statuses,
    Types,
    Until,
    labels_of,
    moment_of,
    statuses_of,
    time_of,
    types_of,
)
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.live import state_line
from vistaflow.cli.output import STYLES, Address, AsJson, console, print_json

T = TypeVar("T")


class Output(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


How = Annotated[Output, typer.Option("--output", "-o", help="How to print the list.")]
Limit = Annotated[int, typer.Option(help="Most of them; 0 for all.", min=0)]

WIDE = 200
"""Characters of a line that no terminal bounds."""

Columns = Mapping[str, Callable[[Any], Any]]

KIT_COLUMNS: Columns = {
    "kit": lambda kit: kit.kit_id,
    "status": lambda kit: kit.status,
    "jobs": lambda kit: f"{kit.job_counts.finished}/{kit.job_counts.total}",
    "project": lambda kit: kit.project,
    "created": lambda kit: minute(kit.created_at),
    "labels": lambda kit: _pairs(kit.labels),
    "name": lambda kit: kit.name,
}
JOB_COLUMNS: Columns = {
    "job": lambda job: job.job_id,
    "kit": lambda job: job.kit_id,
    "name": lambda job: job.name,
    "type": lambda job: job.job_type,
    "status": lambda job: job.status,
    "attempt": lambda job: job.attempt,
    "reason": lambda job: job.reason,
}
STATE_COLUMNS: Columns = {
    "revision": lambda row: row.revision,
    "kit": lambda row: row.kit_id,
    "job": lambda row: row.job_id,
    "type": lambda row: row.job_type,
    "task": lambda row: row.task_name,
    "status": lambda row: row.status,
    "attempt": lambda row: row.attempt,
    "time": lambda row: row.created_at.isoformat() if row.created_at else "",
    "actor": lambda row: row.actor,
    "reason": lambda row: row.reason,
    "metadata": lambda row: json.dumps(row.metadata) if row.metadata else "",
}
REQUEST_COLUMNS: Columns = {
    "number": lambda record: record.number,
    "answered": lambda record: minute(record.answered_at.ToDatetime(UTC)),
    "actor": lambda record: record.actor,
    "method": lambda record: record.method,
    "kit": lambda record: record.kit_id or "",
    "reason": lambda record: dict(record.request).get("reason", ""),
}


def kits(
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    status: Statuses = None,
    label: Labels = None,
    name: Annotated[str, typer.Option(help="Only kits whose name has this in it.")] = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 30,
    output: How = Output.TABLE,
) -> None:
    """List kits, newest first.

    For example: vistaflow kits --status failed --label owner=ana --since 7d -o csv
    """
    criteria: dict[str, Any] = {
        "project": project,
        "statuses": statuses_of(status),
        "labels": labels_of(label),
        "name_contains": name,
        "created_after": time_of("--since", since),
        "created_before": time_of("--until", until),
        "limit": limit,
    }
    listed = answer_of(address, lambda client: collected(client.kits(**criteria)))
    print_list(listed, KIT_COLUMNS, Output.JSON if as_json else output)


def jobs(
    kit: AnyKit = 0,
    address: Address = "",
    as_json: AsJson = False,
    status: Statuses = None,
    type_: Types = None,
    label: Labels = None,
    limit: Limit = 30,
    output: How = Output.TABLE,
) -> None:
    """List jobs, newest first; labels are those of the jobs.

    For example: vistaflow jobs --status running --type DOE
    """
    criteria: dict[str, Any] = {
        "kit_ids": [kit] if kit else [],
        "statuses": statuses_of(status),
        "job_types": types_of(type_),
        "labels": labels_of(label),
        "limit": limit,
    }
    listed = answer_of(address, lambda client: collected(client.jobs(**criteria)))
    print_list(listed, JOB_COLUMNS, Output.JSON if as_json else output)


def states(
    kit: AnyKit = 0,
    address: Address = "",
    as_json: AsJson = False,
    after: Annotated[
        int, typer.Option(help="Only rows after this revision.", min=0, metavar="REV")
    ] = 0,
    as_of: Annotated[
        str, typer.Option(help="Only rows up to this revision or time.", metavar="REV|TIME")
    ] = "",
    status: Statuses = None,
    type_: Types = None,
    job: JobIds = None,
    label: Labels = None,
    project: Project = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 0,
    output: How = Output.TABLE,
) -> None:
    """List the rows of the log in the order of their revisions; labels are those of kits.

    For example: vistaflow states 7 --status failed; vistaflow states --since 1h -o csv
    """
    moment = moment_of("--as-of", as_of)
    before = time_of("--until", until)
    # The registry filters by time only; a revision given by --as-of ends the loop below.
    if isinstance(moment, datetime):
        before = min(moment, before) if before else moment
    criteria: dict[str, Any] = {
        "kit_ids": [kit] if kit else [],
        "job_ids": job or [],
        "statuses": statuses_of(status),
        "job_types": types_of(type_),
        "labels": labels_of(label),
        "project": project,
        "recorded_after": time_of("--since", since),
        "recorded_before": before,
        "after_revision": after,
        "limit": limit,
    }
    how = Output.JSON if as_json else output
    last = moment if isinstance(moment, int) else None

    async def tell(client: CommandClient) -> None:
        # Rows have the ids of jobs. With one kit their names can be shown for one more call.
        names: dict[str, str] = {}
        if kit and how is Output.TABLE:
            names = {job.job_id: job.name for job in (await client.kit(kit)).jobs}
        writer = _csv(STATE_COLUMNS) if how is Output.CSV else None
        # A log may be long: each row is printed as it comes.
        async for row in client.states(**criteria):
            if last is not None and row.revision > last:
                return
            if writer is not None:
                writer.writerow([column(row) for column in STATE_COLUMNS.values()])
            elif how is Output.JSON:
                print_json(row)
            else:
                console.print(state_line(row, names), markup=False, soft_wrap=True)

    answer_of(address, tell)


def requests(
    address: Address = "",
    as_json: AsJson = False,
    actor: Annotated[str, typer.Option(help="Only what this actor asked for.")] = "",
    method: Annotated[str, typer.Option(help="Only calls of this method.", metavar="METHOD")] = "",
    kit: Annotated[int, typer.Option(help="Only what made or changed this kit.", min=0)] = 0,
    since: Since = "",
    until: Until = "",
    limit: Limit = 30,
    output: How = Output.TABLE,
) -> None:
    """List who asked for what, newest first. For administrators.

    For example: vistaflow requests --method CancelKit --since 30d -o csv
    """
    criteria: dict[str, Any] = {
        "actor": actor,
        "method": method,
        "kit_id": kit,
        "answered_after": time_of("--since", since),
        "answered_before": time_of("--until", until),
        "limit": limit,
    }
    listed = answer_of(address, lambda client: client.requests(**criteria))
    print_list(listed, REQUEST_COLUMNS, Output.JSON if as_json else output)


def print_list(items: Iterable[Any], columns: Columns, output: Output) -> None:
    """Prints a list: JSON is one whole value a line, the others have columns."""
    if output is Output.JSON:
        for item in items:
            print_json(item)
        return
    if output is Output.CSV:
        writer = _csv(columns)
        for item in items:
            writer.writerow([column(item) for column in columns.values()])
        return
    table = Table(box=None)
    for name in columns:
        # On a narrow terminal it is what people wrote that is broken, and not numbers and ids.
        broken = name in ("labels", "name", "reason", "description", "source", "aliases")
        table.add_column(name, no_wrap=not broken)
    for item in items:
        cells = {name: str(column(item)) for name, column in columns.items()}
        table.add_row(
            *(
                Text(text, style=STYLES.get(text, "") if name == "status" else "")
                for name, text in cells.items()
            )
        )
    out = console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDE)
    out.print(table)


async def collected(items: AsyncIterator[T]) -> list[T]:
    """The items of a listing."""
    return [item async for item in items]


def _csv(columns: Columns) -> Any:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    return writer


def minute(time: datetime | None) -> str:
    """A time as people read it, in the local zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else ""


def _pairs(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
