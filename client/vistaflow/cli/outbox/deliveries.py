"""deliveries, delivery retry."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

import typer

from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.cli.arguments import Project
from vistaflow.cli.connection import answer_of
from vistaflow.cli.lists import Columns, How, Limit, Output, minute, print_list
from vistaflow.cli.output import Address, AsJson, console, print_json, user

COLUMNS: Columns = {
    "delivery": lambda delivery: delivery.delivery_id,
    "state": lambda delivery: _state(delivery),
    "to": lambda delivery: delivery.target,
    "event": lambda delivery: delivery.event_type,
    "project": lambda delivery: delivery.project,
    "tries": lambda delivery: delivery.attempt_count,
    "created": lambda delivery: minute(delivery.created_at.ToDatetime(UTC)),
    "error": lambda delivery: delivery.error,
}

app = typer.Typer(help="Look after events that are sent to other programs.", no_args_is_help=True)


def deliveries(
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait.")] = False,
    to: Annotated[str, typer.Option(help="Only those to this webhook, or openlineage.")] = "",
    limit: Limit = 30,
    output: How = Output.TABLE,
) -> None:
    """List events that were sent to other programs, or wait to be, newest first.

    For example: vistaflow deliveries --dead
    """
    state = "dead" if dead else "pending" if pending else ""
    listed = answer_of(
        address,
        lambda client: client.deliveries(project=project, state=state, target=to, limit=limit),
    )
    print_list(listed, COLUMNS, Output.JSON if as_json else output)


@app.command()
def retry(
    delivery_id: Annotated[int, typer.Argument(help="The delivery.", metavar="DELIVERY")],
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Send an event again that was given up, under the same id.

    For example: vistaflow delivery retry 17
    """
    delivery = answer_of(address, lambda client: client.retry_delivery(delivery_id, actor=user()))
    if as_json:
        print_json(delivery)
    else:
        console.print(f"delivery {delivery.delivery_id} is {_state(delivery)}", markup=False)


def _state(delivery: Any) -> str:
    return outbox_pb2.DeliveryState.Name(delivery.state).removeprefix("DELIVERY_STATE_")
