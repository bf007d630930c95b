"""run, validate, watch, kits, show, states."""

from __future__ import annotations

import asyncio
import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.dialing import CommandClient
from vistaflow.cli.live import clock, follow, print_rows_of_all, state_line, tree
from vistaflow.cli.output import (
    DETACHED,
    FAILED,
    STYLES,
    USAGE,
    console,
    print_json,
    stop,
    told,
    user,
)
from vistaflow.cli.results import pictures, result_dict, result_table, study_of
from vistaflow.models import Kit

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="VISTAFLOW_REGISTRY",
        help="The registry's address.",
        metavar="HOST:PORT",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line.")]
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
    with told():
        started = asyncio.run(_start(address, kit))
    if detach:
        print_json(started) if as_json else console.print(f"kit {started.kit_id} is started")
        return
    if not as_json:
        console.print(
            f"kit {started.kit_id} is started; watch it elsewhere with "
            f"`vistaflow watch {started.kit_id}`",
            markup=False,
        )
    try:
        with told():
            ended, study = asyncio.run(_follow_to_result(address, started.kit_id, as_json))
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

    async def ask() -> None:
        async with CommandClient(address) as client:
            answer = await client.validate(kit)
        if as_json:
            print_json(answer)
        else:
            for each in answer.warnings:
                console.print(f"warning: {each.field}: {each.description}", markup=False)
            for each in answer.mistakes:
                console.print(f"mistake: {each.field}: {each.description}", markup=False)
            if not answer.mistakes:
                console.print(f"valid; at most {answer.max_simulation_count} simulator runs")
        if answer.mistakes:
            raise typer.Exit(USAGE)

    with told():
        asyncio.run(ask())


def watch(
    kit: Annotated[
        int, typer.Argument(help="The kit; every kit if left out.", metavar="[KIT]")
    ] = 0,
    address: Address = "",
    as_json: AsJson = False,
    forever: Annotated[bool, typer.Option("--forever", help="Go on after it has ended.")] = False,
) -> None:
    """Watch a kit live: its tree, progress, every change; survives restarts of the suite."""

    async def ask() -> Kit | None:
        async with CommandClient(address) as client:
            if not kit:
                await print_rows_of_all(client, as_json=as_json)
                return None
            return await follow(client, kit, as_json=as_json, until_done=not forever)

    with told():
        ended = asyncio.run(ask())
    if ended is not None and ended.status != "FINISHED":
        raise typer.Exit(FAILED)


def kits(
    address: Address = "",
    as_json: AsJson = False,
    project: Annotated[str, typer.Option(help="Only kits of this project.")] = "",
    status: Annotated[
        list[str] | None, typer.Option(help="Only kits in this status; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Most kits; 0 for all.", min=0)] = 30,
) -> None:
    """List kits, newest first."""

    async def ask() -> list[Kit]:
        async with CommandClient(address) as client:
            wanted = client.kits(project=project, statuses=status or (), limit=limit)
            return [each async for each in wanted]

    try:
        with told():
            found = asyncio.run(ask())
    except ValueError:
        stop(f"--status: give some of {', '.join(STYLES)}", USAGE)
    if as_json:
        for each in found:
            print_json(each)
        return
    table = Table(box=None)
    for name in ("kit", "status", "jobs", "project", "created", "name"):
        table.add_column(name)
    for each in found:
        created = each.created_at.astimezone().strftime("%Y-%m-%d %H:%M") if each.created_at else ""
        done = f"{each.job_counts.finished}/{each.job_counts.total}"
        style = STYLES.get(each.status, "")
        table.add_row(
            str(each.kit_id), f"[{style}]{each.status}[/]", done, each.project, created, each.name
        )
    console.print(table)


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
    """Show a kit: its jobs, what they took, and its result."""
    moment = _moment(as_of)

    async def ask() -> tuple[Kit, optimize_pb2.Study | None]:
        async with CommandClient(address) as client:
            found = await client.kit(kit, as_of=moment)
            return found, await study_of(client, found)

    with told():
        found, study = asyncio.run(ask())
    if as_json:
        print_json(found)
        return
    console.print(tree(found))
    _tell_result(found, study, as_json)


def states(
    kit: KitId,
    address: Address = "",
    as_json: AsJson = False,
    after: Annotated[int, typer.Option(help="Only rows after this revision.", min=0)] = 0,
) -> None:
    """List the rows of a kit's log."""

    async def ask() -> None:
        async with CommandClient(address) as client:
            names = {each.job_id: each.name for each in (await client.kit(kit)).jobs}
            async for each in client.states(kit_ids=[kit], after_revision=after):
                if as_json:
                    print_json(each)
                else:
                    console.print(state_line(each, names), markup=False, soft_wrap=True)

    with told():
        asyncio.run(ask())


def _moment(text: str) -> int | datetime | None:
    """A revision, or a time in the local zone unless it names one."""
    if not text:
        return None
    if text.isdecimal() and int(text):
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        stop(f"--as-of: {text!r} is neither a revision nor a time such as 2026-01-31T09:30", USAGE)


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


async def _start(address: str, kit: Path) -> Kit:
    async with CommandClient(address) as client:
        return await client.run(kit, actor=user())


async def _follow_to_result(
    address: str, kit_id: int, as_json: bool
) -> tuple[Kit, optimize_pb2.Study | None]:
    async with CommandClient(address) as client:
        ended = await follow(client, kit_id, as_json=as_json)
        return ended, await study_of(client, ended)


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
                    f"  once mended, go on with: vistaflow retry {kit.kit_id}",
                    markup=False,
                )
