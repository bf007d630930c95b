"""create, append: kits whose work is done elsewhere, and what their owners report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vistaflow.aio.client import AsyncClient
from vistaflow.cli.dialing import CommandClient, asked
from vistaflow.cli.given import labels_of, number_of, statuses_of, types_of
from vistaflow.cli.live import tree
from vistaflow.cli.output import USAGE, Address, AsJson, console, print_json, stop, user


def create(
    name: Annotated[str, typer.Argument(help="The kit's name, for people.")],
    address: Address = "",
    as_json: AsJson = False,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--job",
            help="An external job of this type, such as DOE; may be repeated.",
            metavar="TYPE",
        ),
    ] = None,
    project: Annotated[str, typer.Option(help="Its project.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A label of it; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the kit's number alone.")
    ] = False,
) -> None:
    """Create a kit of external jobs: no worker takes them, their owner reports their states.

    For example: vistaflow create "bench 4" --job DOE --label owner=ana
    """
    types, labels = types_of(type_), labels_of(label)
    made = asked(
        address,
        lambda client: client.create_kit(name, types, project=project, labels=labels, actor=user()),
    )
    if quiet:
        typer.echo(made.kit_id)
    elif as_json:
        print_json(made)
    else:
        console.print(tree(made))


def append(
    job: Annotated[
        str, typer.Argument(help="The job's id, or KIT/NAME such as 7/doe.", metavar="JOB")
    ],
    status: Annotated[str, typer.Argument(help="The status entered.", metavar="STATUS")],
    address: Address = "",
    as_json: AsJson = False,
    task: Annotated[str, typer.Option(help="The task; the job itself if left out.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    metadata: Annotated[
        str, typer.Option(help="A JSON object to keep with the row.", metavar="JSON")
    ] = "",
) -> None:
    """Report one state of an external job; prints the revision of its row.

    For example: vistaflow append 7/doe RUNNING --task simulate --metadata '{"point": 3}'
    """
    (word,) = statuses_of([status], "STATUS")
    kept = _object(metadata)

    async def ask(client: CommandClient) -> int:
        job_id = await _job_id(client, job)
        return await client.append(
            job_id, word, task_name=task, metadata=kept, reason=reason, actor=user()
        )

    revision = asked(address, ask)
    print_json({"revision": revision}) if as_json else typer.echo(revision)


async def _job_id(client: AsyncClient, given: str) -> str:
    """The id of a job that is given by it, or by its kit and name."""
    kit, slash, name = given.partition("/")
    if not slash:
        return given
    if not kit.isdecimal() or not int(kit):
        stop(f"JOB: {given!r}: give the job's id, or its kit and name such as 7/doe", USAGE)
    found = await client.kit(int(kit))
    try:
        return found.job(name).job_id
    except KeyError:
        known = ", ".join(each.name for each in found.jobs)
        stop(f"JOB: kit {kit} has no job {name!r}; it has {known or 'none'}", USAGE)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}", parse_float=number_of)
    except ValueError as error:
        stop(f"--metadata: no JSON: {error}", USAGE)
    if not isinstance(value, dict):
        stop('--metadata: give a JSON object, such as {"point": 3}', USAGE)
    return value
