"""run, validate, watch, show."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.dialing import CommandClient, asked
from vistaflow.cli.given import (
    AnyKit,
    JobIds,
    Labels,
    Project,
    Statuses,
    Types,
    labels_of,
    moment_of,
    statuses_of,
    types_of,
)
from vistaflow.cli.live import clock, follow, print_rows_of, tree
from vistaflow.cli.output import (
    DETACHED,
    FAILED,
    USAGE,
    Address,
    AsJson,
    console,
    print_json,
    stop,
    user,
)
from vistaflow.cli.results import pictures, result_dict, result_table, study_of
from vistaflow.models import Kit

KitFile = Annotated[
    Path, typer.Argument(help="A kit.yaml, or the name of a shipped deck.", metavar="KIT.yaml")
]
KitId = Annotated[int, typer.Argument(help="The kit.", metavar="KIT", min=1)]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


def run(
    kit: KitFile,
    address: Address = "",
    as_json: AsJson = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
) -> None:
    """Validate a kit, start it, and follow it to its result.

    Ctrl-C detaches: the kit goes on. Exit codes: 0 finished, 1 failed, 2 mistakes in the kit, 3
    nobody answers, 130 detached.
    """
    kit = _kit_file(kit)
    started = asked(address, lambda client: client.run(kit, actor=user()))
    if detach:
        print_json(started) if as_json else console.print(f"kit {started.kit_id} is started")
        return
    if not as_json:
        console.print(
            f"kit {started.kit_id} is started; watch it elsewhere with "
            f"`vistaflow watch {started.kit_id}`",
            markup=False,
        )

    async def follow_to_result(client: CommandClient) -> tuple[Kit, optimize_pb2.Study | None]:
        ended = await follow(client, started.kit_id, as_json=as_json)
        return ended, await study_of(client, ended)

    try:
        ended, study = asked(address, follow_to_result)
    except typer.Exit as stopped:
        if stopped.exit_code == DETACHED:
            console.print(f"detached; kit {started.kit_id} goes on")
        raise
    _tell_result(ended, study, as_json)
    if ended.status != "FINISHED":
        raise typer.Exit(FAILED)


def validate(
    kit: KitFile,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Find every mistake of a kit without starting it."""
    kit = _kit_file(kit)
    answer = asked(address, lambda client: client.validate(kit))
    if as_json:
        print_json(answer)
    else:
        for each in answer.warnings:
            console.print(
                f"warning: {each.field}: {each.description}", markup=False, soft_wrap=True
            )
        for each in answer.mistakes:
            console.print(
                f"mistake: {each.field}: {each.description}", markup=False, soft_wrap=True
            )
        if not answer.mistakes:
            console.print(f"valid; at most {answer.max_simulation_count} simulator runs")
    if answer.mistakes:
        raise typer.Exit(USAGE)


def watch(
    kit: AnyKit = 0,
    address: Address = "",
    as_json: AsJson = False,
    forever: Annotated[bool, typer.Option("--forever", help="Go on after it has ended.")] = False,
    status: Statuses = None,
    type_: Types = None,
    label: Labels = None,
    project: Project = "",
    job: JobIds = None,
    start: Annotated[
        int | None,
        typer.Option("--from", help="Begin after this revision; 0: all that was.", metavar="REV"),
    ] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Begin with what is now.")] = False,
    latest: Annotated[
        bool, typer.Option("--latest", help="Of rows that wait, only the latest of each task.")
    ] = False,
    left: Annotated[
        bool, typer.Option("--left", help="Tell, too, what leaves the --status given.")
    ] = False,
) -> None:
    """Watch live; survives restarts of the suite. Ctrl-C ends it with exit code 130.

    One KIT alone is shown as a tree, with the progress of its jobs, until it ends. With no kit, or
    any of the options below, every row that is wanted is a line, for ever; Ctrl-C then tells the
    revision to go on --from.

    For example: vistaflow watch 7; vistaflow watch --status failed --label owner=ana --from 0
    """
    wanted: dict[str, Any] = {
        "kit_ids": [kit] if kit else [],
        "job_ids": job or [],
        "statuses": statuses_of(status),
        "job_types": types_of(type_),
        "labels": labels_of(label),
        "project": project,
    }
    picky = any(value for name, value in wanted.items() if name != "kit_ids")
    if snapshot and start is not None:
        stop("--snapshot: leave out --from, or begin with what is now", USAGE)
    if left and not status:
        stop("--left: give the --status whose leaving is to be told", USAGE)
    if kit and not (picky or snapshot or latest or left or start is not None):
        _follow_kit(address, kit, as_json=as_json, forever=forever)
        return
    wanted |= {"mode": "latest" if latest else "every", "include_left": left}
    asked(
        address,
        lambda client: print_rows_of(
            client, wanted, after_revision=start, snapshot=snapshot, as_json=as_json
        ),
    )


def _follow_kit(address: str, kit: int, *, as_json: bool, forever: bool) -> None:
    """Shows a kit until it ends."""
    ended = asked(
        address, lambda client: follow(client, kit, as_json=as_json, until_done=not forever)
    )
    if ended.status != "FINISHED":
        raise typer.Exit(FAILED)


def show(
    kit: KitId,
    address: Address = "",
    as_json: AsJson = False,
    as_of: Annotated[
        str,
        typer.Option(
            help="The kit as it was: a revision, or a time such as 2026-01-31T09:30.",
            metavar="REV|TIME",
        ),
    ] = "",
) -> None:
    """Show a kit: its jobs, what they took, and its result.

    For example: vistaflow show 7; vistaflow show 7 --as-of 2026-01-31T09:30
    """
    moment = moment_of("--as-of", as_of)

    async def ask(client: CommandClient) -> tuple[Kit, optimize_pb2.Study | None]:
        found = await client.kit(kit, as_of=moment)
        return found, await study_of(client, found)

    found, study = asked(address, ask)
    if as_json:
        print_json(found)
        return
    console.print(tree(found))
    _tell_result(found, study, as_json)


def _kit_file(given: Path) -> Path:
    """The file given, or that of a shipped deck where the services are installed here."""
    if given.is_file():
        return given
    services = importlib.util.find_spec("vistaflow_services")
    for folder in (services.submodule_search_locations or ()) if services else ():
        shipped = Path(folder) / "decks" / "shipped" / given / "kit.yaml"
        if shipped.is_file() and given.name == str(given):
            return shipped
    stop(f"{given}: no such file", USAGE)


def _tell_result(kit: Kit, study: optimize_pb2.Study | None, as_json: bool) -> None:
    if study is not None:
        if as_json:
            print_json(result_dict(kit, study))
            return
        console.print(result_table(kit, study))
    if as_json:
        return
    for each in pictures(kit):
        console.print(f"picture: {each}", markup=False, soft_wrap=True)
    if kit.status == "FAILED":
        for job in kit.jobs:
            if job.status == "FAILED":
                console.print(
                    f"{job.name} failed after {clock(job.elapsed)}: {job.reason}\n"
                    f"  its log: vistaflow logs {job.job_id}\n"
                    f"  go on with: vistaflow retry {kit.kit_id}\n"
                    f"  or, in a corrected deck: vistaflow retry {kit.kit_id} --deck FOLDER",
                    markup=False,
                    soft_wrap=True,
                )
