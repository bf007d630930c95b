"""webhook set, webhook list, webhook delete, webhook test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vistaflow.aio._deliveries import new_webhook_secret
from vistaflow.cli.arguments import Project as OfProject
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.lists import Columns, How, Output, print_list
from vistaflow.cli.output import USAGE, Address, AsJson, console, errors, print_json, stop, user
from vistaflow.errors import InvalidArgumentError

Name = Annotated[str, typer.Argument(help="The webhook.", metavar="NAME")]
Project = Annotated[str, typer.Option("--project", help="The project of the webhook.")]

COLUMNS: Columns = {
    "webhook": lambda webhook: webhook.name,
    "project": lambda webhook: webhook.project,
    "events": lambda webhook: " ".join(webhook.events) or "by notify only",
    "secrets": lambda webhook: webhook.secret_count,
    "url": lambda webhook: webhook.url,
}

app = typer.Typer(help="Have events of a project be sent to other programs.", no_args_is_help=True)


@app.command("set")
def set_(
    name: Name,
    url: Annotated[str, typer.Argument(help="Where events are posted to.", metavar="[URL]")] = "",
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    event: Annotated[
        list[str] | None,
        typer.Option(help="A type of events that it gets, such as kit.failed. May be repeated."),
    ] = None,
    no_events: Annotated[
        bool, typer.Option("--no-events", help="It gets only what kits and schedules name it for.")
    ] = False,
    secret_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file with a secret (whsec_…); two while receivers change to a new one.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Make a webhook, or change it. A new one's secret is made, and printed once.

    For example: vistaflow webhook set ops https://ops.example/hook --event kit.failed
    """
    if event and no_events:
        stop("give --event or --no-events, not both", USAGE)
    try:
        secrets = [file.read_text("ascii").strip() for file in secret_file or ()]
    except (OSError, ValueError) as error:
        stop(f"--secret-file: cannot be read ({type(error).__name__})", USAGE)
    events = list(event) if event else [] if no_events else None

    async def put(client: CommandClient) -> tuple[object, str]:
        options: dict[str, Any] = {"events": events, "project": project, "actor": user()}
        try:
            return await client.set_webhook(name, url, secrets=secrets, **options), ""
        except InvalidArgumentError as error:
            is_new = [violation.field for violation in error.violations] == ["secrets"]
            if secrets or not is_new:
                raise
        secret = new_webhook_secret()
        return await client.set_webhook(name, url, secrets=[secret], **options), secret

    webhook, secret = answer_of(address, put)
    if as_json:
        print_json(webhook)
    else:
        print_list([webhook], COLUMNS, Output.TABLE)
    if secret:
        errors.print("its secret, which receivers check messages with; it is shown only now:")
        (sys.stderr if as_json else sys.stdout).write(f"{secret}\n")


@app.command("list")
def list_(
    address: Address = "",
    as_json: AsJson = False,
    project: OfProject = "",
    output: How = Output.TABLE,
) -> None:
    """List webhooks by project and name, without their secrets.

    For example: vistaflow webhook list -o csv
    """
    webhooks = answer_of(address, lambda client: client.webhooks(project=project))
    print_list(webhooks, COLUMNS, Output.JSON if as_json else output)


@app.command()
def delete(name: Name, address: Address = "", project: Project = "") -> None:
    """Delete a webhook. What waits to be sent to it is given up.

    For example: vistaflow webhook delete ops
    """
    answer_of(address, lambda client: client.delete_webhook(name, project=project, actor=user()))
    console.print(f"webhook {name} is deleted", markup=False)


@app.command("test")
def send_test(
    name: Name, address: Address = "", as_json: AsJson = False, project: Project = ""
) -> None:
    """Send a test event to a webhook; `vistaflow deliveries` shows what became of it.

    For example: vistaflow webhook test ops
    """
    delivery = answer_of(
        address, lambda client: client.test_webhook(name, project=project, actor=user())
    )
    if as_json:
        print_json(delivery)
    else:
        console.print(f"delivery {delivery.delivery_id} will be sent", markup=False)
