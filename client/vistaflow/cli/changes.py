"""pause, resume, diff, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from vistaflow.cli.arguments import (
    KitId,
    Labels,
    Project,
    Statuses,
    Types,
    labels_of,
    statuses_of,
    types_of,
)
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.kits import Reason
from vistaflow.cli.live import tree
from vistaflow.cli.output import (
    STYLES,
    USAGE,
    Address,
    AsJson,
    console,
    print_json,
    stop,
    user,
)
from vistaflow.models import Kit, KitDiff, ManyJobs, State

SomeKit = Annotated[
    int, typer.Argument(help="The kit; leave it out to choose by filter.", metavar="KIT", min=0)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell how many jobs that would be.")]


def pause(kit: KitId, address: Address = "", reason: Reason = "", as_json: AsJson = False) -> None:
    """Hold a kit back: no more of its jobs are started; what runs goes on to its end.

    For example: vistaflow pause 7 --reason "the licence server is down"
    """
    _change("pause_kit", kit, address, reason, as_json)


def resume(kit: KitId, address: Address = "", reason: Reason = "", as_json: AsJson = False) -> None:
    """Go on with a paused kit.

    For example: vistaflow resume 7
    """
    _change("resume_kit", kit, address, reason, as_json)


def diff(
    kit: KitId,
    first: Annotated[
        int,
        typer.Argument(help="The earlier revision; 0: before there was a kit.", min=0),
    ] = 0,
    last: Annotated[int, typer.Argument(help="The later revision; 0: now.", min=0)] = 0,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Show what changed in a kit between two revisions.

    For example: vistaflow diff 7 120 180; vistaflow diff 7 120 for what changed since
    """

    async def question(client: CommandClient) -> tuple[KitDiff, dict[str, str]]:
        names = {job.job_id: job.name for job in (await client.kit(kit)).jobs}
        return await client.diff_kit(kit, first, last), names

    difference, names = answer_of(address, question)
    if as_json:
        print_json(difference)
        return
    console.print(
        f"kit {kit}: {difference.from_status or 'not there'} "
        f"at revision {difference.from_revision}, "
        f"{difference.to_status} at {difference.to_revision}"
    )
    table = Table.grid(padding=(0, 2))
    for change in difference.changes:
        row = change.after or change.before
        assert row is not None
        table.add_row(
            f"{row.revision:>8}",
            _what(row, names),
            _status(change.before),
            "→",
            _status(change.after),
        )
    console.print(table)


def cancel(
    kit: SomeKit = 0,
    address: Address = "",
    reason: Reason = "",
    as_json: AsJson = False,
    status: Statuses = None,
    type_: Types = None,
    label: Labels = None,
    project: Project = "",
    dry_run: DryRun = False,
) -> None:
    """Cancel a kit, or every job that a filter selects: running work is stopped within seconds.

    For example: vistaflow cancel 7; vistaflow cancel --label owner=ana --status queued --dry-run
    """
    criteria = _criteria(kit, status, type_, label, project)
    _change_chosen("cancel", "canceled", criteria, address, reason, as_json, dry_run)


def retry(
    kit: SomeKit = 0,
    address: Address = "",
    reason: Reason = "",
    as_json: AsJson = False,
    status: Statuses = None,
    type_: Types = None,
    label: Labels = None,
    project: Project = "",
    dry_run: DryRun = False,
    deck: Annotated[
        str,
        typer.Option(
            help="Continue with this deck: a folder, an archive, a name or an id.", metavar="FOLDER"
        ),
    ] = "",
) -> None:
    """Go on from failed or canceled jobs, of a kit or by a filter; what was computed is reused.

    With a corrected deck, jobs that depend on it run again; points that are still valid do not.
    A kit that has collected no deck is planned again as a new kit.

    For example: vistaflow retry 7; vistaflow retry 7 --deck ./filter; vistaflow retry --type
    ML_TRAIN --project photonics
    """
    criteria = _criteria(kit, status, type_, label, project)
    if deck:
        if criteria.keys() != {"kit_ids"} or dry_run:
            stop("--deck goes with a kit alone, as in `vistaflow retry 7 --deck ./filter`", USAGE)
        _change("retry_kit", kit, address, reason, as_json, deck=deck)
        return
    _change_chosen("retry", "queued again", criteria, address, reason, as_json, dry_run)


def _criteria(
    kit: int,
    statuses: list[str] | None,
    types: list[str] | None,
    labels: list[str] | None,
    project: str,
) -> dict[str, Any]:
    """The fields of the filter that are not empty."""
    values = {
        "kit_ids": [kit] if kit else [],
        "statuses": statuses_of(statuses),
        "job_types": types_of(types),
        "kit_labels": labels_of(labels),
        "project": project,
    }
    criteria = {name: value for name, value in values.items() if value}
    if not criteria:
        stop("give a kit, or some of --status, --type, --label, --project", USAGE)
    return criteria


def _change(
    method: str, kit: int, address: str, reason: str, as_json: bool, **options: str
) -> None:
    changed: Kit = answer_of(
        address, lambda client: getattr(client, method)(kit, reason=reason, actor=user(), **options)
    )
    if as_json:
        print_json(changed)
        return
    if changed.kit_id != kit:
        console.print(f"kit {kit} has collected no deck: kit {changed.kit_id} takes its place")
    console.print(tree(changed))


def _change_chosen(
    verb: str,
    what: str,
    criteria: dict[str, Any],
    address: str,
    reason: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Changes a kit as a whole if it alone was given, else the jobs that the filter selects."""
    if criteria.keys() == {"kit_ids"} and not dry_run:
        _change(f"{verb}_kit", criteria["kit_ids"][0], address, reason, as_json)
        return
    changed: ManyJobs = answer_of(
        address,
        lambda client: getattr(client, f"{verb}_jobs")(
            **criteria, dry_run=dry_run, reason=reason, actor=user()
        ),
    )
    if as_json:
        print_json(changed)
        return
    jobs, are = ("job", "is") if changed.count == 1 else ("jobs", "are")
    console.print(f"{changed.count} {jobs} {'would be' if dry_run else are} {what}")
    for job in changed.jobs:
        console.print(f"  kit {job.kit_id} {job.name} {job.status}", markup=False)
    if changed.count > len(changed.jobs):
        console.print(f"  and {changed.count - len(changed.jobs)} more")


def _what(row: State, names: dict[str, str]) -> str:
    name = names.get(row.job_id, "kit")
    return f"{name}/{row.task_name}" if row.task_name else name


def _status(row: State | None) -> str:
    if row is None:
        return "[dim]none[/]"
    again = f" (attempt {row.attempt})" if row.attempt > 1 else ""
    return f"[{STYLES.get(row.status, '')}]{row.status}[/]{again}"
