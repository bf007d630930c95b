"""create, append: kits whose work is done elsewhere, and what their owners report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vistaflow.aio.client import AsyncClient
from vistaflow.cli.arguments import labels_of, number_of, statuses_of, types_of
from vistaflow.cli.connection import CommandClient, answer_of
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
    kit = answer_of(
        address,
        lambda client: client.create_kit(name, types, project=project, labels=labels, actor=user()),
    )
    if quiet:
        typer.echo(kit.kit_id)
    elif as_json:
        print_json(kit)
    else:
        console.print(tree(kit))


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
    values = _object(metadata)

    async def ask(client: CommandClient) -> int:
        job_id = await _job_id(client, job)
        return await client.append(
            job_id, word, task_name=task, metadata=values, reason=reason, actor=user()
        )

    revision = answer_of(address, ask)
    print_json({"revision": revision}) if as_json else typer.echo(revision)


async def _job_id(client: AsyncClient, text: str) -> str:
    """The id of a job, from the id itself or from its kit and name."""
    kit, slash, name = text.partition("/")
    if not slash:
        return text
    if not kit.isdecimal() or not int(kit):
        stop(f"JOB: {text!r}: give the job's id, or its kit and name such as 7/doe", USAGE)
    kit_of_job = await client.kit(int(kit))
    try:
        return kit_of_job.job(name).job_id
    except KeyError:
        names = ", ".join(job.name for job in kit_of_job.jobs)
        stop(f"JOB: kit {kit} has no job {name!r}; it has {names or 'none'}", USAGE)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}", parse_float=number_of)
    except ValueError as error:
        stop(f"--metadata: no JSON: {error}", USAGE)
    if not isinstance(value, dict):
        stop('--metadata: give a JSON object, such as {"point": 3}', USAGE)
    return value
