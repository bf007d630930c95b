"""schedule list, show, next."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow.cli.arguments import Project as OfProject
from vistaflow.cli.connection import answer_of
from vistaflow.cli.lists import Columns, How, Output, print_list
from vistaflow.cli.output import Address, AsJson, console, print_json
from vistaflow.cli.schedules.times import next_text, time_text, timing_text

Project = Annotated[str, typer.Option("--project", help="The project of the schedule.")]
Name = Annotated[str, typer.Argument(help="The schedule.", metavar="NAME")]

COLUMNS: Columns = {
    "schedule": lambda schedule: schedule.name,
    "project": lambda schedule: schedule.project,
    "fires": lambda schedule: timing_text(schedule.timing),
    "next": next_text,
    "last": lambda schedule: _fire_text(schedule.last_fire) if schedule.last_fire.state else "",
    "name": lambda schedule: schedule.kit_name,
}


def list_(
    address: Address = "",
    as_json: AsJson = False,
    project: OfProject = "",
    output: How = Output.TABLE,
) -> None:
    """List schedules, oldest first.

    For example: vistaflow schedule list --project photonics -o csv
    """
    listed = answer_of(address, lambda client: client.schedules(project=project))
    print_list(listed, COLUMNS, Output.JSON if as_json else output)


def show(
    name: Name,
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    fires: Annotated[int, typer.Option(help="How many fires to show.", min=0, max=1000)] = 10,
) -> None:
    """Show a schedule: when it fires, and what became of its latest fires.

    For example: vistaflow schedule show nightly --fires 30
    """
    answer = answer_of(
        address, lambda client: client.schedule(name, project=project, fires=fires, next_times=1)
    )
    if as_json:
        print_json(answer)
        return
    schedule = answer.schedule
    for label, text in (
        ("schedule", f"{schedule.name} of project {schedule.project}"),
        ("fires", timing_text(schedule.timing)),
        ("next", next_text(schedule)),
        ("note", schedule.note),
        ("overlap", schedules_pb2.Overlap.Name(schedule.overlap).removeprefix("OVERLAP_").lower()),
        ("catch-up", str(schedule.catch_up_window.ToTimedelta())),
        ("kit", schedule.kit_name),
        ("notifies", ", ".join(map(_notify_text, schedule.notify))),
        (
            "changed",
            f"{time_text(schedule.updated_at, schedule.timing)} by {schedule.actor or '?'}",
        ),
    ):
        if text:
            console.print(f"{label:9} {text}", markup=False, soft_wrap=True)
    print_list(answer.fires, _fire_columns(answer), Output.TABLE)


def next_(
    name: Name,
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    count: Annotated[int, typer.Option("--count", "-n", help="How many.", min=1, max=100)] = 5,
) -> None:
    """Print the next times at which a schedule fires, in its time zone.

    For example: vistaflow schedule next nightly -n 10
    """
    answer = answer_of(
        address, lambda client: client.schedule(name, project=project, fires=0, next_times=count)
    )
    if as_json:
        for time in answer.next_times:
            print_json(time.ToJsonString())
        return
    if answer.schedule.paused:
        console.print(f"{name} is paused: {answer.schedule.note}", markup=False, soft_wrap=True)
    for time in answer.next_times:
        console.print(time_text(time, answer.schedule.timing), markup=False)


def _notify_text(notify: outbox_pb2.Notify) -> str:
    events = ", ".join(notify.events).lower() or "everything"
    return f"{notify.webhook} ({events})"


def _fire_columns(answer: pipeline_pb2.GetScheduleResponse) -> Columns:
    timing = answer.schedule.timing
    return {
        "time": lambda fire: time_text(fire.fire_time, timing),
        "fire": _fire_text,
        "reason": lambda fire: fire.reason,
    }


def _fire_text(fire: Any) -> str:
    state = schedules_pb2.FireState.Name(fire.state).removeprefix("FIRE_STATE_")
    if not fire.kit_id:
        return state
    status = common_pb2.Status.Name(fire.kit_status).removeprefix("STATUS_")
    return f"kit {fire.kit_id} {status}{' by hand' if fire.manual else ''}"
