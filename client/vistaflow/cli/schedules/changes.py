"""schedule create, update, pause, resume, run, delete."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow.cli.connection import answer_of
from vistaflow.cli.kits import kit_file
from vistaflow.cli.output import USAGE, Address, AsJson, console, print_json, stop, user
from vistaflow.cli.schedules import lists
from vistaflow.cli.schedules.lists import Name, Project
from vistaflow.cli.schedules.times import next_text, span_of

app = typer.Typer(help="Run kits again and again.", no_args_is_help=True)


class Overlap(StrEnum):
    """What happens at a fire while the kit of an earlier one is at work."""

    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    ALLOW = "allow"


Cron = Annotated[
    str,
    typer.Option(
        help="When it fires: minute, hour, day, month, day of the week (0 is Sunday); or @daily.",
        metavar="EXPRESSION",
    ),
]
Zone = Annotated[
    str, typer.Option("--zone", help="Time zone of --cron; UTC if left out.", metavar="ZONE")
]
Every = Annotated[
    str, typer.Option(help="In place of --cron: an interval such as 30m or 6h.", metavar="SPAN")
]
Policy = Annotated[
    Overlap | None, typer.Option(help="What a fire does while an earlier kit is at work.")
]
CatchUp = Annotated[
    str,
    typer.Option(help="How late a fire may be made after an outage; 1d.", metavar="SPAN"),
]
Note = Annotated[str, typer.Option(help="A note for people, such as why it is paused.")]


Notify = Annotated[
    list[str] | None,
    typer.Option(
        help="A webhook that gets the ends of its kits and fires without a kit; after a colon some "
        "of finished, failed, canceled, overdue. May be repeated.",
        metavar="WEBHOOK[:EVENT,…]",
    ),
]


@app.command()
def create(
    name: Name,
    kit: Annotated[
        Path | None, typer.Argument(help="The kit.yaml; or --backup, --cleanup, --repair.")
    ] = None,
    backup: Annotated[
        list[str] | None,
        typer.Option(help="Back up to this target; may be repeated.", metavar="TARGET"),
    ] = None,
    keep: Annotated[int, typer.Option(help="With --backup: backups that a target keeps.")] = 3,
    cleanup: Annotated[
        int | None, typer.Option(help="Remove what is older and not needed.", metavar="DAYS")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Restore missing copies in the stores.")
    ] = False,
    cron: Cron = "",
    zone: Zone = "",
    every: Every = "",
    overlap: Policy = None,
    catch_up: CatchUp = "",
    note: Note = "",
    paused: Annotated[bool, typer.Option("--paused", help="Begin paused.")] = False,
    notify: Notify = None,
    project: Project = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Create a schedule: each fire makes one kit of a kit.yaml. The deck is pinned.

    Administrators also schedule backups, clean-ups and repairs, in the project "system".

    For example: vistaflow schedule create nightly kit.yaml --cron "0 2 * * 1-5" --zone Asia/Seoul
    """
    jobs: dict[str, Any] = {}
    if backup:
        jobs["backup"] = {"targets": backup, "keep": keep}
    if cleanup is not None:
        jobs["cleanup"] = {"days": cleanup}
    if repair:
        jobs["repair"] = {}
    if len(jobs) + (kit is not None) != 1:
        stop("give one of KIT, --backup, --cleanup and --repair", USAGE)
    file = kit_file(kit) if kit is not None else None
    options = _options(cron, zone, every, overlap, catch_up)
    schedule = answer_of(
        address,
        lambda client: client.create_schedule(
            name,
            file,
            **options,
            note=note,
            notify=_notified(notify),
            system_job=jobs or None,
            paused=paused,
            project=project,
            actor=user(),
        ),
    )
    _tell(schedule, as_json)


@app.command()
def update(
    name: Name,
    kit: Annotated[
        Path | None, typer.Option("--kit", help="The kit of later fires.", metavar="KIT.yaml")
    ] = None,
    cron: Cron = "",
    zone: Zone = "",
    every: Every = "",
    overlap: Policy = None,
    catch_up: CatchUp = "",
    note: Annotated[str | None, typer.Option(help="Replaces the note.")] = None,
    notify: Notify = None,
    project: Project = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Change what is given of a schedule; the rest stays.

    For example: vistaflow schedule update nightly --cron "30 3 * * *" --zone Asia/Seoul
    """
    file = kit_file(kit) if kit is not None else None
    options = _options(cron, zone, every, overlap, catch_up)
    schedule = answer_of(
        address,
        lambda client: client.update_schedule(
            name,
            kit=file,
            **options,
            note=note,
            notify=_notified(notify) if notify else None,
            project=project,
            actor=user(),
        ),
    )
    _tell(schedule, as_json)


@app.command()
def pause(
    name: Name,
    note: Note = "",
    project: Project = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Pause a schedule: it does not fire. Its kits go on.

    For example: vistaflow schedule pause nightly --note "the site is down"
    """
    schedule = answer_of(
        address,
        lambda client: client.pause_schedule(name, note=note, project=project, actor=user()),
    )
    _tell(schedule, as_json)


@app.command()
def resume(
    name: Name,
    note: Note = "",
    project: Project = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Resume a schedule. What it did not fire while it was paused is not caught up.

    For example: vistaflow schedule resume nightly
    """
    schedule = answer_of(
        address,
        lambda client: client.resume_schedule(name, note=note, project=project, actor=user()),
    )
    _tell(schedule, as_json)


@app.command()
def run(name: Name, project: Project = "", address: Address = "", as_json: AsJson = False) -> None:
    """Make a kit of a schedule now, also while it is paused or a kit is at work.

    For example: vistaflow schedule run nightly
    """
    fire = answer_of(
        address, lambda client: client.run_schedule(name, project=project, actor=user())
    )
    if as_json:
        print_json(fire)
    elif fire.kit_id:
        console.print(
            f"kit {fire.kit_id} is started; follow it with `vistaflow watch {fire.kit_id}`"
        )
    else:
        console.print(f"no kit was made: {fire.reason}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def delete(name: Name, project: Project = "", address: Address = "") -> None:
    """Delete a schedule with the record of its fires. Its kits stay.

    For example: vistaflow schedule delete nightly
    """
    answer_of(address, lambda client: client.delete_schedule(name, project=project, actor=user()))
    console.print(f"{name} is deleted", markup=False)


app.command("list")(lists.list_)
app.command("show")(lists.show)
app.command("next")(lists.next_)


def _options(
    cron: str, zone: str, every: str, overlap: Overlap | None, catch_up: str
) -> dict[str, Any]:
    return {
        "cron": cron,
        "time_zone": zone,
        "interval": span_of("--every", every),
        "overlap": overlap.value if overlap else "",
        "catch_up": span_of("--catch-up", catch_up),
    }


def _notified(options: list[str] | None) -> dict[str, list[str]]:
    """Events by webhook."""
    pairs = (option.partition(":") for option in options or ())
    return {name: list(filter(None, events.split(","))) for name, _, events in pairs}


def _tell(schedule: schedules_pb2.Schedule, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
        return
    fires = next_text(schedule)
    text = (
        f"{schedule.name} is paused"
        if schedule.paused
        else f"{schedule.name} fires next on {fires}"
    )
    console.print(text, markup=False, soft_wrap=True)
